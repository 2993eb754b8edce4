"""What a run says of itself, in training.json, in checkpoints and to trackers: the same whether it was resumed or not,
without credentials. And whether a folder is that of a finished run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from shared.config import as_dict
from shared.errors import ModelError, StoreError
from shared.lm.finished import RECORD, check_output, read_record
from shared.lm.locate import locate
from shared.secret import without_secrets_in
from tu_train.config import LoopConfig


def as_begun(config: LoopConfig) -> LoopConfig:
    """As an undisturbed run has it: going on is no part of the result, and the configuration can be given back."""
    return replace(config, resume=False)


def recorded_settings(config: LoopConfig) -> dict[str, Any]:
    return without_secrets_in(as_dict(as_begun(config)))


def complete(out: Path) -> dict[str, Any] | None:
    """The record of a finished run in `out`; None where there is none.

    Raises StoreError for a folder that has a record, but not the model that it speaks of: it is no finished run, and
    nothing that belongs to the run may be removed for it.
    """
    if out.is_symlink() or not out.is_dir():
        return None
    try:
        record = read_record(out)
        if record is None:
            return None
        if not isinstance(record.get("settings"), dict):
            raise ModelError(f"model {out}: {RECORD} names no settings")
        locate(str(out.absolute()))
        check_output(out)
    except (ModelError, StoreError) as error:
        raise StoreError(f"{out}: holds {RECORD}, but not the model of a finished run: {error}") from None
    return record
