"""Metrics once more, from the rows: a summary whose numbers were edited, with its hash made anew, does not agree with
them.

What needs other results (forget quality, PrivLeak) is computed again where those are given. Nothing here tells edited
rows from measured ones, which only a signature can (tu_eval/evidence/sign.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from shared.asides import is_aside
from shared.errors import StoreError
from tu_eval.measure import lume_score
from tu_eval.measure.membership import separations
from tu_eval.measure.rows import Rows
from tu_eval.measure.summary import Metrics, mean
from tu_eval.metrics.forget_quality import forget_quality
from tu_eval.metrics.privleak import privleak
from tu_eval.metrics.separation import auc
from tu_eval.metrics.truth_ratio import forget_truth_ratio, utility_truth_ratio
from tu_eval.metrics.utility import model_utility
from tu_eval.results.results import MORE, SUMMARY, Results
from tu_eval.suites.sets import PARTS

SAME = 1e-9
"""absolute and relative: how far two numbers from the same rows may be apart"""
SAME_TEST = 1e-6
"""relative, of p-values: scipy computes them by one of several ways"""


def require_recomputable(results: Results, others: Sequence[Results] = ()) -> set[str]:
    """-> the metrics that were computed again. Raises StoreError for one that its rows do not give. `others`: among
    which the retain results may be that `results` were measured against."""
    said, found = results.summary["metrics"], recomputed(results, others)
    for metric, value in found.items():
        if metric not in said:
            continue
        near = {"rel_tol": SAME_TEST} if metric == "forget_quality" else {"rel_tol": SAME, "abs_tol": SAME}
        held = said[metric]
        if (held is None) != (value is None) or (held is not None and value is not None and not math.isclose(held, value, **near)):
            raise StoreError(f"{results.folder / SUMMARY}: says {metric} is {held!r}, but its rows give {value!r}; it was edited, "
                             "evaluate again")  # fmt: skip
    return set(found) & set(said)


def recomputed(results: Results, others: Sequence[Results] = ()) -> Metrics:
    """Every metric that the rows, and the rows of the retain results among `others`, give."""
    summary = results.summary
    by_set: dict[str, Rows] = {name: [] for name in summary["rows"]}
    for row in results.rows():
        by_set[row["set"]].append(row)
    out: Metrics = {}
    for name, rows in by_set.items():
        if rows:
            out |= _of_set(name, rows, summary["suite"])
            out |= {f"{name}_{column}": mean(rows, column) for column in (*results.own, *(c for c in results.more if not MORE[c]))}
    out |= _utility(results, by_set, out)
    members = results.membership()
    out |= {f"mia_{name}": value for name, value in _aucs(members).items()}
    if summary["suite"] == "lume":  # MMLU is as recorded: its questions are none of these rows
        out |= {"task_aggregate": lume_score.task_aggregate(out), "mia_score": lume_score.mia_score(out.get("mia_loss"))}
        out["final_score"] = lume_score.final_score({**out, "mmlu": summary["metrics"].get("mmlu")})
    retain = reference_of(results, others)
    if retain is not None:
        out |= _against(retain, by_set.get("forget", []), out.get("mia_min_k"), summary)
    return {k: v for k, v in out.items() if k in summary["metrics"]}


def _of_set(name: str, rows: Rows, suite: str) -> Metrics:
    if suite.startswith("muse:"):
        return {f"{name}_{kind}": mean(rows, kind) for kind in ("verbmem", "knowmem")}
    if suite == "lume":
        return lume_score.of_set(name, rows)
    options = any(row["probability_options"] is not None for row in rows)
    out: Metrics = {
        f"{name}_probability": mean(rows, "probability_options" if options else "probability"),
        f"{name}_fact_probability": mean(rows, "fact_probability"),
        f"{name}_rouge": mean(rows, "rouge_l_recall"),
    }
    ratios = [row["log_truth_ratio"] for row in rows]
    if None not in ratios:
        out[f"{name}_truth_ratio"] = forget_truth_ratio(ratios) if name == "forget" else utility_truth_ratio(ratios)
    elif not any(x is not None for x in ratios):  # rows without wrong answers
        out[f"{name}_truth_ratio"] = None
    if name == "forget":
        out |= {f"forget_{kind}": mean(rows, kind) for kind in ("exact_memorization", "extraction_strength")}
    return out


def _utility(results: Results, by_set: Mapping[str, Rows], metrics: Metrics) -> Metrics:
    """Of the parts that the rows call for. Raises StoreError for a summary that leaves one out."""
    summary = results.summary
    if "model_utility" not in summary["metrics"]:
        return {}
    parts = summary["utility_parts"]
    for name in (n for n in by_set if n != "forget" and not is_aside(n, summary["suite"])):
        for part in (f"{name}_{kind}" for kind in PARTS):
            if part not in parts and metrics.get(part) is not None:
                raise StoreError(f"{results.folder / SUMMARY}: its model utility leaves {part} out (utility_parts); it was edited, "
                                 "evaluate again")  # fmt: skip
    if unknown := [part for part in parts if part not in metrics]:
        raise StoreError(f"{results.folder / SUMMARY}: its model utility names {unknown[0][:60]!r}, of which there are no rows; it was "
                         "edited, evaluate again")  # fmt: skip
    held = {part: value for part in parts if (value := metrics[part]) is not None}
    return {"model_utility": model_utility(held) if held and len(held) == len(parts) else None}


def _aucs(members: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    out = {}
    for name in dict.fromkeys(k for row in members for k in row if k not in ("set", "example_id")):
        sides = [[row[name] for row in members if row["set"] == side and row[name] is not None] for side in ("forget", "holdout")]
        if all(sides):
            out[name] = auc(*sides)
    return out


def intervals(results: Results) -> dict[str, tuple[float, float]]:
    """Metric of membership inference -> its interval, drawn again with the seed of the run."""
    seed = results.summary["settings"].get("seed")
    members = results.membership()
    if not members or not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        return {}
    return {f"mia_{name}": (found["low"], found["high"]) for name, found in separations(members, seed=seed).items()}


def reference_of(results: Results, others: Sequence[Results]) -> Results | None:
    """The retain results that these were measured against, where they are among `others`."""
    named = results.summary["retain_results"]
    if not named:
        return None
    for other in others:
        same = (named["rows_sha256"], named.get("model_fingerprint"))
        if same == (other.summary["rows_sha256"], other.summary["model_fingerprint"]):
            return other
    return None


def _against(retain: Results, rows: Rows, min_k: float | None, summary: Mapping[str, Any]) -> Metrics:
    out: Metrics = {}
    theirs = retain.rows("forget")
    mine, others = ([x for r in side if (x := r.get("log_truth_ratio")) is not None] for side in (rows, theirs))
    if "forget_quality" in summary["metrics"] and mine and others and (len(mine), len(others)) == (len(rows), len(theirs)):
        out["forget_quality"] = forget_quality(mine, others)
    held = _aucs(retain.membership()).get("min_k")
    same = (summary.get("membership") or {}).get("holdout_fingerprint") == (retain.summary.get("membership") or {}).get(
        "holdout_fingerprint"
    )
    if min_k is not None and held is not None and same:
        out["privleak"] = privleak(min_k, held)
    return out


def differs(said: Any, found: Any, at: str = "") -> str | None:
    """Where two JSON values differ, numbers by more than SAME; None where nowhere."""
    if isinstance(found, dict):
        if not isinstance(said, dict) or set(said) != set(found):
            return at
        return next((d for k in found if (d := differs(said[k], found[k], f"{at} {k}".strip())) is not None), None)
    if isinstance(found, list):
        if not isinstance(said, list) or len(said) != len(found):
            return at
        return next((d for k, v in enumerate(found) if (d := differs(said[k], v, f"{at} {k}".strip())) is not None), None)
    if isinstance(found, float) and isinstance(said, int | float) and not isinstance(said, bool):
        same = math.isclose(said, found, rel_tol=SAME, abs_tol=SAME) or (math.isnan(found) and math.isnan(said))
        return None if same else at
    return None if said == found and isinstance(said, bool) == isinstance(found, bool) else at
