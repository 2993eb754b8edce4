"""Atomic writes and content hashes: a file or folder appears whole under its final name, or not at all.

Write to a temporary name beside the target, fsync, rename, fsync the folder. A crash leaves the old state and at most a
temporary name that starts with `.tmp-`, which readers ignore and the next writer of the same target removes. Temporary
names are random and made anew: whoever else may write into the folder cannot have put a link or a file there for us to
write through.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from shared.errors import StoreError
from shared.files.held import hold, if_free, let_go, still_named
from shared.files.shape import DAMAGED, parse

CHUNK_BYTES = 1 << 20
TEMPORARY = ".tmp-"
LONGEST_NAME = 200
"""bytes of a target's name that its temporary name repeats; file systems take 255"""
LARGEST_JSON = 1 << 28
"""bytes; a file of ours takes far less, and one that does not fits no memory as Python objects"""
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


def fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())


def short_name(name: str) -> str:
    """A name that leaves room for what is put around it; long ones end in a hash."""
    encoded = os.fsencode(name)
    if len(encoded) <= LONGEST_NAME:
        return name
    return f"{os.fsdecode(encoded[: LONGEST_NAME - 20]).encode('utf-8', 'ignore').decode()}-{hashlib.sha256(encoded).hexdigest()[:16]}"


def _temporary(path: Path, make: Callable[[Path], int | None]) -> tuple[Path, int | None]:
    """A new name beside `path`, made and held. What earlier writers left half-written, and do not write any more, is
    removed."""
    name = short_name(path.name)
    left = re.compile(re.escape(f"{TEMPORARY}{name}") + "(-[0-9a-f]{16})?")  # earlier versions put nothing behind the name
    with suppress(FileNotFoundError):
        for entry in sorted(os.listdir(path.parent)):
            if left.fullmatch(entry):
                if_free(path.parent / entry, remove)
    while True:
        temporary = path.parent / f"{TEMPORARY}{name}-{secrets.token_hex(8)}"
        descriptor = make(temporary)
        if descriptor is None or still_named(hold(descriptor), temporary):
            return temporary, descriptor
        let_go(descriptor)  # another writer took it for a leftover before it was held


def _make_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_FOLLOW, 0o666)


def _make_folder(path: Path) -> int | None:
    path.mkdir()
    return os.open(path, os.O_RDONLY) if os.name != "nt" else None


def remove(path: Path) -> None:
    """Whatever is of that name: a file, a link (not what it points to), a folder with all that it holds; nothing is
    fine too."""
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()


def refuse_link(path: Path) -> Path:
    """The path itself. Raises StoreError for a link: what it points to is nothing of ours to write into."""
    if path.is_symlink():
        raise StoreError(f"{path}: is a link, and nothing is written through links here; delete it, then give the same command again")
    return path


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write; on success it replaces `path` durably, on any error it is removed.

    A link of the name `path` is replaced too, and what it points to is left alone.
    """
    temporary, descriptor = _temporary(path, _make_file)
    try:
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        os.chmod(temporary, mode)  # some libraries put a file of their own in its place, readable by nobody else
        fsync_file(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        let_go(descriptor)
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


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """The file, for reading. Raises StoreError when the name is that of a pipe (which would wait for ever) or a device
    (without an end)."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StoreError(f"{path}: is no ordinary file; copy the folder again")
    with open(descriptor, "rb") as handle:
        yield handle


def read_text(path: Path) -> str:
    """A file in UTF-8, as `open_regular` opens it. Raises UnicodeDecodeError for other bytes."""
    with open_regular(path) as handle:
        return handle.read().decode("utf-8")


