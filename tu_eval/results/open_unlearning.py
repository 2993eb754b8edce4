"""The results file of OpenUnlearning (TOFU_EVAL.json): read, so that its retain results serve here; written, so that
ours serve there.

    {"forget_truth_ratio": {"agg_value": 0.65, "value_by_index": {"0": {"score": 0.90}, ...}},
     "mia_min_k": {"forget": {"agg_value": ..., "value_by_index": {...}}, "holdout": {...}, "auc": 0.47, "agg_value":
     0.47}, ...}

Rows are numbered as in the data set. Its truth ratio, probabilities, ROUGE and AUCs are those of our columns; its exact
memorisation and extraction strength too, but for an extraction strength of 0, which it never reaches.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.data.words import terms
from shared.errors import StoreError
from shared.files.fs import read_json
from tu_eval.results.folder import ResultRow

NAMES = {"forget": "forget", "retain": "retain", "real_authors": "ra", "world_facts": "wf"}
"""our sets -> the beginning of their keys"""
MEMBERSHIP_NAMES = {
    "loss": "loss",
    "zlib": "zlib",
    "min_k": "min_k",
    "min_k_plus": "min_k_plus_plus",
    "reference": "reference",
    "gradient_norm": "gradnorm",
}
TOLERATED = 0.1
"""share of answers that may read differently in a file: it was decoded from tokens"""


def read_log(path: Path) -> dict[str, Any]:
    """Raises StoreError for a file that is none of theirs."""
    if not path.is_file():
        raise StoreError(f"{path}: no such file; expected a results folder of tu-eval run, or a TOFU_EVAL.json of OpenUnlearning")
    log = read_json(path)
    if not isinstance(log, dict) or not isinstance(log.get("forget_truth_ratio"), dict):
        raise StoreError(f"{path}: has no forget_truth_ratio; expected the TOFU_EVAL.json of a retain model (OpenUnlearning)")
    return log


def log_truth_ratios(log: Mapping[str, Any], answers: Sequence[str], path: Path) -> list[float]:
    """[rows], in the order of our forget rows. Raises StoreError where the file speaks of other rows."""
    values = values_by_index(log["forget_truth_ratio"], path, "forget_truth_ratio")
    if len(values) != len(answers):
        raise StoreError(
            f"--retain-results {path}: another split: {len(values)} forget rows there, {len(answers)} here; "
            "retain99 belongs to forget01, retain95 to forget05, retain90 to forget10, and --limit to neither"
        )
    texts = log.get("forget_Q_A_ROUGE", {}).get("value_by_index", {})
    differ = [
        i for i, answer in enumerate(answers) if str(i) in texts and _letters(texts[str(i)].get("ground_truth", answer)) != _letters(answer)
    ]
    if len(differ) > TOLERATED * len(answers):
        raise StoreError(
            f"--retain-results {path}: another split: its forget row {differ[0]} has another answer, and so have {len(differ) - 1} more"
        )
    return [math.log(v) if v > 0 else -math.inf for v in values]


def values_by_index(entry: Mapping[str, Any], path: Path, name: str) -> list[float]:
    """The scores of rows 0 … n − 1. Raises StoreError naming what is missing."""
    rows = entry.get("value_by_index")
    try:
        assert isinstance(rows, dict) and rows
        return [float(rows[str(i)]["score"]) for i in range(len(rows))]
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{path}: {name} holds no score for each of its rows ({type(error).__name__} {error}); download it again"
        ) from None


def _letters(text: str) -> str:
    return "".join(terms(text))


def min_k_auc(log: Mapping[str, Any]) -> tuple[float, int] | None:
    """AUC of Min-K on that model, and its number of holdout rows; None where the file has none."""
    entry = log.get("mia_min_k")
    try:
        return (float(entry["auc"]), len(entry["holdout"]["value_by_index"])) if entry else None
    except (KeyError, TypeError, ValueError):
        return None


def as_log(metrics: Mapping[str, float | None], rows: Sequence[ResultRow], membership: Sequence[ResultRow]) -> dict[str, Any]:
    """Everything of ours that has a name there."""
    log: dict[str, Any] = {}
    for ours, theirs in NAMES.items():
        part = [r for r in rows if r["set"] == ours]
        if part:
            log.update(_of_set(theirs, part, metrics, ours))
    forget = [r for r in rows if r["set"] == "forget"]
    for ours, theirs in (("exact_memorization", "exact_memorization"), ("extraction_strength", "extraction_strength")):
        log[theirs] = {"agg_value": metrics[f"forget_{ours}"], "value_by_index": _indexed([{"score": r[ours]} for r in forget])}
    for ours, theirs in MEMBERSHIP_NAMES.items():
        auc = metrics.get(f"mia_{ours}")
        if auc is not None:
            sides = {side: [r[ours] for r in membership if r["set"] == side] for side in ("forget", "holdout")}
            log[f"mia_{theirs}"] = {**{k: _scores(v) for k, v in sides.items()}, "auc": auc, "agg_value": auc}
    for name in ("forget_quality", "model_utility", "privleak"):
        log[name] = {"agg_value": metrics[name]}
    return dict(sorted(log.items()))


def _of_set(theirs: str, part: Sequence[ResultRow], metrics: Mapping[str, float | None], ours: str) -> dict[str, Any]:
    ratios = [min(r["truth_ratio"], sys.float_info.max) for r in part]  # JSON has no infinity
    options = part[0]["probability_options"] is not None
    probabilities = [
        {"prob": r["probability_options"]} if options else {"prob": r["probability"], "avg_loss": r["nll_sum"] / r["target_tokens"]}
        for r in part
    ]
    texts = [
        {"rougeL_recall": r["rouge_l_recall"], "input": r["question"], "ground_truth": r["answer"], "generation": r["generation"]}
        for r in part
    ]
    entries: dict[str, tuple[float | None, list[Any]]] = {
        f"{theirs}_Q_A_Prob{'_normalised' if options else ''}": (metrics[f"{ours}_probability"], probabilities),
        "forget_truth_ratio" if theirs == "forget" else f"{theirs}_Truth_Ratio": (
            metrics[f"{ours}_truth_ratio"],
            [{"score": x} for x in ratios],
        ),
    }
    if metrics[f"{ours}_rouge"] is not None:
        entries[f"{theirs}_Q_A_ROUGE"] = (metrics[f"{ours}_rouge"], texts)
    return {name: {"agg_value": value, "value_by_index": _indexed(values)} for name, (value, values) in entries.items()}


def _scores(values: Sequence[float]) -> dict[str, Any]:
    return {"agg_value": math.fsum(values) / len(values), "value_by_index": _indexed([{"score": v} for v in values])}


def _indexed(values: Sequence[Any]) -> dict[str, Any]:
    return {str(i): v for i, v in enumerate(values)}
