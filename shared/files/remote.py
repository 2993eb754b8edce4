"""A folder behind an fsspec URL (s3://, gs://, hf://, memory://, ...).

What may pass (a server that throttles, answers 500 or 503, or is away) is tried again for TRY_S seconds; anything
else, and what lasts longer, is a StoreError that names the object. One try takes at most about 20 seconds on S3, a
put as long as its bytes take on a slow line besides, so that a server that is gone ends a command within a minute.

Objects are read by their names, which is up to date on every store; a listing may lag behind, and no decision that can
damage a store is made by one.
"""

from __future__ import annotations

import contextlib
import errno
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from shared.console import say
from shared.errors import ConfigError, StoreError, UserError
from shared.files.fs import TEMPORARY

T = TypeVar("T")
PACKAGES = {
    "s3": '"token-unlearn[s3]"', "s3a": '"token-unlearn[s3]"', "gs": '"token-unlearn[gs]"', "gcs": '"token-unlearn[gs]"',
    "hf": '"token-unlearn[hf]"', "az": "adlfs", "abfs": "adlfs",
}  # fmt: skip
"""what to install for a kind of URL"""
TRY_S, FIRST_WAIT_S, LONGEST_WAIT_S, SILENT_S = 30.0, 0.2, 5.0, 3.0
"""how long something is tried again, the waits between, and after how long that is said"""
PUT_S, SLOWEST = 20.0, 2**17
"""a put takes at most so many seconds, and as long as its bytes take at so many a second"""
PASSING = {getattr(errno, name, None) for name in ("EBUSY", "EREMOTEIO", "EIO", "ETIMEDOUT", "EAGAIN")}
PASSING_NAMES = {"HTTPClientError", "ConnectionError", "ResponseParserError", "ClientConnectionError", "ClientPayloadError"}
"""of botocore and aiohttp: no connection, or one that broke off"""
PROBE = f"{TEMPORARY}_lock.probe"
"""an empty object that says whether a place can be written"""


class Unreachable(StoreError):
    """A file behind a URL that cannot be had or written, for now or without other credentials."""


