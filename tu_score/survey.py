"""One pass over the columns of a whole store, part by part in numpy: a histogram of every signal, and the tokens where
one is largest.

Memory is that of one part; the cost is reading the store once. Histogram bins are multiples of a power of two, so that
the bins of a part that reaches further can be merged with those before it without looking at a value twice: counts are
exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from shared.errors import ConfigError
from shared.store.parts import flat, schema
from shared.store.scores import Store
from tu_score.shading import SIGNALS, held_signals, signal_of, visible

FINEST = 2.0**-20
FINE_BINS = 4096
"""bins kept while the pass lasts"""
BINS = 40
"""bins shown, at most"""
LARGE = 20_000_000
"""tokens; of a store that has more, histograms are of parts with about so many, which takes a minute or so"""
BEFORE, AFTER = 28, 20
"""characters of context around a token in a list"""


@dataclass
class Histogram:
    """Counts of values in bins [k · width, (k + 1) · width); the last bin of `bars` includes its right edge."""

    width: float = FINEST
    counts: dict[int, int] = field(default_factory=dict)
    nulls: int = 0
    number: int = 0
    total: float = 0.0
    low: float = np.inf
    high: float = -np.inf

    def add(self, values: np.ndarray) -> None:
        """`values`: [N] float64, NaN where null."""
        there = values[~np.isnan(values)]
        self.nulls += len(values) - len(there)
        if not len(there):
            return
        self.number += len(there)
        self.total += float(there.sum())
        self.low, self.high = min(self.low, float(there.min())), max(self.high, float(there.max()))
        self._widen(FINE_BINS)
        keys = np.floor(there / self.width).astype(np.int64)
        first = keys.min()
        counts = np.bincount(keys - first)
        for k in np.flatnonzero(counts).tolist():
            self.counts[k + int(first)] = self.counts.get(k + int(first), 0) + int(counts[k])

    @property
    def mean(self) -> float:
        return self.total / self.number

    def bars(self) -> tuple[np.ndarray, np.ndarray]:
        """Counts [B] and edges [B + 1] of at most BINS bins that span the values."""
        self._widen(BINS)
        first, last = self._ends()
        counts = np.array([self.counts.get(k, 0) for k in range(first, last + 1)])
        if last * self.width == self.high and last > first:  # as numpy has it: a largest value on the last edge is inside
            counts[-2] += counts[-1]
            counts, last = counts[:-1], last - 1
        return counts, np.arange(first, last + 2) * self.width

    def _ends(self) -> tuple[int, int]:
        return int(np.floor(self.low / self.width)), int(np.floor(self.high / self.width))

    def _widen(self, bins: int) -> None:
        while (ends := self._ends())[1] - ends[0] >= bins:
            self.width *= 2
            merged: dict[int, int] = {}
            for k, count in self.counts.items():
                merged[k // 2] = merged.get(k // 2, 0) + count
            self.counts = merged


@dataclass(frozen=True)
class TopToken:
    value: float
    example: str
    before: str
    text: str
    after: str


def drawn_parts(store: Store) -> list[int]:
    """All parts, or of a large store some that are evenly spaced; the same each time."""
    parts, tokens = len(store.manifest["parts"]), store.manifest["tokens"]
    wanted = parts if tokens <= LARGE else max(1, parts * LARGE // tokens)
    return sorted({int(i) for i in np.linspace(0, parts - 1, wanted)})


def histograms(store: Store, parts: Sequence[int] | None = None) -> dict[str, Histogram]:
    """A histogram over all target tokens, or those of some parts, for each signal that the store's columns can give;
    one of nothing but nulls has no bins."""
    found = {name: Histogram() for name in held_signals(schema(store.optional).names)}
    columns = {"is_target", *(column for name in found for column in SIGNALS[name].columns)}
    for index in range(len(store.manifest["parts"])) if parts is None else parts:
        table = store.table(index, sorted(columns))
        at = flat(table, "is_target")[0].astype(bool)
        for name, histogram in found.items():
            histogram.add(_signal(table, name)[at])
    return found


def top_tokens(store: Store, name: str, count: int) -> list[TopToken]:
    """The `count` target tokens with the largest signal (signed ones by size), ties to the earlier; fewer when the
    store holds fewer."""
    if count < 1:
        raise ConfigError(f"--top {count}: expected at least 1")
    if name not in held_signals(schema(store.optional).names):
        return []
    best: list[tuple[float, TopToken]] = []
    for table in store.batches(["example_id", "tokens", "is_target", *SIGNALS[name].columns]):
        values = _signal(table, name)
        size = np.abs(values) if SIGNALS[name].signed else values
        size = np.where(flat(table, "is_target")[0].astype(bool) & ~np.isnan(size), size, -np.inf)
        bound = best[-1][0] if len(best) == count else -np.inf
        order = [i for i in np.argsort(-size, kind="stable")[:count].tolist() if size[i] > bound]
        best = sorted([*best, *((float(size[i]), _in_context(table, i, float(values[i]))) for i in order)], key=lambda pair: -pair[0])[
            :count
        ]
    return [token for _, token in best]


def _in_context(table: pa.Table, flat: int, value: float) -> TopToken:
    """`flat`: index of the token over all rows of the table."""
    lengths = np.concatenate([chunk.value_lengths().to_numpy() for chunk in table["tokens"].chunks])
    ends = np.cumsum(lengths)
    row = int(np.searchsorted(ends, flat, side="right"))
    tokens, at = table["tokens"][row].as_py(), flat - int(ends[row] - lengths[row])
    before, after = visible("".join(tokens[max(0, at - BEFORE) : at])), visible("".join(tokens[at + 1 : at + 1 + AFTER]))
    before = "…" + before[1 - BEFORE :] if len(before) > BEFORE else before
    after = after[: AFTER - 1] + "…" if len(after) > AFTER else after
    return TopToken(value, table["example_id"][row].as_py(), before, visible(tokens[at]), after)


def _signal(table: pa.Table, name: str) -> np.ndarray:
    return signal_of({column: flat(table, column)[0].astype(np.float64) for column in SIGNALS[name].columns}, name)
