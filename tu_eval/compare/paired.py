"""Is one run better than another? The difference of two models on the same rows, by a paired bootstrap.

Both models are redrawn with the same rows or clusters (intervals.py), so that what is hard for both cancels out. With
the standard error s of the difference over the draws, widened by √(G / (G−1)) for G redrawn units, and Student's t of
G − 1 degrees of freedom:

    interval    d ± t(0.975) · s
    p           P(|T| ≥ |d| / s)
    smallest    (t(0.975) + t(0.80)) · s        the difference that such a set shows in four of five cases

Many comparisons find something by chance: p-values of one table are corrected together by Holm's rule (1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from shared.errors import ConfigError, nearest
from tu_eval.compare.comparison import Comparison
from tu_eval.compare.intervals import LEVEL, Bounds, Redrawn, redrawn
from tu_eval.results.columns import show

POWER = 0.8
CHANCE = 1 - LEVEL


@dataclass(frozen=True)
class Difference:
    """One metric of one result, less that of the result that it is compared with."""

    label: str
    metric: str
    value: float
    span: Bounds
    p: float
    smallest: float
    """difference that a set of this size shows"""
    units: int
    """rows or clusters behind it"""
    clustered: bool
    corrected: float = 1.0
    """p after Holm's correction over the table"""

    @property
    def verdict(self) -> str:
        """In words; a claim that would be too fine says from which difference on this set can tell."""
        if self.corrected < CHANCE:
            return "differs"
        of = f"{self.units} {'clusters' if self.clustered else 'rows'}"
        return (
            f"too fine to claim: {of} show differences from {show(self.smallest)} on"
            if abs(self.value) < self.smallest
            else "may be chance"
        )


def differences(comparison: Comparison, against: str) -> list[Difference]:
    """Of every result and metric with rows behind it, from the result with this label. Raises ConfigError for a label
    that is none, suggesting the nearest."""
    if against not in comparison.labels:
        raise ConfigError(f"--against {against}: no result has that label{nearest(against, comparison.labels)}")
    at = comparison.labels.index(against)
    drawn = [
        redrawn(rows, r.summary["metrics"], r.summary["utility_parts"]) for r, rows in zip(comparison.results, comparison.rows, strict=True)
    ]
    found = []
    for i, label in enumerate(comparison.labels):
        for column in comparison.columns if i != at else ():
            mine, theirs = (drawn[k].get(column.metric) for k in (i, at))
            values = [comparison.value(k, column.metric) for k in (i, at)]
            if (
                mine is not None
                and theirs is not None
                and values[0] is not None
                and values[1] is not None
                and min(mine.units, theirs.units) > 1
            ):
                found.append(difference(label, column.metric, values[0] - values[1], mine, theirs))
    return [replace(d, corrected=p) for d, p in zip(found, holm([d.p for d in found]), strict=True)]


def difference(label: str, metric: str, value: float, mine: Redrawn, theirs: Redrawn) -> Difference:
    import numpy as np
    from scipy.stats import t

    units = min(mine.units, theirs.units)
    error = float(np.nanstd(mine.values - theirs.values, ddof=1)) * math.sqrt(units / (units - 1))
    half = float(t.ppf((1 + LEVEL) / 2, units - 1)) * error
    p = float(2 * t.sf(abs(value) / error, units - 1)) if error > 0 else float(value == 0)
    smallest = half + float(t.ppf(POWER, units - 1)) * error
    return Difference(label, metric, value, (value - half, value + half), p, smallest, units, mine.clustered)


def holm(p: Sequence[float]) -> list[float]:
    """Corrected p-values, in order: of m sorted ones the k-th (from 0) times m − k, never below one before it, at most
    1."""
    order, out, least = sorted(range(len(p)), key=lambda i: p[i]), [0.0] * len(p), 0.0
    for k, i in enumerate(order):
        least = max(least, min(1.0, (len(p) - k) * p[i]))
        out[i] = least
    return out


HEADS = ("Model", "Metric", "Difference", "95 % interval", "p (Holm)", "Verdict")


def cells(found: Sequence[Difference]) -> list[tuple[str, ...]]:
    """As HEADS has them."""
    return [
        (d.label, d.metric, f"{d.value:+.3f}", f"{d.span[0]:+.3f} to {d.span[1]:+.3f}", show(d.corrected), d.verdict) for d in found
    ]  # fmt: skip
