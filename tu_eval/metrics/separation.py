"""How well a score separates members (forget rows) from rows that the model never saw (holdout). Lower scores speak for
membership."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
MAX_FALSE_POSITIVES = 0.01
CELLS = 1_000_000
"""numbers that the bootstrap draws at a time"""


@dataclass(frozen=True)
class Separation:
    auc: float
    """probability that a member scores lower than another row, ties count half; 0.5 is chance, 1 complete separation"""
    low: float
    high: float
    """bootstrap interval of `auc`, LEVEL of resamples"""
    true_positives: float
    """share of members found with at most MAX_FALSE_POSITIVES of the others taken for members"""


def separation(members: Sequence[float], others: Sequence[float], *, seed: int, resamples: int = RESAMPLES) -> Separation:
    """Both not empty, no NaN. The bootstrap redraws members and others, as many of each as there are; same seed, same
    bounds."""
    m, o = np.asarray(members, dtype=np.float64), np.asarray(others, dtype=np.float64)
    low, high = np.quantile(resampled(m, o, seed, resamples), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Separation(auc(m, o), float(low), float(high), true_positive_rate(m, o))


def resampled(m: np.ndarray, o: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """`auc` of each resample, (resamples,): how often each distinct value was drawn says who wins, so that nothing is
    sorted anew. Sums are of halves and exact: to the last bit what `auc` says of `draw.choice(m, len(m))` and
    `draw.choice(o, len(o))`, in turns."""
    ranks = np.unique(np.concatenate([m, o]), return_inverse=True)[1]
    count, values, draw = len(m), int(ranks.max()) + 1, np.random.default_rng(seed)
    choices = np.repeat([count, len(o)], [count, len(o)])
    offsets = np.repeat([0, count], [count, len(o)])
    out = []
    for at in range(0, resamples, chunk := max(1, CELLS // len(ranks))):
        rows = min(chunk, resamples - at)
        drawn = ranks[draw.integers(0, np.broadcast_to(choices, (rows, len(ranks)))) + offsets] + values * np.arange(rows)[:, None]
        members, others = (np.bincount(side.ravel(), minlength=rows * values).reshape(rows, values) for side in np.split(drawn, [count], 1))
        above = len(o) - others.cumsum(axis=1) + 0.5 * others
        out.append((members * above).sum(axis=1) / count / len(o))
    return np.concatenate(out)


def auc(members: Sequence[float] | np.ndarray, others: Sequence[float] | np.ndarray) -> float:
    """P(member < other) + P(equal) / 2, by ranks: Mann–Whitney's U over the number of pairs."""
    m, o = np.asarray(members), np.sort(np.asarray(others))
    below, up_to = np.searchsorted(o, m, side="left"), np.searchsorted(o, m, side="right")
    wins = len(o) - up_to + 0.5 * (up_to - below)
    return float(wins.mean() / len(o))


def true_positive_rate(members: Sequence[float] | np.ndarray, others: Sequence[float] | np.ndarray) -> float:
    """Share of members below the threshold that lets at most MAX_FALSE_POSITIVES of the others pass (of fewer than 100:
    none)."""
    m, o = np.asarray(members), np.sort(np.asarray(others))
    return float((m < o[int(MAX_FALSE_POSITIVES * len(o) + 1e-9)]).mean())
