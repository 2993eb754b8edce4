"""A suite of tu-eval on the way, and the best model of a run.

At an evaluation the model is written as the output would be, and `tu-eval run` measures it, in a process of its own: no
package imports another, and what is measured is what could be kept. Its numbers go into the log as suite_NAME. Where
--keep-best names one of them, the best model so far is OUT.unfinished/best-000120, and in the end OUT/best.

Which one that is follows from the log alone, so a resumed run keeps what an undisturbed one keeps. A run that is told
to stop meanwhile ends the measurement and saves; going on, it begins with that measurement.

Cost: each time a model written and read again, its memory a second time, and the forward passes of the suite.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from shared.better import better, is_better
from shared.console import number_of, say
from shared.data.layout import LAYOUT_FIELDS
from shared.errors import ConfigError, StoreError, UserError, nearest
from shared.files.fs import atomic_folder, read_object, write_json, write_text
from shared.lm.finished import output_record
from shared.lm.locate import locate
from shared.lm.models import choose_dtype
from shared.lm.saved import save_model
from shared.process import resolved, run_command
from shared.records import TRAINING, TrainingRecord
from shared.study import MEASURES
from tu_train.config import LoopConfig, UnlearnConfig
from tu_train.load import Loaded, copied_on_first
from tu_train.model.lora import export_lora
from tu_train.plan import Plan
from tu_train.ranks import Ranks
from tu_train.saving.checkpoint import newest_step, not_written
from tu_train.saving.output import output_dtype
from tu_train.saving.record import changes_nothing
from tu_train.saving.working_folder import LOG
from tu_train.stopping.evaluating import Evaluation
from tu_train.stopping.interrupts import EXIT_SAVED, Stopping

NAMED = "suite_"
"""before the suite's own name of a number, in the log"""
BEST, AT_WORK, CHOICE = "best-", "suite-", "best.json"
"""in OUT.unfinished: the best model and its step, what a measurement needs, and what is chosen by"""
Entry = dict[str, Any]


def check_suite(config: LoopConfig) -> None:
    """Raises ConfigError for a setting of the suite that tu-eval run does not know, before any work."""
    if isinstance(config, UnlearnConfig) and config.eval_suite is not None:
        given = {**_settings(config), "model": "-", "out": "-"}
        resolved(MEASURES["eval"][1], given, what=f"--eval-suite {config.eval_suite}, --set eval_options")


def _settings(config: UnlearnConfig) -> dict[str, Any]:
    """Of tu-eval run: forward passes alone, laid out as training was told to, unless eval_options say otherwise."""
    ours = {name: value for name in (*LAYOUT_FIELDS, "device") if (value := getattr(config, name)) is not None}
    return {"generate": False, "batch_tokens": config.batch_tokens, **ours, **(config.eval_options or {}), "suite": config.eval_suite}


def with_suite(plan: Plan, loaded: Loaded, work: Path, ranks: Ranks, stopping: Stopping) -> Evaluation | None:
    """The run's evaluation, with the suite beside it where one was asked for. `work`: OUT.unfinished."""
    config = plan.config
    if plan.evaluation is None or not isinstance(config, UnlearnConfig) or config.eval_suite is None:
        return plan.evaluation
    return replace(plan.evaluation, beside=OnTheWay(plan, config, loaded, work, ranks, stopping))