class UrlPlace:
    """A folder behind a URL. Nothing is ever taken from fsspec's cache of listings: another machine may have written
    since."""

    def __init__(self, url: str, patience: float | None = None):
        self.where = url.rstrip("/")
        self.patience = TRY_S if patience is None else patience
        self.files, self.root = find_files(self.where, **_one_try(self.where))
        if self.where.startswith(("s3:", "s3a:")):
            self.files.retries = 1  # ours are enough: s3fs repeats each repetition of the client five times

    def label(self, name: str) -> str:
        return f"{self.where}/{name}"

    def read(self, name: str) -> bytes:
        return self._reached(name, "read", lambda path: self.files.cat_file(path))

    def write(self, name: str, data: bytes) -> None:
        with self._in_a_bucket(name):
            self._reached(name, "written", lambda path: self.files.pipe_file(path, data, **self._deadline(data)))

    def create(self, name: str, data: bytes) -> bool:
        with self._in_a_bucket(name):
            made = self._reached(name, "written", lambda path: _put_new(self.files, path, data, self._deadline(data)))
        with contextlib.suppress(FileNotFoundError):
            return made or self.read(name) == data  # an earlier try may have come through, and its answer not
        return False

    def exists(self, name: str) -> bool:
        try:
            self._reached(name, "looked up", lambda path: self.files.info(path))  # fs.exists() says False to every error
        except FileNotFoundError:
            return False
        return True

    def names(self, below: str = "") -> list[str]:
        if not self.exists(below):  # s3fs would list the folder above it, which may be a whole bucket
            return []
        try:
            found = self._reached(below, "listed", lambda path: self.files.ls(path, detail=False))
        except FileNotFoundError:
            return []
        return sorted({entry.rstrip("/").rsplit("/", 1)[-1] for entry in found})

    def move(self, old: str, new: str) -> None:
        self._reached(new, "written", lambda path: self.files.cp_file(self._path(old), path))
        self.delete(old)

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._reached(name, "deleted", lambda path: self.files.rm_file(path))

    def clear(self, below: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            if not any(sign in self._path(below) for sign in "*?["):
                self._reached(below, "deleted", lambda path: self.files.rm(path, recursive=True))
                return
            for found in self._reached(below, "listed", lambda path: self.files.find(path)):  # rm would take it for a pattern
                self._reached(below, "deleted", lambda _, found=found: self.files.rm_file(found))

    @contextlib.contextmanager
    def made(self) -> Iterator[None]:
        self.write(PROBE, b"")
        self.delete(PROBE)
        yield

    def at_once(self) -> UrlPlace:
        return UrlPlace(self.where, patience=0.0)

    def _deadline(self, data: bytes) -> dict[str, float]:
        """An option of file systems that answer by asyncio. A put to a server that says nothing would wait for ever
        (for its "100 Continue"); reads have time-outs of their own."""
        return {"timeout": PUT_S + len(data) / SLOWEST} if getattr(self.files, "async_impl", False) else {}

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    @contextlib.contextmanager
    def _in_a_bucket(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise Unreachable(f"{self.label(name)}: cannot be written: there is no bucket {self.root.strip('/').partition('/')[0]}; "
                              "make it, or name another") from None  # fmt: skip

    def _reached(self, name: str, done: str, call: Callable[[str], T]) -> T:
        start, wait, said = time.monotonic(), FIRST_WAIT_S, False
        while True:
            try:
                self.files.invalidate_cache()
                return call(self._path(name))
            except (FileNotFoundError, UserError):
                raise
            except Exception as error:
                if not may_pass(error) or time.monotonic() + wait > start + self.patience:
                    raise _refused(self.label(name), done, error) from None
                if time.monotonic() > start + SILENT_S and not said:
                    said = True
                    left = start + self.patience - time.monotonic()
                    say(f"{self.label(name)}: cannot be {done} ({type(error).__name__}); trying for another {left:.0f} s")
            time.sleep(wait * random.uniform(0.5, 1.0))  # many machines must not come back in step
            wait = min(2 * wait, LONGEST_WAIT_S)


def _one_try(url: str) -> dict[str, Any]:
    """Options of a file system whose requests are repeated by us alone; what fsspec's configuration says stays."""
    from fsspec.config import conf

    if not url.startswith(("s3:", "s3a:")):
        return {}
    return {"config_kwargs": {**conf.get("s3", {}).get("config_kwargs", {}), "retries": {"total_max_attempts": 1}}}


def _put_new(files: Any, path: str, data: bytes, options: dict[str, float]) -> bool:
    """A put of what is not there yet; a plain put where the store or its file system knows no such thing."""
    try:
        files.pipe_file(path, data, mode="create", **options)
    except FileExistsError:
        return False
    except (NotImplementedError, TypeError, ValueError):
        files.pipe_file(path, data, **options)
    except OSError as error:
        if _status(error) == 412:  # s3fs knows it by a field that not every server sends
            return False
        if _status(error) != 501 and error.errno != errno.ENOSYS:
            raise
        files.pipe_file(path, data, **options)
    return True


def _status(error: BaseException) -> int | None:
    """Of the HTTP answer behind an error of s3fs."""
    answer = getattr(error.__cause__, "response", None)
    return answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(answer, dict) else None


def may_pass(error: BaseException) -> bool:
    """Whether the same may work in a moment: no connection, a server in trouble, too many requests."""
    if isinstance(error, (TimeoutError, ConnectionError)) or PASSING_NAMES & {kind.__name__ for kind in type(error).__mro__}:
        return True
    if (status := _status(error)) is not None:
        return status in (408, 409, 429) or (status >= 500 and status != 501)
    return isinstance(error, OSError) and error.errno in PASSING


def reached(label: str, done: str, call: Callable[[], T]) -> T:
    """`call()`, with what a remote file system raises turned into a StoreError; FileNotFoundError and a UserError
    stay."""
    try:
        return call()
    except (FileNotFoundError, UserError):
        raise
    except Exception as error:  # each file system has its own: botocore's, aiohttp's, huggingface_hub's
        raise _refused(label, done, error) from None


def _refused(label: str, done: str, error: Exception) -> Unreachable:
    reason = f": {str(error).splitlines()[0][:200]}" if str(error) else ""
    return Unreachable(
        f"{label}: cannot be {done}: {type(error).__name__}{reason}; check the URL, the network and your credentials, then give the "
        "same command again"
    )


def find_files(url: str, **options: Any) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it. Raises ConfigError for a kind of URL that is unknown or not
    installed."""
    from fsspec.core import url_to_fs

    kind = url.partition("://")[0]
    try:
        files, root = url_to_fs(url, **options)
    except ImportError:
        raise ConfigError(f"{url}: {kind}:// URLs need a package that is not installed: pip install {PACKAGES.get(kind, kind)}") from None
    except Exception as error:  # as in `reached`; ValueError is fsspec's for a protocol that it does not know
        raise ConfigError(
            f"{url}: cannot be used: {str(error).splitlines()[0][:200]}; known are paths, {', '.join(PACKAGES)} URLs"
        ) from None
    return files, str(root).rstrip("/")


def is_url(where: str | Path) -> bool:
    return isinstance(where, str) and "://" in where
