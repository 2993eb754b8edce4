"""Parquet that somebody else may have written, read within bounds and with the columns and kinds of values that are
expected."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.console import readable_bytes
from shared.errors import StoreError

if TYPE_CHECKING:
    import pyarrow

LARGEST = 1 << 31
"""bytes of a column's values in memory; the rows of a large suite have some millions"""


def read_table(path: Path, expected: pyarrow.Schema, *, rows: int, required: frozenset[str]) -> list[dict[str, Any]]:
    """`rows` rows with the columns of `expected`; one that is missing is null throughout, unless it is `required`.

    Raises StoreError naming the file for other rows, columns or kinds of values, and for values that would not fit into
    memory.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        named = set(pyarrow.parquet.read_schema(path).names)
        texts = [name for name in _texts(expected) if name in named]
        file = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True, read_dictionary=texts)
        if file.metadata.num_rows != rows:
            raise StoreError(f"{path}: has {file.metadata.num_rows} rows, its summary says {rows}; evaluate again")
        there = set(file.schema_arrow.names)
        if missing := sorted(required - there):
            raise StoreError(f"{path}: has no column {missing[0]!r}; evaluate again")
        _require_room(path, file)
        names = [name for name in expected.names if name in there]
        table = file.read(columns=names)
        table.validate(full=True)
        _require_texts_fit(path, table)
        fields = [expected.field(name) for name in names]
        return [{name: row.get(name) for name in expected.names} for row in table.cast(pyarrow.schema(fields)).to_pylist()]
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, NotImplementedError, OverflowError) as error:
        told = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise StoreError(f"{path}: cannot be read ({told}); evaluate again") from None


def rows_of(path: Path) -> int:
    """That the file says it has. Raises StoreError likewise."""
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path).metadata.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise StoreError(f"{path}: cannot be read ({(str(error).splitlines() or [''])[0][:200]}); evaluate again") from None


def _texts(expected: pyarrow.Schema) -> list[str]:
    """Kept as dictionaries: a page of a few bytes can stand for millions of long texts."""
    import pyarrow

    return [field.name for field in expected if pyarrow.types.is_string(field.type)]


def _require_room(path: Path, file: Any) -> None:
    groups = [file.metadata.row_group(k) for k in range(file.metadata.num_row_groups)]
    size = sum(max(group.total_byte_size, 0) for group in groups)
    if size > LARGEST:
        raise StoreError(f"{path}: unpacks to {readable_bytes(size)}, at most {readable_bytes(LARGEST)} are read; evaluate again")


def _require_texts_fit(path: Path, table: pyarrow.Table) -> None:
    import pyarrow
    import pyarrow.compute

    compute: Any = pyarrow.compute
    size = 0
    for column in table.columns:
        for chunk in column.chunks:
            if isinstance(chunk, pyarrow.DictionaryArray):
                lengths = compute.binary_length(chunk.dictionary)
                size += compute.sum(compute.take(lengths, chunk.indices)).as_py() or 0
    if size > LARGEST:
        raise StoreError(f"{path}: its texts unpack to {readable_bytes(size)}, at most {readable_bytes(LARGEST)} are read; evaluate again")


def require_between(path: Path, rows: list[dict[str, Any]], columns: dict[str, tuple[float, float]]) -> None:
    """Raises StoreError naming the row and the column of a number that is NaN or out of its range."""
    for number, row in enumerate(rows):
        for name, (low, high) in columns.items():
            value = row.get(name)
            if value is not None and (math.isnan(value) or not low <= value <= high):
                raise StoreError(f"{path}: row {number}: its {name} is {value!r}, expected {low:g} to {high:g}; evaluate again")
