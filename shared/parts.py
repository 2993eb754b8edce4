"""One part of a score store: its columns, its bytes, and its bytes checked before anything in them is believed.

A part is a Parquet file (zstd, page checksums). It is trusted only with the hash recorded for it in the manifest, and its pages carry
checksums that are verified on every read as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shared.errors import StoreError

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
"""columns that some stores lack (the first two: those of earlier versions; the others: where they were not asked for): one entry a token,
but for span_deltas (a list a span, in it an entry a token)"""

SPAN = pa.struct([("start", pa.int32()), ("end", pa.int32())])


def schema(optional: Iterable[str] = ()) -> pa.Schema:
    """The columns of a part, always in the same order. Raises StoreError for an optional column that this version does not know."""
    unknown = sorted(set(optional) - set(OPTIONAL))
    if unknown:
        raise StoreError(f"the store has a column {unknown[0]!r}, which this version does not know; upgrade token-unlearn")
    fields = [("example_id", pa.string()), *((name, pa.list_(kind)) for name, kind in TOKEN_COLUMNS.items()), ("spans", pa.list_(SPAN))]
    return pa.schema([*fields, *((name, kind) for name, kind in OPTIONAL.items() if name in set(optional))])


SCHEMA = schema()


def part_name(index: int) -> str:
    return f"part-{index:05d}.parquet"


def encode(table: pa.Table, columns: pa.Schema) -> bytes:
    """A table as the bytes of a part; the bytes depend on the values alone, not on how the table is chunked."""
    table = table.select(columns.names).cast(columns).combine_chunks()
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def describe(index: int, table: pa.Table, data: bytes) -> dict[str, Any]:
    """What the manifest says of a part."""
    tokens = sum(len(chunk.flatten()) for chunk in table["input_ids"].chunks)
    return {"file": part_name(index), "rows": len(table), "tokens": tokens, "bytes": len(data), "sha256": sha256(data)}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes, label: str, columns: Sequence[str] | None = None, expected: pa.Schema | None = None) -> pa.Table:
    """A part whose hash has been compared, or those columns of it. One thread: parts are small, and memory stays that of one part.

    Raises StoreError when it is no Parquet file, a page is damaged, or its columns are not the `expected` ones.
    """
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            if expected is not None and file.schema_arrow != expected:
                raise StoreError(f"{label}: its columns are not those of the store's format; it was written by something else")
            return file.read(columns=None if columns is None else list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(
            f"{label}: not a readable part: {str(error).splitlines()[0][:200]}; copy the folder again or score again"
        ) from None


def flat(table: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The entries of all lists of a column, null as NaN, and the offsets of the lists."""
    lists = table.column(name).combine_chunks()  # one array, whose offsets begin at 0
    return lists.flatten().to_numpy(zero_copy_only=False), lists.offsets.to_numpy()
