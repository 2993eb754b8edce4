"""What a run says of itself, in training.json, in checkpoints and to trackers: the same whether it was resumed or not,
without credentials. And whether a folder is that of a finished run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from shared.config import as_dict
from shared.errors import ModelError, StoreError
from shared.lm.finished import check_output, read_record
from shared.lm.locate import locate
from shared.records import TRAINING, TrainingRecord
from shared.secret import without_secrets_in
from shared.settings import harmless, named_by_content
from tu_train.config import LoopConfig


def as_begun(config: LoopConfig) -> LoopConfig:
    """As an undisturbed run has it: going on is no part of the result, and the configuration can be given back."""
    return replace(config, resume=False)


def recorded_settings(config: LoopConfig) -> dict[str, Any]:
    return without_secrets_in(as_dict(as_begun(config)))


def changes_nothing(config: LoopConfig) -> frozenset[str]:
    """Settings in which two runs of one recipe may differ: they change no result, or name what a fingerprint stands
    for."""
    return harmless(config) | named_by_content(config)


def complete(out: Path) -> TrainingRecord | None:
    """The record of a finished run in `out`; None where there is none.

    Raises StoreError for a folder that has a record, but not the model that it speaks of: it is no finished run, and
    nothing that belongs to the run may be removed for it.
    """
    if out.is_symlink() or not out.is_dir():
        return None
    try:
        found = read_record(out)
        if found is None:
            return None
        if not isinstance(found.get("settings"), dict):
            raise ModelError(f"model {out}: {TRAINING} names no settings")
        record = TrainingRecord.from_json(found)
        locate(str(out.absolute()))
        check_output(out)
    except (ModelError, StoreError) as error:
        raise StoreError(f"{out}: holds {TRAINING}, but not the model of a finished run: {error}") from None
    return record
