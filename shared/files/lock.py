"""One writer at a time: a `_lock` file in the folder says who writes there.

Locally the kernel holds the lock (flock) and lets go of it when the process ends, however it ends, so a dead holder is
no obstacle. Where flock does not work (some network file systems, URLs) the file is a sign of life that the holder
renews every BEAT_S seconds: one that is not renewed while we look on for STALE_S, or is of a dead process of this
machine, is taken over. No clock is compared with another's. Of two that start in the same moment one alone can create
the file where the store has conditional puts (S3, GCS). Elsewhere, and when two take over from the same dead holder,
the later put within SETTLE_S wins, and the other sees that.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import secrets
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.console import say
from shared.errors import StoreError
from shared.files.fs import NO_FOLLOW
from shared.files.held import hold, let_go, still_named
from shared.files.storage import LocalPlace, Place

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = "_lock"
BEAT_S, STALE_S, SETTLE_S = 10.0, 60.0, 0.2
NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)

RECORD = {"pid": int, "host": str, "since": str, "beat": float}


@contextlib.contextmanager
def locked(place: Place, name: str = LOCK) -> Iterator[None]:
    """Nobody else holds `name` in `place` during the block. Raises StoreError, naming the holder, when somebody does
    already."""
    descriptor = _flock(place, name) if isinstance(place, LocalPlace) and fcntl else None
    if descriptor is None:
        with _alive(place, name):
            yield
        return
    try:
        yield
    finally:
        # Removed while it is still held: whoever waits for this very file finds that it is no longer the one of that
        # name.
        (Path(place.where) / name).unlink(missing_ok=True)
        let_go(descriptor)


def _flock(place: LocalPlace, name: str) -> int | None:
    """The open lock file, held; None where the file system has no flock."""
    assert fcntl is not None
    path = place.where / name
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if still_named(descriptor, path):
                _take_over(place, _parse(os.pread(descriptor, 4096, 0)))
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, _record().encode(), 0)
                return hold(descriptor, lock=False)
        except BlockingIOError:
            holder = _parse(os.pread(descriptor, 4096, 0))
            os.close(descriptor)
            raise StoreError(_busy(place, holder)) from None
        except OSError as error:
            if os.fstat(descriptor).st_size == 0 and error.errno not in NO_FLOCK:
                path.unlink(missing_ok=True)  # a full disk: made, and nothing could be written into it
            os.close(descriptor)
            if error.errno in NO_FLOCK:
                return None
            raise StoreError(f"{path}: cannot be written: {error.strerror}") from None
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | NO_FOLLOW | getattr(os, "O_NONBLOCK", 0), 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreError(f"{path}: is a link, and nothing is written through links here; delete it") from None
        raise StoreError(f"{path}: cannot be written: {error.strerror}; choose another --out") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StoreError(f"{path}: is no ordinary file; delete it, or choose another --out")
    return descriptor


@contextlib.contextmanager
def _alive(place: Place, name: str) -> Iterator[None]:
    """The lock as a sign of life."""
    holder = _read(place, name)
    if _lives(place, name, holder):
        raise StoreError(_busy(place, holder))
    token, done, quick = secrets.token_hex(8), threading.Event(), place.at_once()
    _create(place, name, holder, _record(token).encode())
    time.sleep(SETTLE_S)
    if (holder := _read(place, name)).get("token") != token:
        raise StoreError(_busy(place, holder))
    thread = threading.Thread(target=_beat, args=(quick, name, token, done), daemon=True)
    thread.start()
    try:
        yield
        if (holder := _read(place, name)).get("token") != token:
            raise StoreError(f"{place.where}: another process has written here meanwhile ({holder.get('host', 'its lock file is gone')}); "
                             "check what lies there, or write it again to a new --out")  # fmt: skip
    except BaseException:
        _end(thread, done)
        with contextlib.suppress(StoreError):  # the place may be what went away; our lock is then that of a dead process
            _remove(quick, name, token)
        raise
    _end(thread, done)
    _remove(place, name, token)


def _create(place: Place, name: str, holder: dict[str, Any], record: bytes) -> None:
    """The lock file in the place of a dead holder's. Raises StoreError when somebody else was faster."""
    if not place.create(name, record):
        if (now := _read(place, name)) != holder:
            raise StoreError(_busy(place, now))
        _take_over(place, holder)
        place.delete(name)
        if not place.create(name, record):
            raise StoreError(_busy(place, _read(place, name)))


def _end(thread: threading.Thread, done: threading.Event) -> None:
    done.set()
    thread.join()


def _remove(place: Place, name: str, token: str) -> None:
    if _read(place, name).get("token") == token:
        place.delete(name)


def _beat(place: Place, name: str, token: str, done: threading.Event) -> None:
    since = _now()
    while not done.wait(BEAT_S):
        with contextlib.suppress(StoreError, FileNotFoundError):  # a network that is away for a moment; the next beat may come through
            if _read(place, name).get("token") == token:
                place.write(name, _record(token, since).encode())


def _record(token: str = "", since: str | None = None) -> str:
    about = {"pid": os.getpid(), "host": socket.gethostname(), "since": since or _now(), "token": token, "beat": time.time()}
    return json.dumps(about) + "\n"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _read(place: Place, name: str) -> dict[str, Any]:
    try:
        return _parse(place.read(name))
    except FileNotFoundError:
        return {}


def _parse(data: bytes) -> dict[str, Any]:
    """Empty for a record that is not there or half-written."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) and all(isinstance(record.get(k), t) for k, t in RECORD.items()) else {}


def _lives(place: Place, name: str, holder: dict[str, Any]) -> bool:
    """Whether the holder renews its sign, looking on for as long as a renewal may take to come through."""
    if not holder or (holder["host"] == socket.gethostname() and not _runs(holder["pid"])):
        return False
    say(f"{place.where}: process {holder['pid']} on {holder['host']} may be writing here; looking on for at most {STALE_S:.0f} s")
    until = time.monotonic() + STALE_S
    while time.monotonic() < until:
        time.sleep(BEAT_S / 4)
        if (now := _read(place, name)) != holder:
            return bool(now)
    return False


def _runs(pid: int) -> bool:
    if os.name == "nt":  # signal 0 is Ctrl-C there
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
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
    return f"{place.where}: {who}, been writing here; wait until it is done, or choose a new --out"
