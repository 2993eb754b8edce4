"""A suite of tu-eval at steps of training, and the best model so far beside the last.

The model is written as it would be at the end, into OUT.unfinished, and measured there by a command in a process of its
own: training knows nothing of the evaluator, and what is measured is what would be handed on, with its dtype and with
adapters merged in. Cost at each evaluation: the writing, the start of a process, and on the device a second copy of the
model. A run that is resumed evaluates the steps after its checkpoint again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shared.better import lower_is_better
from shared.console import say
from shared.data.layout import LAYOUT_FIELDS
from shared.errors import ConfigError, nearest
from shared.files.fs import fsync_folder, read_json, require_fresh, write_json
from shared.process import run_command
from tu_train.config import UnlearnConfig

BEST, SUMMARY = "-best", "summary.json"
SuiteMetrics = Mapping[str, float | None]
Measure = Callable[[str, Path], SuiteMetrics]
"""(model, a folder that is not there yet) -> metric -> its value, None where it could not be had"""


def best_of(out: Path) -> Path:
    """Where the best model is kept: beside OUT."""
    return out.with_name(out.name + BEST)


def by_command(config: UnlearnConfig) -> Measure:
    """`tu-eval run` of `--eval-suite`, in a process of its own. Raises UserError with the command's own line."""
    layout = {name: value for name in LAYOUT_FIELDS if (value := getattr(config, name)) is not None}
    fixed = {"suite": config.eval_suite, "generate": config.eval_generate, "device": config.device, **layout}
    limit = {} if config.eval_limit is None else {"limit": config.eval_limit}

    def measure(model: str, out: Path) -> SuiteMetrics:
        run_command("tu-eval run", {**fixed, **limit, "model": model, "out": str(out)}, what=f"--eval-suite {config.eval_suite}")
        return read_json(out / SUMMARY)["metrics"]

    return measure


class OnTheWay:
    """What `train` asks after each step."""

    def __init__(self, config: UnlearnConfig, work: Path, write: Callable[[Path, int], Any], measure: Measure):
        """`work`: OUT.unfinished; `write(folder, steps)`: the model as it is now."""
        self.config, self.write, self.measure = config, write, measure
        self.folder = work / "on_the_way"
        self.best = self.folder / best_of(Path(config.out)).name

    def begin(self, first: int) -> None:
        """Measures the model that training begins with, so that what cannot work is refused before the first step.

        `first`: steps that are done already. Raises UserError: a suite or metric that is not known, a place for the
        best model that is taken."""
        self.folder.mkdir(exist_ok=True)
        _remove(self._results, self._model)
        if self.config.keep_best is not None and not self.config.resume:
            require_fresh(best_of(Path(self.config.out)), what="the best model (--keep-best)")
        if first:
            return
        metrics = self.measure(self.config.model, self._results)
        _remove(self._results)
        if (name := self.config.keep_best) is not None:
            held = [metric for metric, value in metrics.items() if value is not None]
            if metrics.get(name) is None:
                why = "has no value on this suite, evaluated so" if name in metrics else f"is no metric of it{nearest(name, held)}"
                raise ConfigError(f"--keep-best {name}: {why} ({self.config.eval_suite}; --set eval_generate=true also writes answers)")
            say(f"before the first step: {name} {metrics[name]:.4g}")

    def after(self, steps: int, entry: dict[str, Any]) -> None:
        """Adds `suite_…` to the entry of the step where it is time, and keeps the model where it is the best so far."""
        if steps % self.config.eval_every:
            return
        _remove(self._results, self._model)
        self.write(self._model, steps)
        metrics = self.measure(str(self._model), self._results)
        entry.update({f"suite_{name}": value for name, value in metrics.items() if value is not None})
        if (name := self.config.keep_best) is not None and (value := metrics.get(name)) is not None:
            known = self.kept()
            if known is None or (value != known["value"] and (value < known["value"]) is lower_is_better(name)):
                _remove(self.best)
                os.rename(self._model, self.best)
                write_json(self.folder / "best.json", {"metric": name, "value": value, "steps": steps})
        _remove(self._results, self._model)

    def kept(self) -> dict[str, Any] | None:
        """Metric, value and steps of the best model so far."""
        about = self.folder / "best.json"
        if not self.best.is_dir() or not about.is_file():
            return None
        found = read_json(about)
        return found if found["metric"] == self.config.keep_best else None

    def publish(self) -> Path | None:
        """Puts the best model beside OUT, in one step; None where no step was evaluated. A folder that is there already
        is the one that this run put there before it was killed."""
        found, out = self.kept(), best_of(Path(self.config.out))
        if found is None:
            return out if self.config.keep_best is not None and out.is_dir() else None
        if not out.exists():
            os.rename(self.best, out)
            fsync_folder(out.parent)
            say(f"{out}: the best model, {found['metric']} {found['value']:.4g} after {found['steps']} steps")
        return out

    @property
    def _model(self) -> Path:
        return self.folder / "model"

    @property
    def _results(self) -> Path:
        return self.folder / "results"


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(folder.with_name(f"{folder.name}.unfinished"), ignore_errors=True)
