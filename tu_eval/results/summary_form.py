"""What a summary must look like before anything in it is believed or shown: its hash says that it is whole, not that it
makes sense."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from shared.errors import StoreError
from shared.files.shape import PLAIN, Count, Maybe, Named, Text
from tu_eval.results.columns import LONE, columns_of
from tu_eval.results.leaks import FORM as LEAKS_FORM

SLACK = 1e-9
"""that a mean of shares may leave 0 to 1 by rounding"""
ROUNDING = 1e-12
"""that a value may lie outside of its interval"""
COUNT = Count(0, 2**31 - 1)
TEXT, TEXT_OR_NULL = Text(), (Text(), None)
MOST_SETS = 1000
SEPARATION = ("auc", "low", "high", "true_positives")
MEMBERSHIP = {
    "attacks": Named(dict.fromkeys(SEPARATION, float)), "holdout_fingerprint": Maybe(TEXT_OR_NULL), "holdout_rows": COUNT,
}  # fmt: skip
RETAIN = {"label": TEXT_OR_NULL, "rows_sha256": TEXT_OR_NULL, "model_fingerprint": Maybe(TEXT_OR_NULL), "source": Maybe(TEXT_OR_NULL)}
FORM = {
    **dict.fromkeys(("suite", "label", "model", "model_fingerprint", "tokenizer_fingerprint", "template_fingerprint"), TEXT),
    "data_fingerprint": TEXT, "limit": (COUNT, None), "retain_results": (RETAIN, None), "settings": Named(PLAIN),
    "engine": Named(PLAIN), "rows": Named(COUNT, MOST_SETS), "metrics": Named((float, None)), "reasons": Named(TEXT),
    "utility_parts": [TEXT],
    **dict.fromkeys(("rouge_words", "vocabulary_fingerprint", "holdout_fingerprint", "membership_sha256", "leaks_sha256"),
                    Maybe(TEXT_OR_NULL)),
    "membership": Maybe((MEMBERSHIP, None)), "own_metrics": Maybe(Named(TEXT, MOST_SETS)), "suite_code": Maybe(TEXT),
    "leaks": Maybe(LEAKS_FORM),
    "more_columns": Maybe([TEXT]),
}  # fmt: skip
"""fields that may be missing are of later versions than the first"""


def check_summary(path: Path, summary: dict[str, Any]) -> None:
    """What FORM cannot say. Raises StoreError naming the file and the field."""
    if not summary["rows"]:
        raise StoreError(f"{path}: its rows names no set; it was edited, evaluate again")
    _check_metrics(path, summary)
    _check_membership(path, summary)


def _check_metrics(path: Path, summary: dict[str, Any]) -> None:
    for column in columns_of(summary):
        value = summary["metrics"][column.metric]
        low, high = (
            (0.0, 1.0) if column.share or column.log else (-100.0, math.inf) if column.metric == "privleak" else (-math.inf, math.inf)
        )
        if value is not None and not low - SLACK <= value <= high + SLACK:
            raise StoreError(f"{path}: its {column.metric} is {value!r}, expected {low:g} to {high:g}; it was edited, evaluate again")


def _check_membership(path: Path, summary: dict[str, Any]) -> None:
    for name, found in ((summary.get("membership") or {}).get("attacks") or {}).items():
        if f"mia_{name}" not in LONE:
            raise StoreError(f"{path}: membership inference by {name!r} is none that tu-eval run makes; it was edited, evaluate again")
        auc, low, high, rate = (found[k] for k in SEPARATION)
        if not (all(0 <= x <= 1 for x in (auc, low, high, rate)) and low - ROUNDING <= auc <= high + ROUNDING):
            raise StoreError(
                f"{path}: membership inference by {name} has AUC {auc!r} with interval {low!r} to {high!r}; expected numbers from 0 to 1, "
                "the AUC between the two; it was edited, evaluate again"
            )
        if summary["metrics"].get(f"mia_{name}", auc) != auc:
            raise StoreError(f"{path}: says two AUCs for {name}; it was edited, evaluate again")
