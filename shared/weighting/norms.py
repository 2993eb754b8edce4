"""A signal -> 0..1, within each example or over a whole store.

    minmax   (x − low) / (high − low)
    rank     the same of the average rank: equal values share it, so that only the order counts
    zscore   Φ((x − mean) / std), the share of a normal distribution that lies below; std divides by the count
    max      x / high, values below 0 count as 0: keeps proportions, which min-max does not

Values that are all equal give zeros (max: ones, unless they are 0 or less): they tell no token from another.

Many examples are done at once: their values lie one after another in [N], `starts` [E + 1] says where each example
begins (the last entry is N). Within examples: O(N), rank O(N log N). Over a store, a first pass gathers a Summary, part
by part, in constant memory; rank is exact and therefore sorts all values, in a file, 8 bytes each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from shared.files.spill import Spilled

NormName = Literal["minmax", "rank", "zscore", "max"]


def per_example(reduce: np.ufunc, values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """[N] -> [N]: the ufunc's reduction over each example, repeated for each of its values. Empty examples are
    allowed."""
    lengths = np.diff(starts)
    first = starts[:-1][lengths > 0]
    return np.repeat(reduce.reduceat(values, first), lengths[lengths > 0]) if len(first) else np.zeros(0)


def moments(values: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (divided by the count) of each example, [N] each."""
    count = np.repeat(np.diff(starts), np.diff(starts))
    mean = per_example(np.add, values, starts) / count
    return mean, np.sqrt(per_example(np.add, (values - mean) ** 2, starts) / count)


def normalise(values: np.ndarray, starts: np.ndarray, norm: NormName) -> np.ndarray:
    """[N] float64 -> [N] in 0..1, each example by itself."""
    if norm == "rank":
        values = _ranks(values, starts)
    low, high = per_example(np.minimum, values, starts), per_example(np.maximum, values, starts)
    mean, std = moments(values, starts) if norm == "zscore" else (low, low)
    return _scale(values, norm, low, high, mean, std)


def _ranks(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Average rank of each value in its example; the absolute height of a rank is meaningless here, only differences
    count."""
    owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    order = np.lexsort((values, owner))
    new = np.ones(len(values), dtype=bool)
    new[1:] = (np.diff(values[order]) != 0) | (np.diff(owner) != 0)  # owner is sorted as it is
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(values)) - 1
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((first + last) / 2, last - first + 1)
    return ranks - np.repeat(starts[:-1], np.diff(starts))


def _scale(values, norm: NormName, low, high, mean, std) -> np.ndarray:
    """The formulas of the module; low, high, mean and std are numbers, or [N] with those of each value's example."""
    if norm == "max":
        return np.divide(np.maximum(values, 0), high, out=np.zeros(len(values)), where=high > np.zeros(len(values)))
    spread, centre = (std, mean) if norm == "zscore" else (high - low, low)
    differ = (high > low) & (spread > np.zeros(len(values)))
    out = np.divide(values - centre, spread, out=np.zeros(len(values)), where=differ)
    if norm == "zscore":
        from scipy.special import ndtr

        out = np.where(differ, ndtr(out), 0.0)
    return out


@dataclass
class Summary:
    """What one signal's values over a whole store come to; `add` takes them a part at a time."""

    norm: NormName
    count: int = 0
    low: float = np.inf
    high: float = -np.inf
    mean: float = 0.0
    squares: float = 0.0
    """sum of squared deviations from the mean"""
    seen: Spilled | None = None
    """rank only: all values, until the first of them is ranked"""
    ordered: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """the same from then on, in order"""

    def add(self, values: np.ndarray) -> None:
        """More of them, [N]."""
        if not len(values):
            return
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        mean, count = float(values.mean()), self.count + len(values)
        gap = mean - self.mean
        # Two means and sums of squares become one (Chan, Golub, LeVeque 1979): no sum of large squares that cancel.
        self.squares += float(((values - mean) ** 2).sum()) + gap**2 * self.count * len(values) / count
        self.mean += gap * len(values) / count
        self.count = count
        if self.norm == "rank":
            self.seen = self.seen or Spilled(float)
            self.seen.add(values)

    def normalise(self, values: np.ndarray) -> np.ndarray:
        """[N] -> [N] in 0..1; the values are among those that were added."""
        low, high = self.low, self.high
        if self.norm == "rank":
            own, place = np.unique(values, return_inverse=True)  # in order: neighbouring look-ups touch neighbouring memory
            values, (low, high) = self._ranks(own)[place], self._ranks(np.array([low, high]))
        return _scale(values, self.norm, low, high, self.mean, np.sqrt(self.squares / max(1, self.count)))

    def _ranks(self, values: np.ndarray) -> np.ndarray:
        """Average rank among all values seen."""
        if self.seen is not None:
            self.ordered = self.seen.mapped()
            self.ordered.sort()
            self.seen.close()
            self.seen = None
        return (np.searchsorted(self.ordered, values) + np.searchsorted(self.ordered, values, side="right") + 1) / 2
