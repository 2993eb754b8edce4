"""When the loop saves, and where a run goes on: OUT.unfinished, until OUT is there."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from shared.config import writable
from shared.console import number_of, say
from shared.errors import ConfigError, StoreError
from shared.files.fs import fsync_folder
from shared.files.lock import locked
from shared.files.outputs import lock_beside
from shared.files.storage import open_place
from shared.records import RunRecord, TrainingRecord
from tu_train.config import LoopConfig
from tu_train.ranks import ALONE, FULL, Ranks
from tu_train.saving.checkpoint import has_checkpoint, latest_snapshot, not_written, save_snapshot
from tu_train.saving.logs import Log, cut_log
from tu_train.saving.record import changes_nothing, complete, recorded_settings
from tu_train.saving.room import Room, require_finite_weights
from tu_train.saving.same import check_same
from tu_train.saving.snapshot import Moving, Snapshot, capture, held, restore
from tu_train.stopping.interrupts import EXIT_SAVED, Stopping

TOLD = ("whole_words", "retain_outside_top_tokens")
"""what may differ on resume because another name that is compared says it: the description of the token weights, and
the fingerprint of the retain store"""
UNFINISHED = ".unfinished"
LONGEST_NAME, LONGEST_PATH = 255, 3800
"""bytes; the system's limits, of a path less what stands below the folder"""
LOG = "log.jsonl"


def unfinished(out: Path) -> Path:
    out = out if out.name not in ("", "..") else out.resolve()  # --resume of a finished run from inside its folder
    return out.with_name(out.name + UNFINISHED)


def check_name(out: str, suffix: str = "", *, flag: str = "--out") -> None:
    """Refuses a name that cannot be written down, or under which files could not be made (`suffix`: of what stands
    beside it)."""
    length = len(os.fsencode(Path(writable(out, flag)).name + suffix))
    if length > LONGEST_NAME:
        beside = f" ({suffix} is put beside it)" if suffix else ""
        raise ConfigError(f"{flag} {out[:40]}...: its name is {length - len(suffix)} bytes long, expected at most "
                          f"{LONGEST_NAME - len(suffix)}{beside}")  # fmt: skip
    if len(os.fsencode(str(Path(out).absolute()))) > LONGEST_PATH:
        raise ConfigError(f"{flag} {out[:40]}...: the whole path is longer than {LONGEST_PATH} bytes; choose a shorter one")


def finished(config: LoopConfig) -> TrainingRecord | None:
    """The record of the run, for --resume of one whose output folder is there and complete: it was killed after its
    end.

    Raises ConfigError when the folder is that of a run with other settings, StoreError when the folder is not what the
    run wrote.
    """
    out = Path(config.out)
    if not config.resume:
        return None
    try:
        record = complete(out)
    except StoreError as error:
        left = unfinished(out)
        way_on = f"move {out} away, then go on with --resume" if has_checkpoint(left) else f"move {out} away, then train again"
        raise StoreError(f"{error}; {way_on}") from None
    if record is not None:
        check_same({"settings": record.settings}, {"settings": recorded_settings(config)}, free(config))
    return record


def free(config: LoopConfig) -> frozenset[str]:
    """What may differ on resume: settings that change nothing, names of what is compared by content, and TOLD."""
    return changes_nothing(config).union(TOLD)


def nothing_to_do(config: LoopConfig, record: TrainingRecord, about: Mapping[str, Any]) -> Path:
    """The end of --resume for a finished run: what it was made from has not changed. What it left beside the folder is
    removed.

    Raises ConfigError naming what has changed since.
    """
    out = Path(config.out)
    check_same({k: v for k, v in record.to_json().items() if k in about}, about, free(config))
    say(f"{out}: the run is finished, there is nothing to resume")
    tidy(out)
    return out


def tidy(out: Path) -> None:
    """Removes what a run that was killed after its end left beside `out`."""
    folder = unfinished(out)
    if folder.is_dir() and not folder.is_symlink():
        with lock_beside(out), locked(open_place(folder)):
            shutil.rmtree(folder)


def check_unfinished(config: LoopConfig) -> None:
    """Refuses to write over a run that could be resumed, and to resume where there is none."""
    folder = unfinished(Path(config.out))
    if folder.exists() and not config.resume:
        raise StoreError(f"{folder}: an unfinished run; add --resume to go on with it, or delete the folder to start anew")
    if config.resume and not folder.exists():
        raise StoreError(f"{folder}: no unfinished run to resume; leave out --resume")


@contextmanager
def working_folder(out: Path) -> Iterator[Path]:
    """OUT.unfinished, of one process at a time; removed when the block is done, or failed before there was anything to
    resume from.

    Raises StoreError for a full disk, whatever was being written, saying whether there is a checkpoint to go on from.
    """
    folder = unfinished(out)
    new = not folder.exists()
    if not folder.is_symlink():
        folder.mkdir(parents=True, exist_ok=True)
    refuse_links(folder)
    with ExitStack() as held:
        try:
            fsync_folder(folder.parent)
            held.enter_context(locked(open_place(folder)))
        except (OSError, StoreError) as error:
            cause = error.__context__ if isinstance(error, StoreError) else error
            if isinstance(cause, OSError) and cause.errno in FULL:  # not where somebody else writes there
                if new:
                    shutil.rmtree(folder, ignore_errors=True)
                raise not_written(folder, cause, folder) from None
            raise
        try:
            yield folder
        except BaseException as error:
            full = isinstance(error, SafetensorError) or (isinstance(error, OSError) and error.errno in FULL)
            told = not_written(Path(getattr(error, "filename", None) or out), error, folder) if full else None
            if not has_checkpoint(folder):
                shutil.rmtree(folder, ignore_errors=True)
            if told:
                raise told from None
            raise
        try:
            shutil.rmtree(folder)
        except OSError as error:  # the model is there
            say(f"{folder}: cannot be removed ({error.strerror}); it is no longer wanted")


