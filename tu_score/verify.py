"""`tu-score verify`: everything that can be wrong with a finished store, one line a problem.

`open_store` has checked the manifest before; each part is read through its hash and page checksums, then its rows are checked
one by one. A part that cannot be read is one problem, and the rest is checked all the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from shared.errors import StoreError
from shared.scores import TOKEN_COLUMNS, Store

LOGPROB_SLACK = 1e-6
"""nats; a certain token may come out a rounding above 0"""


def problems_of(store: Store) -> list[str]:
    """Empty for a sound store."""
    problems, seen = [], set()
    rows = tokens = 0
    for index, entry in enumerate(store.manifest["parts"]):
        rows, tokens = rows + entry["rows"], tokens + entry["tokens"]
        try:
            part = store.part(index)
        except (StoreError, pa.ArrowException, OSError) as error:
            problems.append(" ".join(str(error).split()))
            continue
        name = store.place.label(entry["file"])
        found = len(part), sum(len(r["input_ids"] or ()) for r in part)
        if found != (entry["rows"], entry["tokens"]):
            problems.append(f"{name}: {found[0]} rows and {found[1]} tokens, the manifest says {entry['rows']} and {entry['tokens']}")
        for row in part:
            problems += [f"{name}: {row['example_id']}: {problem}" for problem in row_problems(row)]
            if row["example_id"] in seen:
                problems.append(f"{name}: {row['example_id']}: the id stands in the store twice")
            seen.add(row["example_id"])
    if (rows, tokens) != (store.manifest["rows"], store.manifest["tokens"]):
        problems.append(f"{store.folder}: the parts hold {rows} rows and {tokens} tokens, the manifest says "
                        f"{store.manifest['rows']} and {store.manifest['tokens']}")  # fmt: skip
    known = {entry["file"] for entry in store.manifest["parts"]}
    strangers = [n for n in store.place.names() if n.endswith(".parquet") and n[0] not in "._" and n not in known]
    return problems + [f"{store.place.label(name)}: not a part of this store, but pandas would read it along" for name in strangers]


def row_problems(row: dict[str, Any]) -> Iterator[str]:
    """What is wrong with one row."""
    missing = [name for name in TOKEN_COLUMNS if row[name] is None]
    if missing:
        yield f"no {', '.join(missing)}"
        return
    length = len(row["input_ids"])
    uneven = [f"{name} {len(row[name])}" for name in TOKEN_COLUMNS if len(row[name]) != length]
    if uneven or length < 2:
        yield f"lists of unequal or too small length (input_ids {length}, {', '.join(uneven)})"
        return
    values = {name: np.array(row[name], dtype=np.float64) for name, kind in TOKEN_COLUMNS.items() if kind == pa.float32()}
    target = np.array(row["is_target"], dtype=bool)
    for name in ("logprob", "entropy", "base_logprob", "base_entropy"):
        yield from _plain(name, values[name], optional=name.startswith("base_"))
    yield from _masked(row, values, target)
    yield from _optional(row, target)
    weight = values["importance"]
    if not np.isnan(weight[~target]).all():
        yield "importance off target is not null"
    if np.isnan(weight[target]).any() and not np.isnan(weight).all():
        yield "importance is null at some targets only"
    if (weight < 0).any() or (weight > 1).any():
        yield "importance outside 0 to 1"
    if target[0] or not target.any():
        yield "the first token is a target" if target[0] else "no target"


def _plain(name: str, values: np.ndarray, *, optional: bool) -> Iterator[str]:
    """A signal of every token but the first."""
    if optional and np.isnan(values).all():
        return
    null = np.isnan(values)
    if not null[0] or null[1:].any():
        yield f"{name} is null elsewhere than exactly at the first token"
    finite = values[~null]
    if np.isinf(finite).any():
        yield f"{name} is not finite"
    elif name.endswith("entropy") and (finite < -LOGPROB_SLACK).any():
        yield f"{name} below 0"
    elif name.endswith("logprob") and (finite > LOGPROB_SLACK).any():
        yield f"{name} above 0"


def _masked(row: dict[str, Any], values: dict[str, np.ndarray], target: np.ndarray) -> Iterator[str]:
    """The signals of masked variants, and the spans they speak of."""
    spans = row["spans"] if row["spans"] is not None else []
    if any(not 0 <= s["start"] < s["end"] <= len(target) for s in spans):
        yield "a span lies outside the row"
    which = [math.nan if i is None else i for i in row["delta_span"]]
    null = np.isnan(which)
    if not (null[~target]).all() or any(i >= len(spans) or i < 0 for i in which if i == i):
        yield "delta_span off target is not null, or names no span"
    for name in ("delta", "delta_mean", "masked_entropy"):
        if (np.isnan(values[name]) != null).any():
            yield f"{name} is not null exactly where delta_span is"
        if np.isinf(values[name]).any():
            yield f"{name} is not finite"
    if (values["masked_entropy"] < -LOGPROB_SLACK).any():
        yield "masked_entropy below 0"


def _optional(row: dict[str, Any], target: np.ndarray) -> Iterator[str]:
    """The columns that not every store has."""
    named = ("word", "copied", "tempered_entropy", "top_ids", "top_logprobs")
    uneven = [name for name in named if name in row and len(row[name] or ()) != len(target)]
    if uneven:
        yield f"{', '.join(uneven)} of another length than the row"
        return
    if "word" in row and any(v is not None and (v < 0 or not t) for v, t in zip(row["word"], target, strict=True)):
        yield "word off target is not null, or below 0"
    if "copied" in row and any((v is not None) != t for v, t in zip(row["copied"], target, strict=True)):
        yield "copied is null elsewhere than exactly off target"
    if "tempered_entropy" in row:
        yield from _plain("tempered_entropy", np.array(row["tempered_entropy"], dtype=np.float64), optional=False)
    for name in ("top_ids", "top_logprobs"):
        if name in row and any((v is not None) != t for v, t in zip(row[name], target, strict=True)):
            yield f"{name} is null elsewhere than exactly off target"
    if "top_logprobs" in row and any(sorted(v, reverse=True) != v or max(v) > LOGPROB_SLACK for v in row["top_logprobs"] if v):
        yield "top_logprobs above 0, or not in order"
    if {"top_ids", "top_logprobs"} <= set(row) and len({len(v) for v in (*row["top_ids"], *row["top_logprobs"]) if v is not None}) > 1:
        yield "top_ids and top_logprobs have lists of unequal length"
    if "span_deltas" not in row:
        return
    drops = row["span_deltas"]
    if drops is None or [len(v or ()) for v in drops] != [len(target)] * len(row["spans"] or ()):
        yield "span_deltas is not a list a span with an entry a token"
    elif any(drops[k][t] != row["delta"][t] for t, k in enumerate(row["delta_span"]) if k is not None and 0 <= k < len(drops)):
        yield "delta is not what span_deltas holds of its span"
