"""One writer at a time: a `_lock` file in the folder says who writes there.

Locally the kernel holds the lock (flock) and lets go of it when the process ends, however it ends, so a dead holder is no obstacle. Where
flock does not work (some network file systems, URLs) the file is a sign of life that the holder renews every BEAT_S seconds: one that is
STALE_S old, or of a dead process of this machine, is taken over. Object stores have no compare-and-swap here: of two that start within
SETTLE_S the later put wins, and the other sees that.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.console import say
from shared.errors import StoreError
from shared.storage import LocalPlace, Place

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = "_lock"
BEAT_S, STALE_S, SETTLE_S = 10.0, 60.0, 0.2
NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)

RECORD = {"pid": int, "host": str, "since": str, "beat": float}

_held: set[int] = set()
"""descriptors of this process; a forked child must not keep the lock alive"""


@contextlib.contextmanager
def locked(place: Place) -> Iterator[None]:
    """Nobody else writes in `place` during the block. Raises StoreError, naming the holder, when somebody does already."""
    descriptor = _flock(place) if isinstance(place, LocalPlace) and fcntl else None
    if descriptor is None:
        with _alive(place):
            yield
        return
    try:
        yield
    finally:
        # Removed while it is still held: whoever waits for this very file finds that it is no longer the one of that name.
        (Path(place.where) / LOCK).unlink(missing_ok=True)
        _held.discard(descriptor)
        os.close(descriptor)


def _flock(place: LocalPlace) -> int | None:
    """The open lock file, held; None where the file system has no flock."""
    assert fcntl is not None
    path = place.where / LOCK
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _still_named(descriptor, path):
                _take_over(place, _parse(os.pread(descriptor, 4096, 0)))
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, _record().encode(), 0)
                _held.add(descriptor)
                return descriptor
        except BlockingIOError:
            holder = _parse(os.pread(descriptor, 4096, 0))
            os.close(descriptor)
            raise StoreError(_busy(place, holder)) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno in NO_FLOCK:
                return None
            raise StoreError(f"{path}: cannot be written: {error.strerror}") from None
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}; choose another --out") from None


def _still_named(descriptor: int, path: Path) -> bool:
    """False when the holder before removed the file between our opening and locking it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _alive(place: Place) -> Iterator[None]:
    """The lock as a sign of life."""
    holder = _read(place)
    if _lives(holder):
        raise StoreError(_busy(place, holder))
    _take_over(place, holder)
    token, done = secrets.token_hex(8), threading.Event()
    place.write(LOCK, _record(token).encode())
    time.sleep(SETTLE_S)
    if (holder := _read(place)).get("token") != token:
        raise StoreError(_busy(place, holder))
    thread = threading.Thread(target=_beat, args=(place, token, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if _read(place).get("token") == token:
            place.delete(LOCK)


def _beat(place: Place, token: str, done: threading.Event) -> None:
    since = _now()
    while not done.wait(BEAT_S):
        with contextlib.suppress(StoreError, FileNotFoundError):  # a network that is away for a moment; the next beat may come through
            place.write(LOCK, _record(token, since).encode())


def _record(token: str = "", since: str | None = None) -> str:
    about = {"pid": os.getpid(), "host": socket.gethostname(), "since": since or _now(), "token": token, "beat": time.time()}
    return json.dumps(about) + "\n"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _read(place: Place) -> dict[str, Any]:
    try:
        return _parse(place.read(LOCK))
    except FileNotFoundError:
        return {}


def _parse(data: bytes) -> dict[str, Any]:
    """Empty for a record that is not there or half-written."""
    try:
        record = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError):
        return {}
    return record if isinstance(record, dict) and all(isinstance(record.get(k), t) for k, t in RECORD.items()) else {}


def _lives(holder: dict[str, Any]) -> bool:
    if not holder or time.time() - holder["beat"] > STALE_S:
        return False
    return holder["host"] != socket.gethostname() or _runs(holder["pid"])


def _runs(pid: int) -> bool:
    if os.name == "nt":  # signal 0 is Ctrl-C there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _take_over(place: Place, holder: dict[str, Any]) -> None:
    if holder:
        say(f"{place.where}: taking over from process {holder['pid']} on {holder['host']}, which ended before it was done")


def _busy(place: Place, holder: dict[str, Any]) -> str:
    who = (
        f"process {holder['pid']} on {holder['host']} has, since {holder['since']}" if holder else "another process has, since a moment ago"
    )
    return f"{place.where}: {who}, been writing this store; wait until it is done, or choose a new --out"


def _forget() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
