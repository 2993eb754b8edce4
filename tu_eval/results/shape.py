"""What a summary must look like before anything in it is believed or shown: its hash says that it is whole, not that it
makes sense."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.errors import StoreError
from tu_eval.results.columns import LONE, columns_of

SLACK = 1e-9
"""that a mean of shares may leave 0 to 1 by rounding"""
ROUNDING = 1e-12
"""that a value may lie outside of its interval"""
LONGEST = 4096
"""characters of a name; more is no name"""


def check_summary(path: Path, summary: dict[str, Any]) -> None:
    """Raises StoreError naming the file and the field."""
    for field, (right, expected) in FIELDS.items():
        if field not in summary:
            if field in OPTIONAL:
                continue
            raise StoreError(f"{path}: has no {field}; it was not written by tu-eval run, evaluate again")
        if not right(summary[field]):
            raise StoreError(f"{path}: its {field} is not {expected}; it was edited, evaluate again")
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
        auc, low, high, rate = (found[k] for k in SEPARATION)
        if not (all(0 <= x <= 1 for x in (auc, low, high, rate)) and low - ROUNDING <= auc <= high + ROUNDING):
            raise StoreError(
                f"{path}: membership inference by {name} has AUC {auc!r} with interval {low!r} to {high!r}; expected numbers from 0 to 1, "
                "the AUC between the two; it was edited, evaluate again"
            )
        if summary["metrics"].get(f"mia_{name}", auc) != auc:
            raise StoreError(f"{path}: says two AUCs for {name}; it was edited, evaluate again")


def number(value: Any) -> bool:
    """Finite, and small enough to be reckoned with."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300 and math.isfinite(value)


def text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _maybe(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or right(value)


def _named(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and len(value) <= LONGEST and all(text(k) and right(v) for k, v in value.items())


def _plain(value: Any) -> bool:
    """Settings: values, and lists and objects of them."""
    if isinstance(value, dict):
        return _named(_plain)(value)
    if isinstance(value, list):
        return len(value) <= LONGEST and all(map(_plain, value))
    return value is None or isinstance(value, bool) or text(value) or number(value)


def _retain(value: Any) -> bool:
    return _named(_maybe(text))(value) and {"label", "rows_sha256"} <= set(value)


SEPARATION = ("auc", "low", "high", "true_positives")


def _separated(value: Any) -> bool:
    return isinstance(value, dict) and all(number(value.get(k)) for k in SEPARATION)


def _membership(value: Any) -> bool:
    if not isinstance(value, dict) or not _named(_separated)(value.get("attacks")) or not set(value["attacks"]) <= _ATTACKS:
        return False
    return _maybe(text)(value.get("holdout_fingerprint")) and _count(value.get("holdout_rows"))


_ATTACKS = {name.removeprefix("mia_") for name in LONE}
_TEXT, _NAMES = (text, "a text"), (_named(text), "an object of texts")
FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "suite": _TEXT, "label": _TEXT, "model": _TEXT, "model_fingerprint": _TEXT, "tokenizer_fingerprint": _TEXT,
    "template_fingerprint": _TEXT, "data_fingerprint": _TEXT, "rows_sha256": _TEXT, "rouge_words": (_maybe(text), "a text"),
    "vocabulary_fingerprint": (_maybe(text), "a text or null"), "holdout_fingerprint": (_maybe(text), "a text or null"),
    "membership_sha256": (_maybe(text), "a text or null"), "limit": (_maybe(_count), "a number of rows or null"),
    "retain_results": (_maybe(_retain), "an object with label and rows_sha256, or null"),
    "settings": (_named(_plain), "an object of settings"), "engine": (_named(_plain), "an object of settings"),
    "rows": (lambda v: _named(_count)(v) and 0 < len(v) <= 1000, "an object of numbers of rows"),
    "metrics": (_named(_maybe(number)), "an object of finite numbers and nulls"), "reasons": _NAMES,
    "utility_parts": (lambda v: isinstance(v, list) and len(v) <= LONGEST and all(map(text, v)), "a list of texts"),
    "membership": (_maybe(_membership), "what membership inference found, or null"),
}  # fmt: skip
"""field -> whether a value is right, and what is expected"""
OPTIONAL = frozenset({"rouge_words", "vocabulary_fingerprint", "holdout_fingerprint", "membership_sha256", "membership"})
"""of later versions than the first"""
