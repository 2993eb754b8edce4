"""A number with the rows behind it, and whether two models differ in it.

All models of a report are asked the same rows, so a difference is that of the pairs: the rows, or where the suite names
them the clusters of rows, are redrawn 1,000 times (percentile method, clusters widened as in compare/intervals.py), and
the interval is the middle 95 % of the mean differences. A number without rows of its own, such as the AUC of membership
inference, has only the interval that it came with; two of these differ where the intervals do not overlap, which finds
less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tu_eval.compare.intervals import DRAWS, LEVEL, SEED, Bounds, clusters_of, stretch

Clusters = Mapping[str, str | None]
"""example id -> what the row is about; rows of one are not independent"""


@dataclass(frozen=True)
class Number:
    """One measure of one model."""

    value: float
    rows: Mapping[str, float] = field(default_factory=dict)
    """example id -> its value; `value` is their mean. Empty: the measure is not a mean over rows"""
    span: Bounds | None = None
    """95 % interval"""
    n: int = 0
    """rows, or questions"""
    clusters: Clusters = field(default_factory=dict)


def of_rows(rows: Mapping[str, float], clusters: Clusters | None = None) -> Number:
    """The mean over rows (at least one), with its bootstrap interval."""
    own = clusters or {}
    return Number(mean(rows.values()), rows, _drawn(list(rows.values()), [own.get(name) for name in rows]), len(rows), own)


def mean(values: Iterable[float]) -> float:
    kept = list(values)
    return math.fsum(kept) / len(kept)


def _drawn(values: Sequence[float], names: Sequence[str | None]) -> Bounds:
    import numpy as np

    clusters = clusters_of([{"cluster": name} for name in names])
    size = len(values) if clusters is None else int(clusters.max()) + 1
    counts = np.random.default_rng(SEED).multinomial(size, [1 / size] * size, DRAWS)
    counts = counts if clusters is None else counts[:, clusters]
    low, high = np.percentile(counts @ np.array(values) / counts.sum(1), (50 * (1 - LEVEL), 50 * (1 + LEVEL)))
    found = mean(values)
    ends = min(float(low), found), max(float(high), found)
    return ends if clusters is None else tuple(found + stretch(size) * (end - found) for end in ends)  # type: ignore[return-value]


def difference(first: Number, second: Number) -> Bounds | None:
    """95 % interval of first − second; None where neither rows nor intervals are there to tell."""
    common = [name for name in first.rows if name in second.rows]
    if common and len(common) == len(first.rows) == len(second.rows):
        return _drawn([first.rows[name] - second.rows[name] for name in common], [first.clusters.get(name) for name in common])
    if first.span is None or second.span is None:
        return None
    return first.span[0] - second.span[1], first.span[1] - second.span[0]


def above(first: Number, second: Number) -> bool:
    """Whether the first is higher beyond chance; without any interval, whether it is higher at all."""
    interval = difference(first, second)
    return interval[0] > 0 if interval is not None else first.value > second.value
