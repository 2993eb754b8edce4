"""One part of a score store: its columns, its bytes, and its bytes checked before anything in them is believed.

A part is a Parquet file (zstd, page checksums). It is trusted only with the hash recorded for it in the manifest, and
its pages carry checksums that are verified on every read as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shared.errors import StoreError
from shared.store.pages import unpacked_sizes

TOKEN_COLUMNS = {
    "input_ids": pa.int32(),
    "tokens": pa.string(),
    "is_target": pa.bool_(),
    "logprob": pa.float32(),
    "entropy": pa.float32(),
    "delta": pa.float32(),
    "delta_mean": pa.float32(),
    "masked_entropy": pa.float32(),
    "base_logprob": pa.float32(),
    "base_entropy": pa.float32(),
    "delta_span": pa.int32(),
    "importance": pa.float32(),
}
"""columns with one entry a token"""

OPTIONAL = {
    "word": pa.list_(pa.int32()),
    "copied": pa.list_(pa.bool_()),
    "tempered_entropy": pa.list_(pa.float32()),
    "top_ids": pa.list_(pa.list_(pa.int32())),
    "top_logprobs": pa.list_(pa.list_(pa.float32())),
    "span_deltas": pa.list_(pa.list_(pa.float32())),
}
"""columns that some stores lack (the first two: those of earlier versions; the others: where they were not asked for):
one entry a token, but for span_deltas (a list a span, in it an entry a token)"""

SPAN = pa.struct([("start", pa.int32()), ("end", pa.int32())])


def schema(optional: Iterable[str] = ()) -> pa.Schema:
    """The columns of a part, always in the same order. Raises StoreError for an optional column that this version does
    not know."""
    unknown = sorted(set(optional) - set(OPTIONAL))
    if unknown:
        raise StoreError(f"the store has a column {unknown[0]!r}, which this version does not know; upgrade token-unlearn")
    fields = [("example_id", pa.string()), *((name, pa.list_(kind)) for name, kind in TOKEN_COLUMNS.items()), ("spans", pa.list_(SPAN))]
    return pa.schema([*fields, *((name, kind) for name, kind in OPTIONAL.items() if name in set(optional))])


SCHEMA = schema()
PER_TOKEN = (*TOKEN_COLUMNS, "word", "copied", "tempered_entropy")
REPEATED_COLUMNS = ("example_id", "tokens")
REPEATED = ["example_id", "tokens.list.element"]
"""texts, of which a file may name one a million times in a few bytes"""
LARGEST_RATIO, LARGEST_PART = 64, 1 << 28
"""bytes that a part may unpack to: so many for each of its own, and so many more"""
BYTES_A_TOKEN, LARGEST_TEXT = 256, 1 << 26
"""of all texts together, on average, and so many more"""


def part_name(index: int) -> str:
    return f"part-{index:05d}.parquet"


def encode(table: pa.Table, columns: pa.Schema) -> bytes:
    """A table as the bytes of a part; the bytes depend on the values alone, not on how the table is chunked."""
    table = table.select(columns.names).cast(columns).combine_chunks()
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def describe(index: int, table: pa.Table, data: bytes, noticed: dict[str, int] | None = None) -> dict[str, Any]:
    """What the manifest says of a part; `noticed`: how often something was left out of it, or cut."""
    tokens = sum(len(chunk.flatten()) for chunk in table["input_ids"].chunks)
    about = {"file": part_name(index), "rows": len(table), "tokens": tokens, "bytes": len(data), "sha256": sha256(data)}
    return {**about, "noticed": noticed} if noticed else about


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def decode(
    data: bytes, label: str, columns: Sequence[str] | None = None, expected: pa.Schema | None = None, *, rows: int, tokens: int
) -> pa.Table:
    """A part whose hash has been compared, or those columns of it. One thread: parts are small, and memory stays that
    of one part.

    Raises StoreError when it is no Parquet file, a page is damaged, its columns are not the `expected` ones, or it
    holds other numbers of rows and tokens than the manifest says (which is looked up before anything is unpacked: a few
    bytes can unpack to gigabytes).
    """
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            if expected is not None and file.schema_arrow != expected:
                raise StoreError(f"{label}: its columns are not those of the store's format; it was written by something else")
            named = [name for name in file.schema_arrow.names if columns is None or name in columns]  # of those asked for, those there are
            _check_size(file.metadata, data, label, named, rows, tokens)
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True, read_dictionary=REPEATED) as file:
            return _plain(file.read(columns=named, use_threads=False), label, tokens)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise StoreError(
            f"{label}: not a readable part: {str(error).splitlines()[0][:200]}; copy the folder again or score again"
        ) from None


def _check_size(about: pq.FileMetaData, data: bytes, label: str, named: Sequence[str], rows: int, tokens: int) -> None:
    """Raises StoreError for a part that holds more than the manifest says, by its own table of contents or by its
    pages."""
    if about.num_rows != rows:
        raise StoreError(f"{label}: holds {about.num_rows} rows, its manifest says {rows}; copy the folder again or score again")
    chunks = [about.row_group(g).column(c) for g in range(about.num_row_groups) for c in range(about.num_columns)]
    unpacked = 0
    for chunk in chunks:
        name = chunk.path_in_schema.partition(".")[0]
        if name not in named:
            continue
        if name in PER_TOKEN and chunk.num_values > tokens + rows:  # an empty list counts as one
            raise StoreError(
                f"{label}: {name} holds more values than the {tokens} tokens of its manifest; copy the folder again or score again"
            )
        pages = sum(unpacked_sizes(data, chunk)) if chunk.num_values else 0  # a part may be empty: then there is no page
        unpacked += max(chunk.total_uncompressed_size, pages)
    if unpacked > LARGEST_RATIO * len(data) + LARGEST_PART:
        raise StoreError(f"{label}: its {len(data)} bytes unpack to {unpacked}, more than any part's; copy the folder again or score again")


def _plain(table: pa.Table, label: str, tokens: int) -> pa.Table:
    """Texts that were read as (entries, indices) written out, if that is no more than a part holds."""
    for name in REPEATED_COLUMNS:
        place = table.schema.get_field_index(name)
        if place < 0:
            continue
        column = table.column(place).combine_chunks()
        values = column.flatten() if pa.types.is_list(column.type) else column
        if pa.types.is_dictionary(values.type):
            sizes = pc.binary_length(values.dictionary).fill_null(0)  # type: ignore[attr-defined]
            size = pc.sum(sizes.take(values.indices.drop_null())).as_py() or 0  # type: ignore[attr-defined]
            if size > LARGEST_TEXT + BYTES_A_TOKEN * tokens:
                raise StoreError(f"{label}: the texts of its {tokens} tokens have {size} bytes; copy the folder again or score again")
            kind = pa.list_(pa.field("element", pa.string())) if pa.types.is_list(column.type) else pa.string()
            column = column.cast(kind)
        table = table.set_column(place, pa.field(name, column.type), column)
    return table


def flat(table: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The entries of all lists of a column, null as NaN, and the offsets of the lists."""
    lists = table.column(name).combine_chunks()  # one array, whose offsets begin at 0
    return lists.flatten().to_numpy(zero_copy_only=False), lists.offsets.to_numpy()
