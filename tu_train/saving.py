"""When the loop saves, and where a run goes on: OUT.unfinished, until OUT is there."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from shared.config import as_dict, writable
from shared.console import say
from shared.errors import ConfigError, StoreError
from shared.fs import fsync_folder, read_json
from shared.lock import locked
from shared.storage import open_place
from tu_train.checkpoint import capture, check_same, has_checkpoint, latest_snapshot, not_written, restore, save_snapshot
from tu_train.config import LoopConfig
from tu_train.logs import Log, cut_log
from tu_train.methods import State
from tu_train.stop import EXIT_SAVED, Stopping

FREE = ("out", "resume", "save_every", "keep_checkpoints", "device", "trackers", "whole_words")
"""settings that may differ on resume: they change no result, or (whole_words) the tokens' own description, which is compared, says it"""
BY_CONTENT = ("model", "scores", "retain_scores", "retain_outside_top_tokens")
"""settings that name what is compared by its fingerprint, and what is measured on it"""
UNFINISHED = ".unfinished"
LONGEST_NAME, LONGEST_PATH = 255, 3800
"""bytes; the system's limits, of a path less what stands below the folder"""
LOG, RECORD = "log.jsonl", "training.json"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def unfinished(out: Path) -> Path:
    out = out if out.name not in ("", "..") else out.resolve()  # --resume of a finished run from inside its folder
    return out.with_name(out.name + UNFINISHED)


def check_name(out: str, suffix: str = "", *, flag: str = "--out") -> None:
    """Refuses a name that cannot be written down, or under which files could not be made (`suffix`: of what stands beside it)."""
    length = len(os.fsencode(Path(writable(out, flag)).name + suffix))
    if length > LONGEST_NAME:
        beside = f" ({suffix} is put beside it)" if suffix else ""
        raise ConfigError(f"{flag} {out[:40]}...: its name is {length - len(suffix)} bytes long, expected at most "
                          f"{LONGEST_NAME - len(suffix)}{beside}")  # fmt: skip
    if len(os.fsencode(str(Path(out).absolute()))) > LONGEST_PATH:
        raise ConfigError(f"{flag} {out[:40]}...: the whole path is longer than {LONGEST_PATH} bytes; choose a shorter one")


def finished(config: LoopConfig) -> bool:
    """True for --resume of a run whose output folder is there: it was killed after its end. What it left beside it is removed.

    Raises ConfigError when the folder is that of a run with other settings.
    """
    out = Path(config.out)
    if not config.resume or not (out / RECORD).is_file():
        return False
    check_same({"settings": read_json(out / RECORD)["settings"]}, {"settings": as_dict(config)}, FREE)
    say(f"{out}: the run is finished, there is nothing to resume")
    if unfinished(out).exists():
        with locked(open_place(unfinished(out))):
            shutil.rmtree(unfinished(out))
    return True


def check_unfinished(config: LoopConfig) -> None:
    """Refuses to write over a run that could be resumed, and to resume where there is none."""
    folder = unfinished(Path(config.out))
    if folder.exists() and not config.resume:
        raise StoreError(f"{folder}: an unfinished run; add --resume to go on with it, or delete the folder to start anew")
    if config.resume and not folder.exists():
        raise StoreError(f"{folder}: no unfinished run to resume; leave out --resume")


@contextmanager
def working_folder(out: Path) -> Iterator[Path]:
    """OUT.unfinished, of one process at a time; removed when the block is done, or failed before there was anything to resume from.

    Raises StoreError for a full disk, whatever was being written, saying whether there is a checkpoint to go on from.
    """
    folder = unfinished(out)
    folder.mkdir(parents=True, exist_ok=True)
    fsync_folder(folder.parent)
    with locked(open_place(folder)):
        try:
            yield folder
        except BaseException as error:
            full = isinstance(error, SafetensorError) or (isinstance(error, OSError) and error.errno in FULL)
            told = not_written(Path(getattr(error, "filename", None) or out), error, folder) if full else None
            if not has_checkpoint(folder):
                shutil.rmtree(folder)
            if told:
                raise told from None
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
            check_same(snapshot.about, self.about, FREE + BY_CONTENT)
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
