"""`tu-score verify`: everything that can be wrong with a finished store, one line a problem.

`open_store` has checked the manifest before; each part is read through its hash and page checksums, then its rows are
checked one by one. A part that cannot be read is one problem, and the rest is checked all the same. One part is in
memory at a time; of every id a hash of 8 bytes is kept, in a file, and those that come twice are looked at again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa

from shared.errors import StoreError, printable
from shared.files.spill import Spilled
from shared.store.parts import TOKEN_COLUMNS
from shared.store.scores import Store
from shared.store.sound import ENTROPIES, FULL, LARGEST_VOCABULARY, LEAST_LOGPROB, SLACK, bounds
from shared.store.sound import problems as column_problems

PIECE = 2**20
"""hashes in memory at a time"""
NULL = np.inf
"""stands for null in arrays of signals, where infinity is refused in the end"""
FLOATS = [name for name, kind in TOKEN_COLUMNS.items() if kind == pa.float32()]


def problems_of(store: Store) -> list[str]:
    """Empty for a sound store."""
    problems, seen = [], Spilled(np.uint64)
    rows = tokens = 0
    for index, entry in enumerate(store.manifest["parts"]):
        rows, tokens = rows + entry["rows"], tokens + entry["tokens"]
        try:
            table = store.unchecked(index)
        except (StoreError, pa.ArrowException, OSError) as error:
            problems.append(printable(" ".join(str(error).split())))
            continue
        name, part = store.place.label(entry["file"]), table.to_pylist()
        found = len(part), sum(len(r["input_ids"] or ()) for r in part)
        if found != (entry["rows"], entry["tokens"]):
            problems.append(f"{name}: {found[0]} rows and {found[1]} tokens, the manifest says {entry['rows']} and {entry['tokens']}")
        before = len(problems)
        for row in part:
            shown = printable(str(row["example_id"]))
            problems += [f"{name}: {shown}: {problem}" for problem in row_problems(row, store.vocabulary_size)]
        seen.add(_hashes(row["example_id"] for row in part))
        if len(problems) == before:  # what a reader would refuse is named here, whatever the rules above leave open
            problems += [f"{name}: {problem}" for problem in column_problems(table, store.vocabulary_size)]
    problems += _twice(store, seen)
    if (rows, tokens) != (store.manifest["rows"], store.manifest["tokens"]):
        problems.append(f"{store.folder}: the parts hold {rows} rows and {tokens} tokens, the manifest says "
                        f"{store.manifest['rows']} and {store.manifest['tokens']}")  # fmt: skip
    if (planned := _planned(store)) is not None and planned != [entry["rows"] for entry in store.manifest["parts"]]:
        problems.append(f"{store.folder}: its parts have other numbers of rows than its plan gives them (part_rows)")
    if (ranges := store.manifest.get("row_ranges")) is not None and len(ranges) != len(store.manifest["parts"]):
        problems.append(f"{store.folder}: has {len(store.manifest['parts'])} parts, its plan {len(ranges)} (row_ranges)")
    known = {entry["file"] for entry in store.manifest["parts"]}
    strangers = [n for n in store.place.names() if n.endswith(".parquet") and n[0] not in "._" and n not in known]
    return problems + [
        f"{store.place.label(printable(name))}: not a part of this store, but pandas would read it along" for name in strangers
    ]


def _hashes(ids: Iterable[Any]) -> np.ndarray:
    """[N] uint64, the same in every process."""
    told = (hashlib.sha256(str(name).encode(errors="surrogatepass")).digest()[:8] for name in ids)
    return np.frombuffer(b"".join(told), dtype=np.uint64)


def _twice(store: Store, seen: Spilled) -> Iterator[str]:
    """Ids that stand in the store more than once. `seen`: the hashes of all of them, which are sorted."""
    with closing(seen):
        ordered = seen.mapped()
        ordered.sort()
        suspected = np.concatenate([piece[1:][piece[1:] == piece[:-1]] for piece in _overlapping(ordered)])
    if not len(suspected):
        return
    suspects, known = set(suspected.tolist()), set()
    for index, entry in enumerate(store.manifest["parts"]):
        try:
            ids = store.unchecked(index, ["example_id"])["example_id"].to_pylist()
        except (StoreError, pa.ArrowException, OSError):
            continue  # is a problem already
        for name in (name for name, told in zip(ids, _hashes(ids).tolist(), strict=True) if told in suspects):
            if name in known:
                yield f"{store.place.label(entry['file'])}: {printable(str(name))}: the id stands in the store twice"
            known.add(name)


def _overlapping(values: np.ndarray) -> Iterator[np.ndarray]:
    """The array in pieces that share an entry with the next one."""
    for at in range(0, max(1, len(values)), PIECE):
        yield values[at : at + PIECE + 1]


def unchecked(store: Store) -> str | None:
    """What cannot be told of a store that an earlier version made; None where all of it can."""
    if store.vocabulary_size is not None:
        return None
    return "not checked: token ids against the vocabulary, whose size earlier versions did not write down"


def _planned(store: Store) -> list[int] | None:
    """Examples of each part, of which a store of format 1 says so."""
    ranges = store.manifest.get("part_rows")
    if ranges is None:
        return None
    return [pair[1] - pair[0] if len(pair) == 2 else -1 for pair in ranges]


def row_problems(row: dict[str, Any], vocabulary: int | None = None) -> Iterator[str]:
    """What is wrong with one row."""
    missing = [name for name in ("example_id", *TOKEN_COLUMNS, "spans") if row[name] is None]
    if missing:
        yield f"no {', '.join(missing)}"
        return
    length = len(row["input_ids"])
    uneven = [f"{name} {len(row[name])}" for name in TOKEN_COLUMNS if len(row[name]) != length]
    if uneven or length < 2:
        yield f"lists of unequal or too small length (input_ids {length}, {', '.join(uneven)})"
        return
    null = [name for name in FULL if any(value is None for value in row[name])]
    if null:
        yield f"{', '.join(null)} null somewhere"
        return
    if not all(0 <= i < (vocabulary or LARGEST_VOCABULARY) for i in row["input_ids"]):
        yield f"input_ids holds an id below 0{'' if vocabulary is None else f', or beyond the vocabulary of {vocabulary}'}"
    values = {name: np.array([NULL if v is None else v for v in row[name]], dtype=np.float64) for name in FLOATS}
    target = np.array(row["is_target"], dtype=bool)
    for name in ("logprob", "entropy", "base_logprob", "base_entropy"):
        yield from _plain(name, values[name], vocabulary, optional=name.startswith("base_"))
    yield from _masked(row, values, target, vocabulary)
    yield from _optional(row, target, vocabulary)
    yield from _importance(row, target)
    if target[0] or not target.any():
        yield "the first token is a target" if target[0] else "no target"


def _importance(row: dict[str, Any], target: np.ndarray) -> Iterator[str]:
    given = [v for v in row["importance"] if v is not None]
    null = np.array([v is None for v in row["importance"]])
    if not null[~target].all():
        yield "importance off target is not null"
    if null[target].any() and not null.all():
        yield "importance is null at some targets only"
    if any(v != v for v in given):
        yield "importance is NaN, where a number or null belongs"
    if any(v < 0 or v > 1 for v in given):
        yield "importance outside 0 to 1"


def _plain(name: str, values: np.ndarray, vocabulary: int | None, *, optional: bool) -> Iterator[str]:
    """A signal of every token but the first; null is NULL, so that NaN is told from it."""
    null = np.isinf(values) & (values > 0)
    if optional and null.all():
        return
    if not null[0] or null[1:].any():
        yield f"{name} is null elsewhere than exactly at the first token"
    yield from _in_bounds(name, values[~null], vocabulary)


def _in_bounds(name: str, values: np.ndarray, vocabulary: int | None) -> Iterator[str]:
    """Of a signal's values that are there."""
    low_high = bounds(name, vocabulary)
    if not np.isfinite(values).all():
        yield f"{name} is not finite"
    elif low_high is not None and len(values):
        low, high = low_high
        if values.max() > high:
            yield f"{name} above {'log(vocabulary)' if name in ENTROPIES else f'{round(high):d}'}"
        if values.min() < low:
            yield f"{name} below {round(low):d}"


