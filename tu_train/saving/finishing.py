"""The last write of a run: where the model cannot be written, the trained weights are kept as a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from shared.console import say
from shared.errors import StoreError, UserError
from tu_train.methods.tokens import State
from tu_train.ranks import Ended
from tu_train.saving.checkpoint import not_written
from tu_train.saving.room import Room
from tu_train.saving.working_folder import Checkpoints


@contextmanager
def kept_if_not_written(out: Path, checkpoints: Checkpoints, model: Any, state: State, room: Room) -> Iterator[None]:
    """Nothing that was trained is lost when the model cannot be written: a checkpoint says that only this is left to
    do.

    Raises StoreError saying how to go on.
    """
    ranks = checkpoints.ranks
    trained = {f"model/{name}": p for name, p in model.named_parameters() if p.requires_grad}
    trained |= {f"state/{name}": value for name, value in state.items()}
    _require_free(out, checkpoints, trained, room)
    ranks.first(room.for_model)
    try:
        yield
    except (Exception, Ended) as error:
        ranks.first(room.release)
        checkpoints.keep(trained)
        if isinstance(error, (OSError, SafetensorError)):
            raise not_written(Path(getattr(error, "filename", None) or out), error, checkpoints.folder) from None
        if isinstance(error, UserError):
            raise StoreError(f"{error}; {checkpoints.left()}") from None
        say(f"{out} was not written; {checkpoints.left()}")
        raise


def _require_free(out: Path, checkpoints: Checkpoints, trained: dict[str, Tensor], room: Room) -> None:
    """Looked at again: in the hours since the start something may have come to stand there."""
    what = checkpoints.ranks.gather(_in_the_way(out))[0]
    if what is None:
        return
    checkpoints.ranks.first(room.release)
    checkpoints.keep(trained)
    raise StoreError(f"{out}: {what} has come to stand there during training, so the model was not written; move it away; "
                     f"{checkpoints.left()}")  # fmt: skip


def _in_the_way(out: Path) -> str | None:
    if out.is_symlink():
        return "a link"
    if not out.exists():
        return None
    if not out.is_dir():
        return "a file"
    if out.is_mount():
        return "a mounted file system"
    return "a folder with files" if any(out.iterdir()) else None
