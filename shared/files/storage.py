"""Where files live: a local folder, or a folder behind an fsspec URL (shared/files/remote.py), with the same few calls.

A write is atomic on both: locally a temporary file, fsync, rename, fsync of the folder; behind a URL one put of a whole
object. Names are relative to the place, parts of it joined by `/`. A file that is not there is FileNotFoundError;
everything else that goes wrong is a StoreError that names the file.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from shared.errors import ConfigError, StoreError
from shared.files.fs import LARGEST_JSON, TEMPORARY, atomic_file, fsync_folder, open_regular, refuse_link, remove
from shared.files.remote import UrlPlace, is_url


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

    def create(self, name: str, data: bytes) -> bool:
        """Writes the file where there is none of that name; False: there is one, of other bytes. Of two that create it
        in the same moment one alone is told True by an object store with conditional puts (S3, GCS), and by nothing
        else: whoever needs to know looks again (shared/files/lock.py)."""
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
        """The folder exists in the block, and can be written; folders made for that and still empty at its end are
        removed."""
        ...

    def at_once(self) -> Place:
        """The same place, where nothing is tried a second time."""
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

    def create(self, name: str, data: bytes) -> bool:
        if self.exists(name):
            return False
        self.write(name, data)
        return True

    def exists(self, name: str) -> bool:
        with self._named(name, "looked up"):
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

    def at_once(self) -> LocalPlace:
        return self

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
