"""Rows -> the metrics of a summary, and for each that cannot be had the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tu_eval.measure.membership import OFF
from tu_eval.measure.retain import RetainModel
from tu_eval.measure.rows import Rows
from tu_eval.metrics.forget_quality import forget_quality
from tu_eval.metrics.privleak import privleak
from tu_eval.metrics.truth_ratio import forget_truth_ratio, utility_truth_ratio
from tu_eval.metrics.utility import model_utility
from tu_eval.results.folder import MEMBERSHIP_METRICS
from tu_eval.suites.sets import Suite

Metrics = dict[str, float | None]
Reasons = dict[str, str]
NO_WRONG = "its rows have no wrong answers (perturbed_answer); tu-eval prepare makes them"
NO_RETAIN = "needs retain results (--retain-results DIR)"


def summarise(
    suite: Suite, rows: Mapping[str, Rows], attacks: Mapping[str, Mapping[str, float]], retain: RetainModel | None, no_holdout: str | None
) -> tuple[Metrics, Reasons]:
    """-> metrics (null where there is none), and for each null the reason. `attacks`: what `separations` gives."""
    metrics: Metrics = {}
    reasons: Reasons = {}
    for part in suite.sets:
        kept = rows[part.name]
        metrics[f"{part.name}_probability"] = mean(kept, "probability_options" if part.options else "probability")
        if part.facts:
            metrics[f"{part.name}_fact_probability"] = mean(kept, "fact_probability")
        metrics[f"{part.name}_rouge"] = mean(kept, "rouge_l_recall")
        metrics[f"{part.name}_word_match"] = mean(kept, "word_match")
        metrics[f"{part.name}_truth_ratio"] = _truth_ratio(part.name, kept) if part.wrong else None
        if not part.wrong:
            reasons[f"{part.name}_truth_ratio"] = NO_WRONG
    for name in ("exact_memorization", "extraction_strength"):
        metrics[f"forget_{name}"] = mean(rows["forget"], name)
    parts = {name: value for name in suite.utility_parts if (value := metrics[name]) is not None}
    if len(parts) == len(suite.utility_parts):
        metrics["model_utility"] = model_utility(parts)
    else:
        metrics["model_utility"] = None
        reasons["model_utility"] = "needs ROUGE, and generation was off (generate=false)"
        reasons.update({f"{part.name}_rouge": "generation was off (generate=false)" for part in suite.sets})
    written = "the suite has no answers written for this set"
    reasons.update({f"{part.name}_rouge": written for part in suite.sets if not part.generate})
    reasons.update({f"{part.name}_word_match": said for part in suite.sets if (said := reasons.get(f"{part.name}_rouge"))})
    metrics["forget_quality"] = None
    if not suite.forget.wrong:
        reasons["forget_quality"] = NO_WRONG.replace("its rows have", "the forget set has")
    elif retain is None:
        reasons["forget_quality"] = NO_RETAIN
    else:
        metrics["forget_quality"] = forget_quality([r["log_truth_ratio"] for r in rows["forget"]], retain.log_ratios)
    leaks, more = leakage(attacks, retain, no_holdout)
    return {**metrics, **leaks}, {**reasons, **more}


def _truth_ratio(name: str, rows: Rows) -> float:
    ratios = [r["log_truth_ratio"] for r in rows]
    return forget_truth_ratio(ratios) if name == "forget" else utility_truth_ratio(ratios)


def leakage(attacks: Mapping[str, Mapping[str, float]], retain: RetainModel | None, no_holdout: str | None) -> tuple[Metrics, Reasons]:
    """What membership inference gives: -> mia_* and privleak, and for each null the reason."""
    metrics: Metrics = {}
    reasons: Reasons = {}
    for name in MEMBERSHIP_METRICS:
        metrics[f"mia_{name}"] = attacks[name]["auc"] if name in attacks else None
        if name not in attacks:
            reasons[f"mia_{name}"] = no_holdout or OFF[name]
    metrics["privleak"], reason = _privleak(metrics["mia_min_k"], retain, no_holdout)
    return metrics, {**reasons, **({"privleak": reason} if reason else {})}


def _privleak(auc: float | None, retain: RetainModel | None, no_holdout: str | None) -> tuple[float | None, str | None]:
    if auc is None:
        return None, no_holdout
    if retain is None:
        return None, NO_RETAIN
    if retain.min_k_auc is None:
        return None, retain.no_min_k
    value = privleak(auc, retain.min_k_auc)
    return value, None if value is not None else "the retain model's own Min-K separates every row (AUC 1), so nothing is relative to it"


def mean(rows: Rows, column: str) -> float | None:
    """Over the rows that have a value; None where none has."""
    values = [r[column] for r in rows if r[column] is not None]
    return math.fsum(values) / len(values) if values else None