@dataclass(frozen=True)
class OnTheWay:
    plan: Plan
    config: UnlearnConfig
    loaded: Loaded
    work: Path
    ranks: Ranks
    stopping: Stopping

    def begin(self, done: int) -> None:
        """Measures what training starts from, which shows whether the suite can be measured at all, and whether it has
        the number that the best model is chosen by; of a run that goes on, what is still to be measured. Raises
        ConfigError, and what tu-eval run says."""
        if not done:
            self.ranks.first(self._start)
            return
        owed = self.ranks.gather(self.ranks.first(lambda: self._tidied(done)))[0]
        if owed is not None:
            before = dict(owed)
            self.after(done, owed, ends=False)
            if owed != before:
                self.ranks.first(lambda: self._put(owed))
            elif self.ranks.any(self.stopping.asked):  # the checkpoint of `done` is there; a step more would lose what is owed
                if self.stopping.error is not None:
                    raise StoreError(f"{self.stopping.error}; mend that, then the same command with --resume goes on")
                sys.exit(EXIT_SAVED)

    def after(self, done: int, entry: Entry, *, ends: bool) -> None:
        model, wrapper = self._copy()
        found = self.ranks.gather(self.ranks.first(lambda: self._measured(done, model, wrapper, ends)))[0]
        entry.update(found or {})

    def _start(self) -> None:
        _remove(self.work, [])
        summary = self._ask(self.config.model, say)
        numbers, metric = _numbers(summary), self.config.keep_best
        if metric is not None:
            if metric not in summary["metrics"]:
                known = nearest(metric, sorted(numbers))
                raise ConfigError(f"--keep-best {metric}: no number of --eval-suite {self.config.eval_suite}{known}")
            if metric not in numbers:
                why = summary["reasons"].get(metric, "no number came out")
                raise ConfigError(f"--keep-best {metric}: {why}; say it to the suite with --set 'eval_options={{NAME = VALUE}}', or "
                                  f"choose one of {', '.join(sorted(numbers))}")  # fmt: skip
            write_json(self.work / CHOICE, {"metric": metric, "better": better(metric, summary["rows"], summary["suite"])})
        shown = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        say(f"{self.config.eval_suite} before training: {shown}")

    def _tidied(self, done: int) -> Entry | None:
        """-> the last entry of the log, where a stop left it without the suite's numbers. Models of steps that are yet
        to come are removed."""
        _remove(self.work, [step for step, _ in _bests(self.work) if step <= done])
        entries = _entries(self.work)
        due = done % self.config.eval_every == 0 and entries and not any(name.startswith(NAMED) for name in entries[-1])
        return entries[-1] if due else None

    def _put(self, entry: Entry) -> None:
        entries = [*_entries(self.work)[:-1], entry]
        write_text(self.work / LOG, "".join(json.dumps(e, allow_nan=False) + "\n" for e in entries))

    def _copy(self) -> tuple[Any, Any]:
        """The model to be written, and peft's wrapper: of adapters and of several ranks a copy, as merging changes
        them."""
        if self.ranks.count == 1 and self.loaded.wrapper is None:
            return self.loaded.packed.model, None
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            return copied_on_first(self.plan, self.loaded, self.ranks)

    def _measured(self, done: int, model: Any, wrapper: Any, ends: bool) -> Entry:
        """-> the suite's numbers; none where the run was told to stop, or something failed that need not cost what was
        trained."""
        if self.stopping.asked and not ends:
            return {}
        folder = Path(tempfile.mkdtemp(prefix=AT_WORK, dir=self.work))
        try:
            self._write(folder / "model", model, wrapper)
            found = {NAMED + name: value for name, value in _numbers(self._ask(str(folder / "model"), ends=ends)).items()}
            if self.config.keep_best is not None:
                self._keep(done, found, folder / "model")
            return found
        except (UserError, OSError, SafetensorError) as caught:
            if self.stopping.asked and not ends:
                return {}
            error = caught if isinstance(caught, UserError) else not_written(folder, caught, self.work)
            if ends:
                say(f"the last model was not measured: {error}")
            else:
                self.stopping.fail(error)
            return {}
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _write(self, folder: Path, model: Any, wrapper: Any) -> None:
        source = locate(self.config.model)
        folder.mkdir()
        if wrapper:
            model = export_lora(wrapper, folder, unlearned=True)
        own = model.config.dtype
        try:
            save_model(model, self.plan.tokenizer, folder, source=source, dtype=choose_dtype(output_dtype(self.config, source)))
        finally:
            model.config.dtype = own  # training goes on

    def _ask(self, model: str, tell: Any = lambda line: None, *, ends: bool = False) -> dict[str, Any]:
        """-> summary.json of the suite on that model."""

        @contextmanager
        def ending(child: subprocess.Popen) -> Iterator[None]:
            try:
                with self.stopping.ending((lambda: None) if ends else child.terminate):
                    yield
            finally:
                if child.poll() is None:
                    child.terminate()
                    child.wait()

        with tempfile.TemporaryDirectory(prefix=AT_WORK, dir=self.work) as folder:
            out = Path(folder) / "results"
            settings = {**_settings(self.config), "model": model, "out": str(out)}
            run_command("tu-eval run", settings, what=f"--eval-suite {self.config.eval_suite}", tell=tell, ending=ending)
            return read_object(out / "summary.json")

    def _keep(self, done: int, found: Mapping[str, float], model: Path) -> None:
        """The model, where it is the best so far. That of the newest checkpoint stays beside it, for a run that goes on
        from there."""
        choice, entries = read_object(self.work / CHOICE), _entries(self.work)
        now = {"step": done - 1, **found}
        if _best([*entries, now], choice) != done:
            return
        path = self.work / f"{BEST}{done:06d}"
        if path.exists():
            shutil.rmtree(path)
        write_json(model / TRAINING, self._record(done, found[NAMED + choice["metric"]], model).to_json())
        with atomic_folder(path) as temporary:
            for part in model.iterdir():
                os.replace(part, temporary / part.name)
        resumed = newest_step(self.work)
        _remove(self.work, [done, _best([e for e in entries if e["step"] < resumed], choice)])

    def _record(self, done: int, value: float, model: Path) -> TrainingRecord:
        """Of the run until then."""
        plan, config = self.plan, self.config
        best = {"metric": config.keep_best, "value": value}
        about = replace(plan.about, more={**plan.about.more, "best": best})
        record = TrainingRecord(**vars(about), counts={**plan.rows, "steps": done}, output_dtype=output_dtype(config, locate(config.model)),
                                torch=torch.__version__, changes_nothing=tuple(sorted(changes_nothing(config))))  # fmt: skip
        return replace(record, **output_record(model))