@contextmanager
def told_if_full(out: Path) -> Iterator[None]:
    """For what is written before the working folder is there. Raises StoreError for a full disk, as `working_folder`
    does."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise not_written(Path(error.filename or out), error, unfinished(out)) from None


def _ranks(count: int) -> str:
    return "one process" if count == 1 else f"{count} ranks"


def refuse_links(folder: Path) -> None:
    """Raises StoreError for a link in OUT.unfinished: a run makes none there, and writing through one would change
    files elsewhere.

    Below the folders of trackers nothing is looked at: wandb keeps links of its own.
    """
    for path in (folder, *(_own(folder) if not folder.is_symlink() else ())):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            what = "a link" if path.is_symlink() else "neither a file nor a folder"
            raise StoreError(f"{path}: is {what}, which no run makes there and which is not followed; remove it, then start again")


def _own(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        yield path
        if path.is_dir() and not path.is_symlink() and path.name != "wandb":
            yield from path.rglob("*")


class Checkpoints:
    """Saves every `save_every` steps, and when the process is told to stop; at the end where the model cannot be
    written."""

    def __init__(self, folder: Path, about: RunRecord, config: LoopConfig, stop: Stopping, room: Room, ranks: Ranks = ALONE):
        """`about`: compared on resume."""
        self.folder, self.about, self.config, self.stop, self.room, self.ranks = folder, about, config, stop, room, ranks
        self.saved = -1
        self.done = 0
        self.over = False
        """nothing is left to train"""
        self.ended: str | None = None
        """the rule that ended training early"""

    def restore(self, moving: Moving, total: int) -> int:
        """-> optimizer steps that are done already, of `total`. Raises ConfigError naming what differs."""
        ranks = self.ranks
        snapshot = ranks.together(lambda: latest_snapshot(self.folder, ranks)) if self.config.resume else None
        if snapshot is not None:
            if self.config.exact and snapshot.ranks != ranks.count:
                raise ConfigError(f"--set exact=true: the checkpoint of step {snapshot.step} was made by {_ranks(snapshot.ranks)}, this "
                                  f"is {_ranks(ranks.count)}; start as many, or leave exact out, for results that are the same but for "
                                  "rounding")  # fmt: skip
            check_same(snapshot.about.to_json(), self.about.to_json(), free(self.config))
            if snapshot.step > total:
                more = f"its checkpoint is of step {snapshot.step}, the run has {number_of(total, 'step')}"
                raise StoreError(f"{self.folder}: {more}; the checkpoint is damaged, delete it")
            restore(snapshot, moving, ranks)
            self.done = self.saved = snapshot.step
            self.over, self.ended = snapshot.over, snapshot.numbers.get("stopped_early")
            say(f"resumed after {number_of(self.done, 'step')}")
        ranks.first(lambda: cut_log(self.folder / LOG, self.done))
        return self.done

    def after(self, done: int, moving: Moving, log: Log) -> None:
        """Raises SystemExit with EXIT_SAVED where the run was told to stop, ModelError where the weights are worth no
        checkpoint."""
        self.done = done
        due, asked = self.config.save_every and done % self.config.save_every == 0, self.ranks.any(self.stop.asked)
        if (due or asked) and done != self.saved:
            require_finite_weights(moving.model, moving.state, ranks=self.ranks)
            log.sync()
            if asked:
                self.ranks.first(self.room.release)
            save_snapshot(self.folder, capture(moving, done, self.about, self.ranks), self.config.keep_checkpoints, self.ranks)
            self.saved = done
        if self.stop.error is not None:
            raise StoreError(f"{self.stop.error}; saved after {done} steps: mend that, then the same command with --resume goes on")
        if asked:
            say(f"saved after {number_of(done, 'step')}; the same command with --resume goes on")
            sys.exit(EXIT_SAVED)

    def end(self, done: int, ended: str | None) -> None:
        """Training is over; `ended`: the rule, where one ended it early."""
        self.done, self.over, self.ended = done, True, ended

    def keep(self, trained: dict[str, Tensor]) -> None:
        """The trained weights alone: what is left is to write the model. Raises StoreError where the disk does not take
        them."""
        if self.saved == self.done:
            return
        numbers = {"over": True, **({"stopped_early": self.ended} if self.ended else {})}
        snapshot = Snapshot(self.done, held(trained, self.ranks), self.about, numbers, self.ranks.count)
        save_snapshot(self.folder, snapshot, self.config.keep_checkpoints, self.ranks)
        self.saved = self.done

    def left(self) -> str:
        return f"what was trained is kept as checkpoint of step {self.done} in {self.folder}: go on with --resume"
