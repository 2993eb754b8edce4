"""How far a number can be trusted: Student's t over seeds, or the bootstrap over rows where there is one result.

Both are 95 % intervals. The bootstrap redraws the rows of each set 1,000 times (percentile method; the same draws for
every model, since all saw the same rows) and so speaks of the questions asked, not of the training's luck; t over seeds
speaks of that luck. A mean of three seeds ± t leaves the scale of a share, 0 to 1, easily, and cutting it off there
hides that such an interval is too short: near the ends of the scale it holds the true mean of skewed values in 83 to 95
of 100 cases, not in 95. So the interval of a share is that of its log-odds (delta method), taken back to the scale: it
cannot leave it, and holds what it should. A set's number gets an interval only if the rows, averaged as they are, give
the reported number again.

Rows about one author are no independent witnesses. Where rows name their cluster, whole clusters are redrawn, and the
interval around the value is stretched by t(G−1) / z · √(G / (G−1)) for G clusters: the bootstrap of few clusters is too
short by just that for a mean (Hesterberg 2015, arXiv 1411.5279). A share's ends at 0 and 1.
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

    edges = (50 * (1 - LEVEL), 50 * (1 + LEVEL))
    out = {}
    for metric, drawn in redrawn(rows, metrics, utility_parts).items():
        value = metrics[metric]
        low, high = map(float, np.nanpercentile(drawn.values, edges))
        if value is None or not math.isfinite(low + high):
            continue
        # Of few rows nearly all draws may lie on one side of what all of them together give.
        low, high = min(low, value), max(high, value)
        if drawn.clustered:
            low, high = (value + stretch(drawn.units) * (end - value) for end in (low, high))
            low, high = (max(0.0, low), min(1.0, high)) if drawn.share else (low, high)
        out[metric] = (low, high)
    return out


@dataclass(frozen=True)
class Redrawn:
    """A metric under the bootstrap."""

    values: Any
    """[DRAWS]; NaN where a draw holds no row with a value"""
    units: int
    """what was redrawn: clusters, else rows with a value; of model utility the smallest number of its sets"""
    clustered: bool
    share: bool
    """all values of the rows lie in 0 to 1"""


def redrawn(rows: Mapping[str, MeasuredRows], metrics: Mapping[str, float | None], utility_parts: Sequence[str]) -> dict[str, Redrawn]:
    """The draws depend on the sets' names, sizes and clusters alone, so two models on the same rows are drawn in
    pairs."""
    import numpy as np

    out: dict[str, Redrawn] = {}
    for name, kept in rows.items():
        rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
        clusters = clusters_of(kept)
        size = len(kept) if clusters is None else int(clusters.max()) + 1
        counts = rng.multinomial(size, [1 / size] * size, DRAWS)
        counts = counts if clusters is None else counts[:, clusters]
        for metric, reported in metrics.items():
            values = _values(metric.removeprefix(f"{name}_"), name, kept, reported) if metric.startswith(f"{name}_") else None
            if values is not None:
                held = np.array([v is not None for v in values])
                numbers = np.array([0.0 if v is None else v for v in values])
                with np.errstate(invalid="ignore"):  # a draw may hit only rows without a value
                    drawn = counts @ numbers / (counts @ held)
                units = int(held.sum()) if clusters is None else len(set(clusters[held].tolist()))
                # Where only one cluster has values, nothing is known of how clusters differ.
                if clusters is None or units > 1:
                    out[metric] = Redrawn(drawn, units, clusters is not None, bool(((numbers >= 0) & (numbers <= 1)).all()))
    if utility_parts and all(part in out for part in utility_parts):
        parts = np.stack([out[part].values for part in utility_parts])
        with np.errstate(divide="ignore"):
            drawn = np.where((parts <= 0).any(0), 0.0, len(parts) / (1 / parts).sum(0))
        made_of = [out[part] for part in utility_parts]
        least = min((m for m in made_of if m.clustered), key=lambda m: m.units, default=min(made_of, key=lambda m: m.units))
        out["model_utility"] = Redrawn(drawn, least.units, least.clustered, True)
    return out


def clusters_of(rows: MeasuredRows) -> Any:
    """[rows] numbers of their clusters from 0; None where rows are on their own: they name none, or all the same one,
    or each another. A row that names none is a cluster by itself."""
    import numpy as np

    names = [("named", row["cluster"]) if row.get("cluster") is not None else ("row", at) for at, row in enumerate(rows)]
    place = {name: at for at, name in enumerate(dict.fromkeys(names))}
    return np.array([place[name] for name in names]) if 1 < len(place) < len(names) else None


def stretch(units: int) -> float:
    """By how much an interval from the bootstrap of so many units (≥ 2) is too short for a mean."""
    from scipy.stats import norm, t

    level = (1 + LEVEL) / 2
    return float(t.ppf(level, units - 1) / norm.ppf(level)) * math.sqrt(units / (units - 1))


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
