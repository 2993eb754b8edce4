"""Checks of the values of a part, over whole columns at once, before a reader sees them.

A hash says that a part is as somebody wrote it; it does not say that its numbers make sense. `tu-score verify` says
what is wrong with each row. Only the columns that are read are checked, and a check costs a few passes in numpy over
each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shared.errors import StoreError
from shared.store.parts import TOKEN_COLUMNS

SLACK = 1e-6
"""nats; a certain token may come out a rounding above 0"""
ENTROPY_SLACK = 1e-3
"""nats above the logarithm of the vocabulary, which a sum in float32 may reach"""
LEAST_LOGPROB = -1e6
"""nats; float32 logits of no model that says anything lie that far apart"""
LARGEST_VOCABULARY = 2**31
LOGPROBS, ENTROPIES = ("logprob", "base_logprob"), ("entropy", "masked_entropy", "base_entropy", "tempered_entropy")
DROPS = ("delta", "delta_mean")
FULL = ("input_ids", "tokens", "is_target")
"""columns without nulls"""
PER_TOKEN = (*TOKEN_COLUMNS, "word", "copied", "tempered_entropy", "top_ids", "top_logprobs")


def most_entropy(vocabulary: int | None) -> float:
    """Nats; of no vocabulary that is known, those of the largest that 32-bit ids can name."""
    return math.log(vocabulary or LARGEST_VOCABULARY) + ENTROPY_SLACK


def bounds(name: str, vocabulary: int | None) -> tuple[float, float] | None:
    """Between which a column's values lie; None for columns without such."""
    if name == "importance":
        return 0.0, 1.0
    if name in LOGPROBS:
        return LEAST_LOGPROB, SLACK
    if name in ENTROPIES:
        return -SLACK, most_entropy(vocabulary)
    if name in DROPS:
        return LEAST_LOGPROB, -LEAST_LOGPROB
    return (0, (vocabulary or LARGEST_VOCABULARY) - 1) if name == "input_ids" else None


def require_sound(table: pa.Table, label: str, vocabulary: int | None) -> pa.Table:
    """The table. Raises StoreError naming the part and the first problem of its columns."""
    wrong = next(problems(table, vocabulary), None)
    if wrong is not None:
        raise StoreError(f"{label}: {wrong}; tu-score verify names the rows, copy the folder again or score again")
    return table


def problems(table: pa.Table, vocabulary: int | None) -> Iterator[str]:
    held = [name for name in PER_TOKEN if name in table.column_names]
    columns = {name: table.column(name).combine_chunks() for name in [*held, *(n for n in ("spans",) if n in table.column_names)]}
    if "example_id" in table.column_names and table.column("example_id").null_count:
        yield "a row has no example_id"
    for name, column in columns.items():
        if column.null_count:
            yield f"a row has no {name}"
            return
    lengths = {name: pc.list_value_length(column).to_numpy(zero_copy_only=False) for name, column in columns.items()}  # type: ignore[attr-defined]
    for name in held[1:]:
        if not np.array_equal(lengths[name], lengths[held[0]]):
            yield f"the lists of {held[0]} and {name} are of unequal length"
            return
    for name in held:
        yield from _values(name, columns[name].flatten(), vocabulary)
    if "spans" in columns:
        yield from _spans(columns["spans"], lengths["spans"], lengths[held[0]] if held else None)
    if "delta_span" in columns:
        yield from _which(columns["delta_span"], lengths["delta_span"], lengths.get("spans"))
    yield from _likeliest([columns[name] for name in ("top_ids", "top_logprobs") if name in columns], vocabulary)
    if "span_deltas" in table.column_names:
        yield from _drops(table.column("span_deltas").combine_chunks(), lengths.get("spans"), lengths[held[0]] if held else None)
    if "is_target" in columns:
        yield from _targets(columns, lengths["is_target"])


def _values(name: str, flat: pa.Array, vocabulary: int | None) -> Iterator[str]:
    if name in FULL and flat.null_count:
        yield f"{name} is null somewhere"
    low_high = bounds(name, vocabulary)
    if low_high is None or not len(flat):
        return
    values = flat.drop_null().to_numpy(zero_copy_only=False)
    if not len(values):
        return
    low, high = low_high
    if not bool(((values >= low) & (values <= high)).all()):  # NaN is in no order
        yield f"{name} outside {low:g} to {high:g}, or no number"


