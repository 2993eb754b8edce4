"""How well a score separates members (forget rows) from rows that the model never saw (holdout). Lower scores speak for
membership."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
MAX_FALSE_POSITIVES = 0.01


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
    draw = np.random.default_rng(seed)
    drawn = [auc(draw.choice(m, len(m)), draw.choice(o, len(o))) for _ in range(resamples)]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Separation(auc(m, o), float(low), float(high), true_positive_rate(m, o))


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
