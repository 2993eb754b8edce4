"""How far a number can be trusted: Student's t over seeds, or the bootstrap over rows where there is one result.

Both are 95 % intervals. The bootstrap redraws the rows of each set 1,000 times (percentile method; the same draws for
every model, since all saw the same rows) and so speaks of the questions asked, not of the training's luck; t over seeds
speaks of that luck. A mean of three seeds ± t leaves the scale of a share, 0 to 1, easily, and cutting it off there
hides that such an interval is too short: near the ends of the scale it holds the true mean of skewed values in 83 to 95
of 100 cases, not in 95. So the interval of a share is that of its log-odds (delta method), taken back to the scale: it
cannot leave it, and holds what it should. A set's number gets an interval only if the rows, averaged as they are, give
the reported number again.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

LEVEL = 0.95
DRAWS = 1000
SEED = 20240111
SAME = 1e-9
"""relative and absolute: how well the rows must reproduce a reported number"""

MeasuredRows = Sequence[Mapping[str, Any]]
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, if there is one."""

    value: float | None
    span: Bounds | None = None
    n: int = 1
    """results behind the value"""
    source: Literal["seeds", "rows", "none"] = "none"

    def near(self, other: Estimate) -> bool:
        """Their intervals overlap, so the difference may be noise. False where one of them has none."""
        if self.span is None or other.span is None:
            return False
        return self.span[0] <= other.span[1] and other.span[0] <= self.span[1]


def over_seeds(values: Sequence[float], *, log: bool = False, share: bool = False) -> Estimate:
    """Mean ± t(n−1) · s / √n of [results], n ≥ 2.

    `log`: of log10, for p-values (geometric mean); no interval if one of them is 0. `share`: values from 0 to 1; the
    value is their mean m all the same, the interval is logit(m) ± t(n−1) · s / √n / (m · (1 − m)), taken back, and so
    inside 0 to 1.
    """
    from scipy.special import expit, logit
    from scipy.stats import t

    n = len(values)
    if log and min(values) <= 0:
        return Estimate(0.0, None, n)
    points = [math.log10(v) for v in values] if log else list(values)
    mean = math.fsum(points) / n
    spread = math.sqrt(math.fsum((x - mean) ** 2 for x in points) / (n - 1))
    half = float(t.ppf((1 + LEVEL) / 2, n - 1)) * spread / math.sqrt(n)
    low, high = mean - half, mean + half
    if log:
        # A p-value ends at 1; far down, a float ends.
        return Estimate(10**mean, (10 ** max(low, -300.0), min(1.0, 10 ** min(high, 0.0))), n, "seeds")
    if share and 0 < mean < 1:  # at an end of the scale all values are that end, and the spread is 0
        odds = half / (mean * (1 - mean))
        low, high = min(mean, float(expit(logit(mean) - odds))), max(mean, float(expit(logit(mean) + odds)))
    return Estimate(mean, (low, high), n, "seeds")


def over_rows(rows: Mapping[str, MeasuredRows], metrics: Mapping[str, float | None], utility_parts: Sequence[str]) -> dict[str, Bounds]:
    """metric -> its bootstrap interval, for every metric that is a mean over a set's rows, and for model utility, their
    harmonic mean."""
    import numpy as np

    draws: dict[str, Any] = {}
    for name, kept in rows.items():
        rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
        counts = rng.multinomial(len(kept), [1 / len(kept)] * len(kept), DRAWS)
        for metric, reported in metrics.items():
            values = _values(metric.removeprefix(f"{name}_"), name, kept, reported) if metric.startswith(f"{name}_") else None
            if values is not None:
                held = np.array([v is not None for v in values])
                numbers = np.array([0.0 if v is None else v for v in values])
                with np.errstate(invalid="ignore"):  # a draw may hit only rows without a value
                    draws[metric] = counts @ numbers / (counts @ held)
    if utility_parts and all(part in draws for part in utility_parts):
        parts = np.stack([draws[part] for part in utility_parts])
        with np.errstate(divide="ignore"):
            draws["model_utility"] = np.where((parts <= 0).any(0), 0.0, len(parts) / (1 / parts).sum(0))
    edges = (50 * (1 - LEVEL), 50 * (1 + LEVEL))
    found = {metric: np.nanpercentile(drawn, edges) for metric, drawn in draws.items()}
    held = {metric: (float(low), float(high)) for metric, (low, high) in found.items() if math.isfinite(low + high)}
    # Of few rows nearly all draws may lie on one side of what all of them together give.
    return {metric: (min(low, value), max(high, value)) for metric, (low, high) in held.items() if (value := metrics[metric]) is not None}


def _values(kind: str, name: str, rows: MeasuredRows, reported: float | None) -> list[float | None] | None:
    """[rows] numbers whose mean is the reported one; None when there are none such."""
    if reported is None:
        return None
    for values in _candidates(kind, name, rows):
        known = [v for v in values if v is not None]
        if known and math.isclose(math.fsum(known) / len(known), reported, rel_tol=SAME, abs_tol=SAME):
            return values
    return None


def _candidates(kind: str, name: str, rows: MeasuredRows) -> list[list[float | None]]:
    if kind == "truth_ratio":
        logs = [row["log_truth_ratio"] for row in rows]
        return [[None if x is None else math.exp(-abs(x)) if name == "forget" else -math.expm1(min(x, 0.0)) for x in logs]]
    columns = {"probability": ["probability_options", "probability"], "rouge": ["rouge_l_recall"]}.get(kind, [kind])
    return [[row[column] for row in rows] for column in columns if column in rows[0]]
