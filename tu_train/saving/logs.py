"""The log of a run: a JSON object a step in log.jsonl, always, and the same numbers to trackers that were asked for.

Trackers get numbers and the run's settings only, never a text or an id of an example.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from shared.console import say
from shared.errors import ConfigError, StoreError, nearest
from shared.files.fs import write_text

if TYPE_CHECKING:
    from tu_train.config import LoopConfig

UNMOVED = 0.02
"""share of its first value by which a loss must change to have moved"""


@dataclass(frozen=True)
class Tracker:
    write: Callable[[dict[str, float], int], Any]
    """(numbers, step)"""
    close: Callable[[], Any]


def open_tensorboard(name: str, settings: Mapping[str, Any], folder: Path) -> Tracker:
    """Event files in `folder/tensorboard`."""
    package("tensorboard", extra="tensorboard")
    writer = package("torch.utils.tensorboard", extra="tensorboard").SummaryWriter(str(folder / "tensorboard"))

    def write(numbers: dict[str, float], step: int) -> None:
        for key, value in numbers.items():
            writer.add_scalar(key, value, step)

    return Tracker(write, writer.close)


def open_wandb(name: str, settings: Mapping[str, Any], folder: Path) -> Tracker:
    run = package("wandb", extra="wandb").init(project="token-unlearn", name=name, config=dict(settings), dir=str(folder))
    return Tracker(lambda numbers, step: run.log(numbers, step=step), run.finish)


def open_trackio(name: str, settings: Mapping[str, Any], folder: Path) -> Tracker:
    run = package("trackio", extra="trackio").init(project="token-unlearn", name=name, config=dict(settings))
    return Tracker(lambda numbers, step: run.log(numbers, step=step), run.finish)


TRACKERS = {"tensorboard": open_tensorboard, "wandb": open_wandb, "trackio": open_trackio}


def package(name: str, *, extra: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigError(f"tracker {extra}: the package {name} is not installed; pip install 'token-unlearn[{extra}]'") from None


def open_trackers(names: Sequence[str], *, name: str, settings: Mapping[str, Any], folder: Path) -> list[Tracker]:
    """Raises ConfigError for an unknown tracker or one whose package is missing."""
    for wanted in names:
        if wanted not in TRACKERS:
            raise ConfigError(f"tracker {wanted}: unknown{nearest(wanted, TRACKERS)}")
    return [TRACKERS[wanted](name, settings, folder) for wanted in names]


class Log:
    """`with Log(path) as log: log.write({"step": 0, "loss": 0.5})`. A written line outlives the process, a synced one
    the machine. No path: nothing is written, another process does it."""

    def __init__(self, path: Path | None, trackers: Sequence[Tracker] = ()) -> None:
        self._file = path and open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed on exit
        self._trackers = trackers

    def write(self, entry: Mapping[str, Any]) -> None:
        """`entry` has a step; what is no number stays in the file."""
        line = json.dumps(entry, allow_nan=False) + "\n"
        if self._file:
            self._file.write(line)
        numbers = {k: float(v) for k, v in entry.items() if k != "step" and isinstance(v, (int, float)) and not isinstance(v, bool)}
        for tracker in self._trackers:
            tracker.write(numbers, entry["step"])

    def sync(self) -> None:
        """Before a checkpoint is saved: no checkpoint may be ahead of the log."""
        if self._file:
            os.fsync(self._file.fileno())

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file:
            self._file.close()
        for tracker in self._trackers:
            tracker.close()


def cut_log(path: Path, done: int) -> None:
    """Keeps the lines of the first `done` steps (lines count steps from 0), so that a resumed run ends with an
    uninterrupted one's log.

    A line of an evaluation carries the number of the step it follows. A torn last line goes too. Raises StoreError for
    a line before the last that cannot be read.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    kept = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            if entry["step"] >= done:
                break
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                break
            raise StoreError(f"{path}: line {number} is damaged; delete {path.parent} to start anew") from None
        if not line.endswith(b"\n"):
            break
        kept.append(line)
    write_text(path, b"".join(kept).decode())


def say_unmoved(log: Path, config: LoopConfig) -> None:
    """A loss of hidden states that stays where it began has moved nothing, which log-likelihoods alone do not show."""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    # Of several forget corpora the first speaks for all: their losses have other sizes.
    losses = [entry["forget_loss"] for entry in entries if "forget_loss" in entry and not entry.get("corpus")]
    if len(losses) > 1 and abs(losses[-1] - losses[0]) < UNMOVED * abs(losses[0]):
        say(
            f"the forget loss went from {losses[0]:.4g} to {losses[-1]:.4g}: hardly anything has moved. The method's defaults come from "
            f"models of 7 B parameters; on this one raise --learning-rate (now {config.learning_rate:g}) or --option steering"
        )