def _spans(column: pa.ListArray, counts: np.ndarray, lengths: np.ndarray | None) -> Iterator[str]:
    flat = column.flatten()
    starts, ends = (pc.struct_field(flat, name) for name in ("start", "end"))  # type: ignore[attr-defined]
    if flat.null_count or starts.null_count or ends.null_count:
        yield "a span is null"
        return
    first, last = starts.to_numpy(zero_copy_only=False), ends.to_numpy(zero_copy_only=False)
    inside = np.repeat(lengths, counts) if lengths is not None else LARGEST_VOCABULARY
    if not bool(((first >= 0) & (first < last) & (last <= inside)).all()):
        yield "a span lies outside the row"


def _which(column: pa.ListArray, lengths: np.ndarray, spans: np.ndarray | None) -> Iterator[str]:
    flat = column.flatten()
    there = ~flat.is_null().to_numpy(zero_copy_only=False)
    values = flat.drop_null().to_numpy(zero_copy_only=False)
    most = np.repeat(spans, lengths)[there] if spans is not None else LARGEST_VOCABULARY
    if not bool(((values >= 0) & (values < most)).all()):
        yield "delta_span names no span"


def _likeliest(columns: list[pa.ListArray], vocabulary: int | None) -> Iterator[str]:
    """top_ids and top_logprobs, a list a target each."""
    flat = [column.flatten() for column in columns]
    counts = [pc.list_value_length(entries).fill_null(-1).to_numpy(zero_copy_only=False) for entries in flat]  # type: ignore[attr-defined]
    if len(counts) == 2 and not np.array_equal(*counts):
        yield "top_ids and top_logprobs have lists of unequal length"
        return
    for entries in flat:
        values = entries.flatten()
        low, high = (0, (vocabulary or LARGEST_VOCABULARY) - 1) if pa.types.is_integer(values.type) else (LEAST_LOGPROB, SLACK)
        there = values.drop_null().to_numpy(zero_copy_only=False)
        if values.null_count or not bool(((there >= low) & (there <= high)).all()):
            yield f"top_ids or top_logprobs outside {low:g} to {high:g}, or no number"


def _drops(column: pa.ListArray, spans: np.ndarray | None, lengths: np.ndarray | None) -> Iterator[str]:
    """span_deltas: a list a span, in it an entry a token."""
    outer = pc.list_value_length(column).fill_null(-1).to_numpy(zero_copy_only=False)  # type: ignore[attr-defined]
    flat = column.flatten()
    inner = pc.list_value_length(flat).fill_null(-1).to_numpy(zero_copy_only=False)  # type: ignore[attr-defined]
    if (outer < 0).any() or (spans is not None and not np.array_equal(outer, spans)):
        yield "span_deltas is not a list a span"
    elif (inner < 0).any() or (lengths is not None and not np.array_equal(inner, np.repeat(lengths, outer))):
        yield "span_deltas is not a list a span with an entry a token"
    else:
        values = flat.flatten().drop_null().to_numpy(zero_copy_only=False)
        if not bool((np.abs(values) <= -LEAST_LOGPROB).all()):
            yield "span_deltas is not finite"


def _targets(columns: dict[str, pa.ListArray], lengths: np.ndarray) -> Iterator[str]:
    """A first token is drawn from nothing; importance is there at every target of a row, or at none."""
    at = columns["is_target"].flatten().to_numpy(zero_copy_only=False).astype(bool)
    starts = np.cumsum(lengths) - lengths
    if at[starts[lengths > 0]].any():
        yield "the first token of a row is a target"
    if "importance" in columns:
        null = columns["importance"].flatten().is_null().to_numpy(zero_copy_only=False)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        targets, nulls = (np.bincount(rows[which], minlength=len(lengths)) for which in (at, at & null))
        if ((nulls > 0) & (nulls < targets)).any():
            yield "importance is null at some targets of a row only"