def _masked(row: dict[str, Any], values: dict[str, np.ndarray], target: np.ndarray, vocabulary: int | None) -> Iterator[str]:
    """The signals of masked variants, and the spans they speak of."""
    ends = [(s["start"], s["end"]) for s in row["spans"] if s is not None and None not in (s["start"], s["end"])]
    if len(ends) < len(row["spans"]):
        yield "a span is null"
    elif not all(0 <= start < end <= len(target) for start, end in ends):
        yield "a span lies outside the row"
    null = np.array([i is None for i in row["delta_span"]])
    if not null[~target].all() or not all(0 <= i < len(row["spans"]) for i in row["delta_span"] if i is not None):
        yield "delta_span off target is not null, or names no span"
    for name in ("delta", "delta_mean", "masked_entropy"):
        absent = np.isinf(values[name]) & (values[name] > 0)
        if (absent != null).any():
            yield f"{name} is not null exactly where delta_span is"
        yield from _in_bounds(name, values[name][~absent], vocabulary)


def _optional(row: dict[str, Any], target: np.ndarray, vocabulary: int | None) -> Iterator[str]:
    """The columns that not every store has."""
    named = [name for name in ("word", "copied", "tempered_entropy", "top_ids", "top_logprobs") if name in row]
    uneven = [name for name in named if len(row[name] or ()) != len(target)]
    if uneven:
        yield f"{', '.join(uneven)} of another length than the row"
        return
    if "word" in row and any(v is not None and (v < 0 or not t) for v, t in zip(row["word"], target, strict=True)):
        yield "word off target is not null, or below 0"
    for name in ("copied", "top_ids", "top_logprobs"):
        if name in row and any((v is not None) != t for v, t in zip(row[name], target, strict=True)):
            yield f"{name} is null elsewhere than exactly off target"
    if "tempered_entropy" in row:
        values = np.array([NULL if v is None else v for v in row["tempered_entropy"]], dtype=np.float64)
        yield from _plain("tempered_entropy", values, vocabulary, optional=False)
    yield from _likeliest([row[name] for name in ("top_ids", "top_logprobs") if name in row], vocabulary)
    if "span_deltas" in row:
        yield from _drops(row, len(target))


