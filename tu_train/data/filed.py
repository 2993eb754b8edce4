"""Tokenised rows in one memory-mapped file, so that memory holds 12 bytes a row however long the rows are.

The file has no name (or loses it when it is made): the system takes it away when the process ends, however it ends, and
a resumed run writes it anew. It lies where the output will, since what is elsewhere for temporary files is often
memory. A row in it: its tokens as int32, those that are targets as their complement (~id, below 0); with `reference` a
float32 for each target; its name.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tu_train.data.batches import Item

ID = np.dtype(np.int32)
LOGP = np.dtype(np.float32)


@dataclass(frozen=True, eq=False)
class FiledItems(Sequence[Item]):
    """Items of which every target token has weight 1, made anew each time they are asked for."""

    mapped: mmap.mmap | bytes
    ends: array[int]
    """byte behind each row, after a first 0"""
    tokens: array[int]
    """how many each row has"""
    reference: bool
    """whether the items have log-probabilities of the model before training"""

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, row: int) -> Item:  # type: ignore[override]  # there are no slices
        count, start, end = self.tokens[row], self.ends[row], self.ends[row + 1]
        marked = np.frombuffer(self.mapped, ID, count, start)
        target = marked < 0
        at, positions = start + marked.nbytes, np.flatnonzero(target).tolist()
        logp = np.frombuffer(self.mapped, LOGP, len(positions), at).copy() if self.reference else None
        name = self.mapped[at + (logp.nbytes if logp is not None else 0) : end].decode(errors="surrogatepass")
        return Item(np.where(target, ~marked, marked).tolist(), positions, np.ones(len(positions), dtype=np.float32), logp, name)

    def first(self, count: int) -> list[Item]:
        return [self[row] for row in range(min(count, len(self)))]


@dataclass(frozen=True, eq=False)
class NamedItems(Mapping[str, Item]):
    """The same by their names, for which memory holds some hundred bytes a row."""

    items_in_order: FiledItems
    rows: Mapping[str, int]

    def __getitem__(self, name: str) -> Item:
        return self.items_in_order[self.rows[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, name: object) -> bool:
        return name in self.rows


def filed(items: Iterable[Item], *, out: str, reference: bool = False) -> FiledItems:
    """Writes items one by one as they come; only their ids, targets, names and (`reference`) `ref_logp` are kept.

    `out`: the output of the run, beside which the file lies. Raises OSError naming the folder where it cannot be
    written.
    """
    folder = _folder(out)
    ends, tokens = array("q", [0]), array("i")
    try:
        made = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (closed below)
    except OSError as error:
        raise _named(error, folder) from None
    with made as file:
        for item in items:
            row = _bytes(item, reference)
            try:
                left = memoryview(row)
                while left:
                    left = left[file.write(left) :]
            except OSError as error:
                raise _named(error, folder) from None
            ends.append(ends[-1] + len(row))
            tokens.append(len(item.ids))
        return FiledItems(_mapped(file) if tokens else b"", ends, tokens, reference)


def filed_by_name(items: Iterable[Item], *, out: str, reference: bool = False) -> NamedItems:
    rows: dict[str, int] = {}

    def each() -> Iterator[Item]:
        for row, item in enumerate(items):
            rows[item.name] = row
            yield item

    return NamedItems(filed(each(), out=out, reference=reference), rows)


def _mapped(file: Any) -> mmap.mmap | bytes:
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError:  # some network file systems map no files: four bytes a token, still no lists
        file.seek(0)
        return file.read()


def _bytes(item: Item, reference: bool) -> bytes:
    marked = np.array(item.ids, dtype=ID)
    marked[item.positions] = ~marked[item.positions]
    logp = np.asarray(item.ref_logp, dtype=LOGP).tobytes() if reference else b""
    return marked.tobytes() + logp + item.name.encode(errors="surrogatepass")


def _folder(out: str) -> str:
    """The first folder above the output that is there; that of temporary files where nothing may be written there."""
    above = next(folder for folder in Path(out).absolute().parents if folder.is_dir())
    return str(above) if os.access(above, os.W_OK) else tempfile.gettempdir()


def _named(error: OSError, folder: str) -> OSError:
    return OSError(error.errno, f"{error.strerror}, for a file with the tokens of the data", folder)
