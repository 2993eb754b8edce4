"""Atomic writes and content hashes: a file or folder appears whole under its final name, or not at all.

Write to a temporary name beside the target, fsync, rename, fsync the folder. A crash leaves the old state and at most a
temporary name that starts with `.tmp-`, which readers ignore and the next writer of the same target removes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.errors import StoreError

CHUNK_BYTES = 1 << 20
TEMPORARY = ".tmp-"


def fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write; on success it replaces `path` durably, on any error it is removed."""
    temporary = path.parent / f"{TEMPORARY}{path.name}"
    try:
        yield temporary
        fsync_file(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Atomic replacement of a small text file."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_text(value: Any) -> str:
    """As JSON files are written here: indented, in UTF-8, without NaN."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    write_text(path, json_text(value))


def read_json(path: Path) -> Any:
    """Raises StoreError naming the file when it is not valid JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StoreError(f"{path}: not valid JSON ({error}); the file is damaged, make it again") from None


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder; on success it becomes `path` (which must not exist, or be an empty folder)."""
    temporary = path.parent / f"{TEMPORARY}{path.name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir()
    try:
        yield temporary
        for inside in sorted(temporary.rglob("*")):
            if inside.is_dir():
                fsync_folder(inside)
            else:
                fsync_file(inside)
        fsync_folder(temporary)
        if path.exists():
            path.rmdir()  # only an empty folder: anything else was refused before work began, and is refused here again
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_folder(path.parent)


def require_fresh(path: Path, *, what: str) -> None:
    """Refuses an output folder that already holds something, or that a finished folder cannot take the place of."""
    place = path.resolve()
    if place == Path.cwd() or place in Path.cwd().parents:
        raise StoreError(f"{path}: is the folder this command runs in, or one above it; --out wants a new folder for {what}, such as ./out")
    if path.name == "..":
        raise StoreError(f"{path}: ends in '..'; --out wants the folder's own name for {what}")
    if path.is_symlink():
        raise StoreError(f"{path}: is a link, which a finished folder cannot replace; name {place} itself as --out for {what}")
    if path.is_mount():
        raise StoreError(f"{path}: a file system is mounted there, so it cannot be replaced; choose a folder inside it as --out for {what}")
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path}: is a file; --out wants a folder for {what}")
    above = next(p for p in path.absolute().parents if p.exists())
    if not above.is_dir():
        raise StoreError(f"{path}: {above} is a file; --out wants a folder for {what}")
    if path.exists() and any(path.iterdir()):
        raise StoreError(f"{path}: already holds files (another run?); choose a new --out for {what}, or delete the folder")


def hash_file(path: Path) -> str:
    """sha256 of a file's bytes, hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """sha256 of a value's canonical JSON (sorted keys, no spaces), hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()