def read_json(path: Path, *, hint: str = DAMAGED, foreign: bool = False) -> Any:
    """Raises StoreError naming the file, with `hint` as next step, for JSON that `parse` refuses. `foreign`: written by
    others, who may have numbers like Infinity."""
    with open_regular(path) as handle:
        data = handle.read(LARGEST_JSON + 1)
    if len(data) > LARGEST_JSON:
        raise StoreError(f"{path}: not valid JSON (it has more than {LARGEST_JSON:,} bytes); {hint}")
    return parse(data, str(path), hint=hint, foreign=foreign)


def read_object(path: Path, *, hint: str = DAMAGED) -> dict[str, Any]:
    """The same of a file that may be missing, and whose outermost value must be an object."""
    if not path.is_file():
        raise StoreError(f"{path}: is no file; {hint}")
    value = read_json(path, hint=hint)
    if not isinstance(value, dict):
        raise StoreError(f"{path}: expected an object with named values; {hint}")
    return value


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder; on success it becomes `path` (which must not exist, or be an empty folder)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, descriptor = _temporary(path, _make_folder)
    try:
        yield temporary
        _sync(temporary)
        if path.exists() and not path.is_symlink():
            path.rmdir()  # only an empty folder: anything else was refused before work began, and is refused here again
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        let_go(descriptor)
    fsync_folder(path.parent)


def _sync(folder: Path) -> None:
    """Everything in the folder is on the disk, and readable by those who may read the folder."""
    readable = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for inside in sorted(folder.rglob("*")):
        if inside.is_dir():
            fsync_folder(inside)
        else:
            if stat.S_IMODE(inside.stat().st_mode) == 0o600:  # as safetensors writes, whatever the umask
                inside.chmod(readable)
            fsync_file(inside)
    fsync_folder(folder)


def refuse_url(path: Path, *, what: str, flag: str = "--out") -> None:
    """Raises StoreError where a path is meant and a URL was given, which as a path would be a folder called `s3:`."""
    if URL.match(str(path)):
        raise StoreError(f"{flag} {path}: looks like a URL, and {what} can only be written to this machine's files; name a path, and copy "
                         "it from there when the command is done")  # fmt: skip


def require_fresh(path: Path, *, what: str, flag: str = "--out") -> None:
    """Refuses an output folder that already holds something, or that a finished folder cannot take the place of.
    `flag`: how the command calls it."""
    refuse_url(path, what=what, flag=flag)
    place = path.resolve()
    if place == Path.cwd() or place in Path.cwd().parents:
        raise StoreError(
            f"{path}: is the folder this command runs in, or one above it; {flag} wants a new folder for {what}, such as ./out"
        )
    if path.name == "..":
        raise StoreError(f"{path}: ends in '..'; {flag} wants the folder's own name for {what}")
    if path.is_symlink():
        raise StoreError(f"{path}: is a link, which a finished folder cannot replace; name {place} itself as {flag} for {what}")
    if path.is_mount():
        raise StoreError(
            f"{path}: a file system is mounted there, so it cannot be replaced; choose a folder inside it as {flag} for {what}"
        )
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path}: is a file; {flag} wants a folder for {what}")
    above = next(p for p in path.absolute().parents if p.exists())
    if not above.is_dir():
        raise StoreError(f"{path}: {above} is a file; {flag} wants a folder for {what}")
    if path.exists() and any(path.iterdir()):
        raise StoreError(f"{path}: already holds files (another run?); choose a new {flag} for {what}, or delete the folder")


def hash_file(path: Path) -> str:
    """sha256 of a file's bytes, hex."""
    digest = hashlib.sha256()
    with open_regular(path) as handle:
        while chunk := handle.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """sha256 of a value's canonical JSON (sorted keys, no spaces), hex."""
    return hashlib.sha256(_canonical(value)).hexdigest()


def hash_json_list(values: Iterable[Any]) -> str:
    """`hash_json` of the list of them, of which memory holds one at a time."""
    digest, before = hashlib.sha256(b"["), b""
    for value in values:
        digest.update(before + _canonical(value))
        before = b","
    digest.update(b"]")
    return digest.hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