def kept_best(work: Path) -> Path | None:
    """The best model of the run, as the log has it; None where none was to be kept."""
    if not (work / CHOICE).is_file():
        return None
    choice = read_object(work / CHOICE)
    step = _best(_entries(work), choice)
    if step is None:
        say("no best model is kept: training ended before the first evaluation")
        return None
    path = dict(_bests(work)).get(step)
    said = f"best {choice['metric']} after {number_of(step, 'step')}"
    say(f"{said}: its model is the folder best in that of the last one" if path else f"{said}: its model is no longer there, none is kept")
    return path


def _numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in summary["metrics"].items() if value is not None and math.isfinite(value)}


def _entries(work: Path) -> list[Entry]:
    path = work / LOG
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def _best(entries: Sequence[Entry], choice: Mapping[str, Any]) -> int | None:
    """Steps done at the best evaluation, the first of equal ones."""
    name, found = NAMED + choice["metric"], None
    for entry in entries:
        if name in entry and (found is None or is_better(entry[name], found[1], choice["better"])):
            found = entry["step"] + 1, entry[name]
    return None if found is None else found[0]


def _bests(work: Path) -> list[tuple[int, Path]]:
    return [(int(path.name.removeprefix(BEST)), path) for path in work.glob(f"{BEST}[0-9]*") if path.name.removeprefix(BEST).isdigit()]


def _remove(work: Path, wanted: Sequence[int | None]) -> None:
    """Best models of other steps than those wanted, and what a killed run was at."""
    litter = [path for pattern in (f"{AT_WORK}*", f".*{BEST}*") for path in work.glob(pattern) if path.is_dir()]
    for path in [*(path for step, path in _bests(work) if step not in wanted), *litter]:
        shutil.rmtree(path, ignore_errors=True)
