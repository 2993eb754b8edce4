"""When the loop saves, and where a run goes on: OUT.unfinished, until OUT is there."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.console import say
from shared.errors import StoreError
from tu_train.checkpoint import capture, check_same, latest_snapshot, restore, save_snapshot
from tu_train.config import LoopConfig
from tu_train.logs import Log, cut_log
from tu_train.methods import State
from tu_train.stop import EXIT_SAVED, Stopping

OVERRIDABLE = ("out", "resume", "save_every", "keep_checkpoints", "device", "trackers", "model", "scores", "retain_scores")
"""settings that may differ on resume: they change no result, or are names of what is compared by content"""
LOG = "log.jsonl"


def unfinished(out: Path) -> Path:
    return out.with_name(out.name + ".unfinished")


def check_unfinished(config: LoopConfig) -> None:
    """Refuses to write over a run that could be resumed, and to resume where there is none."""
    folder = unfinished(Path(config.out))
    if folder.exists() and not config.resume:
        raise StoreError(f"{folder}: an unfinished run; add --resume to go on with it, or delete the folder to start anew")
    if config.resume and not folder.exists():
        raise StoreError(f"{folder}: no unfinished run to resume; leave out --resume")


@contextmanager
def working_folder(out: Path) -> Iterator[Path]:
    """OUT.unfinished; removed when the block is done, or failed before there was anything to resume from."""
    folder = unfinished(out)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except BaseException:
        if not any(folder.glob("checkpoint-*")):
            shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


class Checkpoints:
    """Saves every `save_every` steps, and when the process is told to stop."""

    def __init__(self, folder: Path, about: dict[str, Any], config: LoopConfig, stop: Stopping):
        """`about`: settings and fingerprints, compared on resume."""
        self.folder, self.about, self.config, self.stop = folder, about, config, stop
        self.saved = -1

    def restore(self, model: Any, optimizer: Any, schedule: Any, state: State) -> int:
        """-> optimizer steps that are done already. Raises ConfigError naming what differs."""
        snapshot = latest_snapshot(self.folder) if self.config.resume else None
        done = 0
        if snapshot is not None:
            check_same(snapshot.about, self.about, OVERRIDABLE)
            restore(snapshot, model, optimizer, schedule, state)
            done = self.saved = snapshot.step
            say(f"resumed after {done} steps")
        cut_log(self.folder / LOG, done)
        return done

    def after(self, done: int, model: Any, optimizer: Any, schedule: Any, state: State, log: Log) -> None:
        """Raises SystemExit with EXIT_SAVED where the run was told to stop."""
        due = self.config.save_every and done % self.config.save_every == 0
        if (due or self.stop.asked) and done != self.saved:
            log.sync()
            save_snapshot(self.folder, capture(model, optimizer, schedule, state, done, self.about), self.config.keep_checkpoints)
            self.saved = done
        if self.stop.asked:
            say(f"saved after {done} steps; the same command with --resume goes on")
            sys.exit(EXIT_SAVED)
