"""Where a command writes: a place that it can take, and that nobody else takes while it works.

    with claimed_folder(out, what="the numbers of attacks"):     refused before any work, or ours until the end of the
                                                                 block
        ...
        with atomic_folder(out) as folder:                        appears whole (shared/files/fs.py)
            ...

The lock lies beside the output (`.tmp-NAME.lock`), because the folder itself is renamed into its place at the end.
"""

from __future__ import annotations

import contextlib
import functools
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from shared.errors import ConfigError, StoreError
from shared.files.fs import TEMPORARY, refuse_url, require_fresh, short_name
from shared.files.lock import LOCK, locked
from shared.files.storage import LocalPlace

T = TypeVar("T")
R = TypeVar("R")

COMMITS = ("_manifest.json", "_plan.json", "summary.json", "training.json", "config.json", LOCK)
"""files that make a folder a score store, results, a model, or one of them in the making"""
OURS = (b"token-unlearn", b"<title>tu-eval: ", b"<title>Tokens shaded by ", b"| Set | Metric |", b"label,group,role,method,tokens,seed,")
"""one of these is in every page, table and picture of ours; the titles in pages of earlier versions"""
LOOKED_AT = 1 << 16
"""bytes from the beginning of a file"""


@contextlib.contextmanager
def claimed_folder(path: Path, *, what: str, flag: str = "--out") -> Iterator[None]:
    """`path` can become a folder of ours, and nobody else makes it during the block. Raises StoreError otherwise."""
    require_fresh(path, what=what, flag=flag)
    with lock_beside(path):
        require_fresh(path, what=what, flag=flag)  # whoever held it may just have finished
        yield


def claims(what: str) -> Callable[[Callable[[T], R]], Callable[[T], R]]:
    """For a command that takes its configuration and makes the folder `out` of it: all of it happens in
    `claimed_folder`."""

    def decorate(command: Callable[[T], R]) -> Callable[[T], R]:
        @functools.wraps(command)
        def run(config: T) -> R:
            with claimed_folder(Path(cast(Any, config).out), what=what):
                return command(config)

        return run

    return decorate


@contextlib.contextmanager
def claimed_files(paths: dict[str, Path]) -> Iterator[None]:
    """flag -> a file to write: none of them is anything but absent or an older one of ours, and nobody else writes them
    during the block.

    Raises ConfigError for a place that cannot be taken, StoreError when somebody else writes there.
    """
    with contextlib.ExitStack() as held:
        for flag, path in sorted(paths.items(), key=lambda item: item[1].absolute()):
            check_file(flag, path)
            try:
                held.enter_context(lock_beside(path))
            except StoreError as error:
                raise StoreError(f"{flag} {path}: {error}") from None
        yield


def check_file(flag: str, path: Path) -> None:
    """Raises ConfigError where writing a file of ours would destroy something else."""
    refuse_url(path, what="this file", flag=flag)
    if path.is_dir():
        raise ConfigError(f"{flag} {path}: is a folder; expected the name of a file")
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ConfigError(f"{flag} {path}: is a link or a device, which is not written over; name another file")
        if any((path.parent / name).is_file() for name in COMMITS):
            raise ConfigError(f"{flag} {path}: is a file of a store, a model or results; name a file outside of {path.parent}")
        with open(path, "rb") as handle:
            beginning = handle.read(LOOKED_AT)
        if beginning and not any(mark in beginning for mark in OURS):
            raise ConfigError(f"{flag} {path}: exists, and is not one that token-unlearn wrote; name another file, or delete it")


@contextlib.contextmanager
def lock_beside(path: Path) -> Iterator[None]:
    """Nobody else makes `path` during the block. Raises StoreError when somebody does already."""
    above = LocalPlace(path.absolute().parent)
    with above.made(), locked(above, f"{TEMPORARY}{short_name(path.name)}.lock"):
        yield
