"""The meta-evaluation of metrics (metrics/meta.py) over pools of results folders.

    POOL/with/NAME                     results of a model that has the knowledge          faithfulness
    POOL/without/NAME                  of one that never had it                           faithfulness; measures R
    POOL/without/NAME/relearned        of that model after relearning                     R
    POOL/unlearned/NAME                of one that was made to forget                     R and Q
    POOL/unlearned/NAME/relearned      of that model after the same relearning            R
    POOL/unlearned/NAME/quantised      of that model with rounded weights                 Q

All of them on one suite (tu-eval run). Several POOLs are one. `with` and `without` must both be there; without the rest
R and Q are null. R and Q are means over the unlearned models that have what they need; m_ret is the mean over the
models of `without` that were relearned.

Metrics are those of the forget set and of membership inference, turned so that larger means more knowledge (1 − m for
the truth ratio), and from the rows `forget_truth_ratio_share`: mean of p_right / (p_right + p_wrong), p_wrong the
geometric mean of the wrong answers, so that it is 1 / (1 + R).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.errors import ConfigError, StoreError, nearest
from tu_eval.measure.recompute import require_recomputable
from tu_eval.metrics.meta import faithfulness, harmonic, quantisation, relearning
from tu_eval.metrics.truth_ratio import truth_ratio_share
from tu_eval.results.columns import show
from tu_eval.results.results import SUMMARY, Results, load_results, require_comparable

WITH, WITHOUT, UNLEARNED = "with", "without", "unlearned"
RELEARNED, QUANTISED = "relearned", "quantised"
LESS = ("forget_truth_ratio",)
"""larger for a model that knows less"""
NOT = ("forget_quality", "forget_answer_nll")
"""say nothing of one model's knowledge"""
MetricValues = dict[str, float]


@dataclass(frozen=True)
class PooledModel:
    """A model of the pool: metric -> value, larger for more knowledge."""

    place: Path
    before: MetricValues
    relearned: MetricValues | None
    quantised: MetricValues | None


@dataclass(frozen=True)
class Pool:
    known: list[PooledModel]
    unknown: list[PooledModel]
    unlearned: list[PooledModel]


@dataclass(frozen=True)
class Score:
    """Of one metric; each 0 to 1, null where the pool has not what it needs."""

    metric: str
    faithfulness: float
    relearning: float | None
    quantisation: float | None
    robustness: float | None
    overall: float | None
    known: tuple[float, float]
    """least and largest value of the models with the knowledge"""
    unknown: tuple[float, float]


def load_pool(folders: Sequence[Path]) -> Pool:
    """Raises ConfigError for a pool that lacks models of one kind, StoreError for results that are damaged or of
    another suite."""
    found: dict[str, list[Path]] = {WITH: [], WITHOUT: [], UNLEARNED: []}
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"--pool {folder}: no such folder; expected one with folders {WITH}/ and {WITHOUT}/ of results")
        for kind, places in found.items():
            inside = sorted((folder / kind).iterdir()) if (folder / kind).is_dir() else []
            places += [place for place in inside if (place / SUMMARY).is_file()]
    for kind, what in ((WITH, "have the knowledge"), (WITHOUT, "never had it")):
        if not found[kind]:
            named = " ".join(map(str, folders))
            raise ConfigError(
                f"--pool {named}: no results of models that {what}; put folders of tu-eval run into {folders[0] / kind}/, one a model"
            )
    results = {place: load_results(place) for places in found.values() for place in places}
    first = results[found[WITH][0]]

    def read(results: Results) -> MetricValues:
        require_comparable(first.summary, results, what=f"{first.folder} and")
        require_recomputable(results)
        return values_of(results)

    def measured(place: Path) -> PooledModel:
        more = [load_results(place / name) if (place / name / SUMMARY).is_file() else None for name in (RELEARNED, QUANTISED)]
        return PooledModel(place, read(results[place]), *(r and read(r) for r in more))

    return Pool(*([measured(place) for place in found[kind]] for kind in (WITH, WITHOUT, UNLEARNED)))


def values_of(results: Results) -> MetricValues:
    """The metrics that say what a model knows of the forget set."""
    held = {m: v for m, v in results.summary["metrics"].items() if v is not None and m.startswith(("forget_", "mia_")) and m not in NOT}
    out = {m: 1 - v if m in LESS else v for m, v in held.items()}
    ratios = [row["log_truth_ratio"] for row in results.rows("forget") if row.get("log_truth_ratio") is not None]
    return {**out, **({"forget_truth_ratio_share": truth_ratio_share(ratios)} if ratios else {})}


def scores(pool: Pool, metrics: Sequence[str] = ()) -> list[Score]:
    """Best first. Raises ConfigError for a metric that not every result has, suggesting the nearest."""
    everything = [v for m in (*pool.known, *pool.unknown, *pool.unlearned) for v in (m.before, m.relearned, m.quantised) if v is not None]
    shared = [name for name in everything[0] if all(name in values for values in everything)]
    for name in metrics:
        if name not in shared:
            raise ConfigError(f"--metric {name}: no metric that every result of the pool has{nearest(name, shared)}")
    if not shared:
        raise StoreError("--pool: the results have no metric in common that speaks of the forget set; evaluate all in the same way")
    made = [_score(pool, name) for name in dict.fromkeys(metrics or shared)]
    return sorted(made, key=lambda s: -(s.overall if s.overall is not None else s.faithfulness))


def _score(pool: Pool, name: str) -> Score:
    known, unknown = [m.before[name] for m in pool.known], [m.before[name] for m in pool.unknown]
    faithful, r, q = faithfulness(known, unknown), _relearning(pool, name), _quantisation(pool, name)
    robust = harmonic([r, q]) if r is not None and q is not None else None
    overall = harmonic([faithful, robust]) if robust is not None else None
    return Score(name, faithful, r, q, robust, overall, (min(known), max(known)), (min(unknown), max(unknown)))


def _relearning(pool: Pool, name: str) -> float | None:
    retain = [(m.before[name], m.relearned[name]) for m in pool.unknown if m.relearned is not None]
    if not retain:
        return None
    yardstick = _mean([before for before, _ in retain]), _mean([after for _, after in retain])
    found = [relearning(yardstick, (m.before[name], m.relearned[name])) for m in pool.unlearned if m.relearned is not None]
    return _mean(found) if found else None


def _quantisation(pool: Pool, name: str) -> float | None:
    found = [quantisation(m.before[name], m.quantised[name]) for m in pool.unlearned if m.quantised is not None]
    return _mean(found) if found else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


HEADS = ("Metric", "Faithfulness", "R relearning", "Q quantisation", "Robustness", "Overall", "With", "Without")


def cells(found: Sequence[Score]) -> list[tuple[str, ...]]:
    """As HEADS has them; the last two: least to largest value."""
    return [
        (s.metric, *map(show, (s.faithfulness, s.relearning, s.quantisation, s.robustness, s.overall)), *map(_ends, (s.known, s.unknown)))
        for s in found
    ]


def _ends(values: tuple[float, float]) -> str:
    return f"{show(values[0])} to {show(values[1])}"


def markdown(found: Sequence[Score]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (HEADS, *cells(found))]
    return "\n".join([lines[0], "|---|" + "---:|" * (len(HEADS) - 1), *lines[1:]]) + "\n"
