"""`tu-train many STUDY.toml --out DIR`: every combination of a study, one run after another.

A study holds the fields of `tu-train run` but out and resume. A field with a list takes each of its values in turn:

    model = "target"
    scores = "scores"
    retain = "tofu:retain99"
    method = ["npo", "simnpo"]
    tokens = ["all", "hard"]
    keep = [0.1, 0.3]
    seed = [0, 1, 2]
    train_only = [["*.mlp.*"], ["*.mlp.*", "*.self_attn.*"]]   # a field that is a list by itself: a list of lists
    [options]
    beta = [0.05, 0.1]

Order: that of nested loops, the first field of the file outermost. What a combination has no use for is left out of it:
a token setting that its token mode does not know (keep with tokens = "all"), an option that its method does not have, a
LoRA setting where lora is 0. Combinations that become equal are one run (here `all` is run once for each method, seed,
train_only and beta). A value that no combination uses is an error, and so is any combination that `tu-train run` would
refuse: both before the first run.

What the runs start from can be made first: [[steps]] of the file (shared/study.py), each in a process of its own.
Finished ones are skipped, as the same command on the same folder always is. A step that fails ends the study.

A run is what it is made from: its resolved settings but those that change no result, with the content of model, stores,
data and files in place of their names. The hash of that ends the name of its folder, so a run is finished whatever the
study is called or lists besides it, and an edited study trains anew only what changed. DIR/index.json is written after
each run, and before the first:

    {"format": 1, "runs": [{"name", "folder" (inside DIR), "settings", "status": waiting | finished | failed, "error":
    text or null}]}

A run is finished when its folder is complete by its own training.json; whatever else has its name is not.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from shared.console import number_of, say
from shared.errors import StoreError, UserError
from shared.files.fs import write_json
from shared.files.lock import locked
from shared.files.storage import open_place
from shared.records import INDEX, Index, IndexedRun
from shared.secret import without_secrets
from shared.study import Study, load_study
from tu_train.config import UnlearnConfig
from tu_train.many.content import content_of
from tu_train.many.steps import check_study, run_step
from tu_train.many.study import read_study
from tu_train.run import run_unlearn
from tu_train.saving.record import complete, recorded_settings
from tu_train.saving.working_folder import UNFINISHED, tidy, unfinished

LONGEST = 150
"""characters of a run's name in that of its folder; the hash behind it tells runs apart"""


@dataclass
class Run:
    name: str
    """what varies in the study, readable"""
    config: UnlearnConfig
    content: str
    """hash of what it is made from"""
    earlier: str
    """the same as earlier versions had it"""
    status: Literal["waiting", "finished", "failed"] = "waiting"
    error: str | None = None

    @property
    def record(self) -> IndexedRun:
        settings = recorded_settings(self.config)
        return IndexedRun(name=self.name, folder=Path(self.config.out).name, settings=settings, status=self.status, error=self.error)


def run_many(path: Path, out: Path, sets: Sequence[str] = ()) -> list[Run]:
    """Makes the steps of a study, then runs what is not finished yet; a failed run is noted and the next one begins.
    `sets`: NAME=VALUE in place of what the file says. Raises UserError for a study that cannot be run, and for a step
    that fails."""
    study = load_study(path, out, sets)
    check_study(study)
    if study.steps:
        list(read_study(path, study.runs))  # what of the runs can be refused before their model is there
        with _folder(out):
            for number, step in enumerate(study.steps, 1):
                say(f"step {number} of {len(study.steps)}: {step.name} ({step.command})")
                run_step(study, step)
    return _run_all(_planned(study, out), out)


def _run_all(runs: list[Run], out: Path) -> list[Run]:
    with _folder(out):
        waiting = [run for run in runs if run.status == "waiting"]
        done = [run for run in runs if run.status == "finished"]
        say(f"{number_of(len(runs), 'run')}, {len(done)} of them finished")
        for run in done:
            tidy(Path(run.config.out))
        _write_index(out, runs)
        for number, run in enumerate(waiting, start=1):
            say(f"run {number} of {len(waiting)}: {run.name}")
            _run(run)
            _write_index(out, runs)
    return runs


@contextmanager
def _folder(out: Path) -> Iterator[None]:
    """Of all runs, ours alone for as long."""
    if out.exists() and not out.is_dir():
        raise StoreError(f"{out}: is a file; --out wants a folder for the runs")
    out.mkdir(parents=True, exist_ok=True)
    with locked(open_place(out)):
        yield


def _run(run: Run) -> None:
    try:
        run_unlearn(replace(run.config, resume=unfinished(Path(run.config.out)).exists()))
    except Exception as error:  # whatever it is, a night's other runs do not depend on it
        if not isinstance(error, UserError):
            traceback.print_exc()
        said = f"{'' if isinstance(error, UserError) else type(error).__name__ + ': '}{error}"
        run.status, run.error = "failed", without_secrets(" ".join(said.split()))
        say(f"{run.name} failed: {run.error}")
    else:
        run.status = "finished"


def _write_index(out: Path, runs: list[Run]) -> None:
    write_json(out / INDEX, Index(tuple(run.record for run in runs)).to_json())


def plan(path: Path, out: Path) -> list[Run]:
    """All runs of a study in order, those whose folders are there as finished. Writes nothing."""
    return _planned(load_study(path, out), out)


def _planned(study: Study, out: Path) -> list[Run]:
    runs: dict[str, Run] = {}
    contents: dict[tuple[str, ...], str] = {}
    for name, config in read_study(study.path, study.runs):
        content, earlier = content_of(config, contents)
        if content not in runs:
            runs[content] = _placed(Run(name, config, content, earlier), out)
    return list(runs.values())


def _placed(run: Run, out: Path) -> Run:
    """With its folder: that of the finished run, or of one that was begun, wherever a study put it, or a new one."""
    own = out / f"{run.name[:LONGEST]}-{run.content}"
    begun = [p.with_suffix("") for p in _folders(run, out, UNFINISHED)]
    folder, status, error = (*begun, own)[0], "waiting", None
    for found in _folders(run, out):
        try:
            record = complete(found)
        except StoreError as damaged:
            folder, status, error = found, "failed", f"{damaged}; delete {found} to train it again"
            continue
        if record is not None:
            folder, status, error = found, "finished", None
            break
    return replace(run, config=replace(run.config, out=str(folder)), status=status, error=error)


def _folders(run: Run, out: Path, ending: str = "") -> list[Path]:
    """Those that are named by the run's content; a killed run's half-written folder begins with a dot."""
    return [path for content in (run.content, run.earlier) for path in sorted(out.glob(f"[!.]*-{content}{ending}"))]
