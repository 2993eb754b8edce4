"""Where files live: a local folder, or a folder behind an fsspec URL (s3://, gs://, hf://, memory://, ...), with the
same few calls.

A write is atomic on both: locally a temporary file, fsync, rename, fsync of the folder; behind a URL one put of a whole
object. Names are relative to the place, parts of it joined by `/`. A file that is not there is FileNotFoundError;
everything else that goes wrong is a StoreError that names the file.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from shared.errors import ConfigError, StoreError, UserError
from shared.files.fs import LARGEST_JSON, TEMPORARY, atomic_file, fsync_folder, open_regular, refuse_link, remove

T = TypeVar("T")
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "az": "adlfs", "abfs": "adlfs"}
"""what to install for a kind of URL"""


class Place(Protocol):
    """A folder of files."""

    @property
    def where(self) -> Path | str:
        """A path, or a URL without a slash at the end."""
        ...

    def label(self, name: str) -> str:
        """A file as messages name it."""
        ...

    def read(self, name: str) -> bytes: ...

    def write(self, name: str, data: bytes) -> None:
        """Replaces the file, or leaves it as it was."""
        ...

    def exists(self, name: str) -> bool: ...

    def names(self, below: str = "") -> list[str]:
        """Sorted names of what lies directly in the place, or in one of its folders; none when there is no such
        folder."""
        ...

    def move(self, old: str, new: str) -> None:
        """Over an older file of that name. Behind a URL a copy, then a deletion: a kill may leave both."""
        ...

    def delete(self, name: str) -> None:
        """Nothing happens to a file that is not there."""
        ...

    def clear(self, below: str) -> None:
        """Deletes a folder with all that it holds."""
        ...

    def made(self) -> contextlib.AbstractContextManager[None]:
        """The folder exists in the block; folders made for that and still empty at its end are removed."""
        ...


class LocalPlace:
    """A folder of this machine."""

    def __init__(self, path: Path):
        self.where = path

    def label(self, name: str) -> str:
        return str(self.where / name)

    def read(self, name: str) -> bytes:
        with self._named(name, "read"), open_regular(self.where / name) as handle:
            if (
                not name.endswith(".parquet") and os.fstat(handle.fileno()).st_size > LARGEST_JSON
            ):  # parts have the size that a manifest says
                raise StoreError(f"{self.where / name}: has more than {LARGEST_JSON:,} bytes; it is damaged, copy the folder again")
            return handle.read()

    def write(self, name: str, data: bytes) -> None:
        path = self.where / name
        with self._named(name, "written"):
            if path.parent != self.where:
                refuse_link(path.parent).mkdir(exist_ok=True)
            with atomic_file(path) as temporary:
                temporary.write_bytes(data)

    def exists(self, name: str) -> bool:
        return (self.where / name).exists()

    def names(self, below: str = "") -> list[str]:
        try:
            with self._named(below, "listed"):
                return sorted(os.listdir(self.where / below))
        except FileNotFoundError:
            return []

    def move(self, old: str, new: str) -> None:
        source, target = self.where / old, self.where / new
        with self._named(new, "written"):
            if not stat.S_ISREG(os.lstat(source).st_mode):
                raise StoreError(f"{source}: is no ordinary file; delete it, then give the same command again")
            os.replace(source, target)
            for folder in {source.parent, target.parent}:
                fsync_folder(folder)

    def delete(self, name: str) -> None:
        path = self.where / name
        with contextlib.suppress(FileNotFoundError), self._named(name, "deleted"):
            path.unlink()
            fsync_folder(path.parent)

    def clear(self, below: str) -> None:
        with self._named(below, "deleted"):
            remove(self.where / below)

    @contextlib.contextmanager
    def made(self) -> Iterator[None]:
        new = [p for p in (self.where, *self.where.absolute().parents) if not p.exists()]
        try:
            self.where.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.where}: cannot be made: {error.strerror}; choose another --out") from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # not empty: what was wanted
                for folder in new:
                    folder.rmdir()

    @contextlib.contextmanager
    def _named(self, name: str, done: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(error.errno, error.strerror, error.filename) from None
        except OSError as error:
            raise StoreError(
                f"{self.label(name)}: cannot be {done}: {error.strerror}; what was finished before is kept: mend this, then give the same "
                "command again"
            ) from None


class UrlPlace:
    """A folder behind a URL. Listings are never taken from fsspec's cache: another machine may have written since."""

    def __init__(self, url: str):
        self.where = url.rstrip("/")
        self.files, self.root = find_files(self.where)

    def label(self, name: str) -> str:
        return f"{self.where}/{name}"

    def read(self, name: str) -> bytes:
        return self._reached(name, "read", lambda path: self.files.cat_file(path))

    def write(self, name: str, data: bytes) -> None:
        self._reached(name, "written", lambda path: self.files.pipe_file(path, data))

    def exists(self, name: str) -> bool:
        try:
            self.files.invalidate_cache()
            self._reached(name, "looked up", lambda path: self.files.info(path))  # fs.exists() says False to every error
        except FileNotFoundError:
            return False
        return True

    def names(self, below: str = "") -> list[str]:
        self.files.invalidate_cache()
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
        self.files.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            self._reached(below, "deleted", lambda path: self.files.rm(path, recursive=True))

    def made(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()  # an object store has no folders

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def _reached(self, name: str, done: str, call: Callable[[str], T]) -> T:
        return reached(self.label(name), done, lambda: call(self._path(name)))


def reached(label: str, done: str, call: Callable[[], T]) -> T:
    """`call()`, with what a remote file system raises turned into a StoreError; FileNotFoundError and a UserError
    stay."""
    try:
        return call()
    except (FileNotFoundError, UserError):
        raise
    except Exception as error:  # each file system has its own: botocore's, aiohttp's, huggingface_hub's
        reason = str(error).splitlines()[0][:200] if str(error) else ""
        raise StoreError(
            f"{label}: cannot be {done}: {type(error).__name__}: {reason}; check the URL, the network and your credentials, then give the "
            "same command again"
        ) from None


def find_files(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it. Raises ConfigError for a kind of URL that is unknown or not
    installed."""
    from fsspec.core import url_to_fs

    kind = url.partition("://")[0]
    try:
        files, root = url_to_fs(url)
    except ImportError:
        raise ConfigError(f"{url}: {kind}:// URLs need a package that is not installed: pip install {PACKAGES.get(kind, kind)}") from None
    except Exception as error:  # as in `reached`; ValueError is fsspec's for a protocol that it does not know
        raise ConfigError(
            f"{url}: cannot be used: {str(error).splitlines()[0][:200]}; known are paths, {', '.join(PACKAGES)} URLs"
        ) from None
    return files, str(root).rstrip("/")


def is_url(where: str | Path) -> bool:
    return isinstance(where, str) and "://" in where


def open_place(where: str | Path) -> Place:
    """A path, a file:// URL, or any other URL that fsspec knows. Nothing is read or written yet. Raises ConfigError for
    no name at all."""
    if not str(where).strip():
        raise ConfigError("the name of a folder is empty; expected a folder or a URL, as in --out scores")
    if isinstance(where, str) and where.startswith("file://"):
        from fsspec.implementations.local import LocalFileSystem

        return LocalPlace(Path(str(LocalFileSystem._strip_protocol(where))))
    return UrlPlace(str(where)) if is_url(where) else LocalPlace(Path(where))


def leftovers(names: list[str]) -> list[str]:
    """Those that a killed writer left half-written."""
    return [name for name in names if name.startswith(TEMPORARY)]
