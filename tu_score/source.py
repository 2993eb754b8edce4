"""The rows that a run scores: read anew from the beginning each time, so that memory never holds them all, and cut into
parts by the length of their texts, so that nothing has to be tokenised to know the parts.

A part is a range of rows. Whoever scores it tokenises it. The hash of the rows is taken while they are cut: a run that
is taken up again is refused if they have changed since.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from shared.data.datasets import Row, iter_rows
from shared.data.examples import Example, Memo, iter_examples
from shared.data.row_bytes import Parts
from shared.errors import DataError
from shared.secret import without_secrets
from tu_score.config import PLANS, ScoreConfig


@dataclass(frozen=True)
class Cut:
    """How rows are cut into parts."""

    ranges: list[tuple[int, int]]
    """rows [start, end) of each part"""
    sizes: list[int]
    """bytes of text of each part"""
    hashes: list[str]
    """of the rows of each part"""
    sha256: str
    """of all rows, however they are cut"""

    @property
    def rows(self) -> int:
        return self.ranges[-1][1]

    @property
    def bytes(self) -> int:
        return sum(self.sizes)


@dataclass(frozen=True)
class Source:
    """Where rows come from, and how they become examples."""

    config: ScoreConfig
    tokenizer: Any
    context: int | None
    """tokens that the model reads at a time"""

    def rows(self) -> Iterator[Row]:
        return iter_rows(self.config.data, keys=self.config.keys, limit=self.config.limit)

    def examples(self, rows: Iterable[Row], memo: Memo | None = None) -> list[Example]:
        """Of a part; there may be none. Raises DataError naming the row."""
        return list(iter_examples(rows, self.tokenizer, self.config, context=self.context, memo=memo))

    def cut(self) -> Cut:
        """Reads all rows once. Raises DataError for the first that is none."""
        ranges, sizes, hashes, whole = [], [], [], hashlib.sha256()
        parts, part, start, size, digest, at = Parts(self.config.part_tokens), 0, 0, 0, hashlib.sha256(), 0

        def close(end: int) -> None:
            ranges.append((start, end))
            sizes.append(size)
            hashes.append(digest.hexdigest())

        for at, row in enumerate(self.rows()):
            told = self._told(row)
            if (of := parts.place(row)) > part:
                close(at)
                part, start, digest = of, at, hashlib.sha256()
            size = parts.size
            digest.update(told)
            whole.update(told)
        close(at + 1)
        return Cut(ranges, sizes, hashes, whole.hexdigest())

    def parts(self, cut: Cut, wanted: Iterable[int]) -> Iterator[tuple[int, list[Row]]]:
        """The rows of some parts, in order, from one walk over the data that ends with the last of them. Raises
        DataError where they are no longer what was cut."""
        rows, at = self.rows(), 0
        for index in sorted(wanted):
            start, end = cut.ranges[index]
            own = list(islice(rows, start - at, end - at))
            at = end
            digest = hashlib.sha256()
            for row in own:
                digest.update(self._told(row))
            if len(own) != end - start or digest.hexdigest() != cut.hashes[index]:
                raise DataError(
                    f"data {without_secrets(self.config.data)}: changed while it was scored, in rows {start} to {end - 1} (part {index}); "
                    "put it back as it was and give the same command again, or choose a new --out"
                )
            yield index, own

    def _told(self, row: Row) -> bytes:
        """All of a row that its tokens and spans depend on."""
        config, extra = self.config, row.extra
        if config.spans in PLANS:
            extra = {name: extra.get(name) for name in ("system", config.span_key) if name is not None and name in extra}
        told = [row.id, row.question, row.answer, row.before, extra]
        return json.dumps(told, ensure_ascii=False, default=str).encode(errors="surrogatepass") + b"\n"