def _likeliest(columns: list[list], vocabulary: int | None) -> Iterator[str]:
    """top_ids and top_logprobs."""
    if len(columns) < 2:
        return
    ids, logprobs = ([v for v in column if v is not None] for column in columns)
    if any(entry is None for v in (*ids, *logprobs) for entry in v):
        yield "top_ids or top_logprobs hold a null"
        return
    if any(not all(LEAST_LOGPROB <= p <= SLACK for p in v) or sorted(v, reverse=True) != v for v in logprobs):
        yield "top_logprobs above 0, or not in order, or absurdly small"
    if not all(0 <= i < (vocabulary or LARGEST_VOCABULARY) for v in ids for i in v):
        yield "top_ids holds an id below 0 or beyond the vocabulary"
    if len({len(v) for v in (*ids, *logprobs)}) > 1:
        yield "top_ids and top_logprobs have lists of unequal length"


def _drops(row: dict[str, Any], length: int) -> Iterator[str]:
    drops = row["span_deltas"]
    if drops is None or [len(v or ()) for v in drops] != [length] * len(row["spans"]):
        yield "span_deltas is not a list a span with an entry a token"
    elif any(v is not None and not abs(v) <= -LEAST_LOGPROB for span in drops for v in span):
        yield "span_deltas is not finite"
    elif any(drops[k][t] != row["delta"][t] for t, k in enumerate(row["delta_span"]) if k is not None and 0 <= k < len(drops)):
        yield "delta is not what span_deltas holds of its span"
