"""Who still writes: a descriptor that is held carries a lock of the kernel (flock), gone when the process ends, however
it ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_held: set[int] = set()
"""descriptors of this process; a forked child must not keep their locks alive"""


def hold(descriptor: int, *, lock: bool = True) -> int:
    """Keeps the descriptor open for this process alone. With `lock` it is locked, where the file system can do that."""
    if lock and fcntl is not None:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # waits for a look of `if_free`, which takes no time
    _held.add(descriptor)
    return descriptor


def let_go(descriptor: int | None) -> None:
    if descriptor is not None:
        _held.discard(descriptor)
        os.close(descriptor)


def still_named(descriptor: int, path: Path) -> bool:
    """False when the file was removed, or replaced, since it was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def if_free(path: Path, act: Callable[[Path], None]) -> None:
    """`act(path)` when nobody holds this file or folder; a link or device is nobody's. Nothing when that cannot be
    told."""
    if path.is_symlink() or not (path.is_file() or path.is_dir()):
        act(path)
        return
    if fcntl is None:
        return
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            act(path)
        finally:
            os.close(descriptor)


def _forget() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
