"""What could spoil the end of a run, looked to before: room on the disk, set aside before the first step, and weights
that are numbers.

Files in OUT.unfinished take the room: for the model and what stands beside it, let go right before they are written,
and for a last checkpoint, let go when it is wanted. Where the system cannot set room aside (os.posix_fallocate), free
space is all that was looked at.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from shared.console import readable_bytes, say
from shared.errors import ModelError
from shared.files.fs import remove
from tu_train.model.sharded import here
from tu_train.ranks import ALONE, FULL, Ranks

RESERVED, BESIDE, FOR_CHECKPOINT = "reserved", "reserved-beside", "reserved-checkpoint"
SMALL, LINE = 1 << 19, 500
"""bytes for what stands beside weights (card, picture, headers), and for the log, a step"""


class Room:
    """Bytes of the disk, taken in `folder` until they are wanted, or the block ends; what a killed run had taken is let
    go of first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Room:
        self.release()
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def take(self, model_bytes: int, steps: int, model: torch.nn.Module) -> None:
        """Raises OSError naming the file where there is no room for the model."""
        folder = self.folder
        _take(folder / RESERVED, model_bytes)
        _take(folder / BESIDE, SMALL + LINE * steps)
        checkpoint = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad) + (SMALL >> 3)
        try:
            _take(folder / FOR_CHECKPOINT, checkpoint)
        except OSError as error:
            if error.errno not in FULL:
                raise
            say(f"{folder}: no room for a checkpoint beside the model ({readable_bytes(checkpoint)} more); should the model not be "
                "written in the end, training would be lost")  # fmt: skip

    def for_model(self) -> None:
        for name in (RESERVED, BESIDE):
            remove(self.folder / name)

    def release(self) -> None:
        """All of it."""
        for name in (RESERVED, BESIDE, FOR_CHECKPOINT):
            remove(self.folder / name)


def _take(path: Path, size: int) -> None:
    if not hasattr(os, "posix_fallocate"):
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        path.unlink()
        if error.errno in FULL:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from None
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def require_finite_weights(
    model: torch.nn.Module, state: Mapping[str, Tensor], dtype: torch.dtype | None = None, ranks: Ranks = ALONE
) -> None:  # fmt: skip
    """Raises ModelError naming the first parameter, or number of the method, that is not finite; with `dtype`, also one
    beyond it. Of several ranks each looks at its shards, and all raise the same."""
    with torch.no_grad():
        told = next(filter(None, ranks.gather(_not_finite(model, state, dtype))), None)
    if told:
        raise ModelError(told)


def _not_finite(model: torch.nn.Module, state: Mapping[str, Tensor], dtype: torch.dtype | None) -> str | None:
    most = torch.finfo(dtype).max if dtype else None
    for name, parameter in model.named_parameters():
        value = here(parameter)
        if not torch.isfinite(value).all():
            return (f"parameter {name} is not finite after the last update, so no model was written; lower learning_rate or "
                    "weight_decay, or train in float32")  # fmt: skip
        if most is not None and value.numel() and value.abs().max() > most:
            return f"parameter {name} has numbers beyond {str(dtype).removeprefix('torch.')}; give --set save_dtype=float32"
    for name, value in state.items():
        if not torch.isfinite(value).all():
            return (f"the method's {name} is not finite after the last update, so no model was written; "
                    "choose smaller options of the method")  # fmt: skip
    return None
