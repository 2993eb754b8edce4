"""The forget rows of a data set in the shape of a score store's: for training that reads nothing that was scored.

They are cut into parts as a store of the same data is cut, so that they come in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from shared.data.datasets import Row
from shared.data.examples import Example, data_fingerprint
from shared.data.row_bytes import Parts


class RowsInParts(Protocol):
    """What training reads of forget rows: of a score store, or of `Unscored`."""

    @property
    def manifest(self) -> dict[str, Any]: ...

    @property
    def optional(self) -> Sequence[str]: ...

    def part(self, index: int, columns: Sequence[str] | None = None) -> list[dict[str, Any]]: ...

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]: ...


class Unscored:
    """All rows in memory. They have no `logprob` and no `importance`."""

    optional: Sequence[str] = ()

    def __init__(self, rows: Sequence[Row], examples: Sequence[Example]):
        """`examples`: of the rows, in their order; there may be rows without one."""
        parts = Parts()
        of = {id(row): parts.place(row) for row in rows}
        self.parts: list[list[Example]] = [[] for _ in range(parts.part + 1)]
        for example in examples:
            self.parts[of[id(example.row)]].append(example)
        self.sha256 = data_fingerprint(examples)

    @property
    def manifest(self) -> dict[str, Any]:
        return {"parts": [{"rows": len(part)} for part in self.parts]}

    def part(self, index: int, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """All columns that there are, whichever are asked for."""
        return [{"example_id": e.id, "input_ids": e.input_ids, "is_target": e.is_target} for e in self.parts[index]]

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        for index in range(len(self.parts)):
            yield from self.part(index, columns)
