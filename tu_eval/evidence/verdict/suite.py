"""What a suite's results say, as measures: which metrics stand under which question, and their values row by row."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from shared.asides import is_aside
from shared.better import OVERALL, set_of
from tu_eval.compare.comparison import Comparison
from tu_eval.compare.intervals import SAME
from tu_eval.evidence.verdict.measured import Clusters, Number, of_rows
from tu_eval.results.columns import KINDS, LONE, LUME_KINDS, plain, set_title

SAME_NAME = ("word_match", "exact_memorization", "extraction_strength", "paraphrase_probability", "jailbreak_rouge", "verbmem", "knowmem",
             *LUME_KINDS)  # fmt: skip
"""kinds of metrics that are the mean of a column of their own name, all higher the more is known"""
COLUMNS = {
    "fact_probability": ("fact_probability",), "probability": ("probability_options", "probability"), "rouge": ("rouge_l_recall",),
    **{name: (name,) for name in SAME_NAME},
}  # fmt: skip
"""last part of a metric's name -> the columns of rows.parquet whose mean it may be"""


def direct(metrics: Mapping[str, Any]) -> list[str]:
    """The forget set's metrics that are higher the more is known, those of the facts in place of those of the whole
    answer."""
    return _held(metrics, (f"forget_{kind}" for kind in (_probability(metrics, "forget"), "rouge", *SAME_NAME)))


def otherwise(metrics: Mapping[str, Any], sets: Sequence[str], suite: str) -> list[str]:
    """Of questions on what is to be forgotten that nobody trained on (a set a kind): how probable the answers are, and
    whether they are written."""
    names = [name for name in sets if name.startswith("forget_") and is_aside(name, suite)]
    return [m for name in names for m in _held(metrics, (f"{name}_{_probability(metrics, name)}", f"{name}_word_match"))]


def membership(metrics: Mapping[str, Any]) -> list[str]:
    return _held(metrics, (m for m in LONE if m.startswith("mia_")))


def kept(metrics: Mapping[str, Any], sets: Sequence[str]) -> list[str]:
    """Of the retain set what the model says and how probable the answers are, of other sets what it says, and where
    none was written how probable they are; model utility."""
    names = [f"retain_{kind}" for kind in ("probability", "rouge", "word_match", "knowmem", *LUME_KINDS)]
    for name in sets:
        if name not in ("forget", "retain") and not name.startswith("forget_"):
            names += _held(metrics, (f"{name}_rouge", f"{name}_word_match")) or [f"{name}_probability"]
    return _held(metrics, (*names, "model_utility"))


def elsewhere(metrics: Mapping[str, Any], shown: Collection[str], sets: Sequence[str]) -> list[str]:
    """What was measured too and has no line, each with its sets: what is judged against a retain model by a test of its
    own (truth ratio, forget quality, PrivLeak), what stands for the same as a line, and metrics of others, whose
    meaning is not known here."""
    found: dict[str, list[str]] = {}
    for metric in (m for m, value in metrics.items() if value is not None and m not in shown):
        own = set_of(metric, sets)
        found.setdefault(heading_of(metric, sets), []).extend([set_title(own).lower()] if own is not None else [])
    return [f"{heading} ({', '.join(names)})" if names else heading for heading, names in found.items()]


def title(metric: str, sets: Sequence[str]) -> str:
    """`Retain set: ROUGE-L recall`; a metric of the forget set by its own name alone."""
    name, heading = set_of(metric, sets), heading_of(metric, sets)
    return heading if name in (None, "forget") else f"{set_title(name)}: {heading}"


def heading_of(metric: str, sets: Sequence[str]) -> str:
    """As the definitions of metrics name it (MEANING of tu_eval/results/columns.py)."""
    kind = metric.removeprefix(f"{set_of(metric, sets)}_")
    return OVERALL.get(metric) or LONE.get(metric) or KINDS.get(kind, plain(kind))


def _probability(metrics: Mapping[str, Any], name: str) -> str:
    return "fact_probability" if metrics.get(f"{name}_fact_probability") is not None else "probability"


def _held(metrics: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    return [name for name in names if metrics.get(name) is not None]


def measured(comparison: Comparison, index: int, metric: str) -> Number | None:
    """A metric of one result: with its rows where they give the reported number again, else with the interval of the
    comparison."""
    value = comparison.value(index, metric)
    if value is None:
        return None
    by_set = comparison.rows[index]
    fitting = [name for name in by_set if metric.startswith(f"{name}_")]
    if not fitting:
        return Number(value, {}, comparison.spans[index].get(metric))
    name = max(fitting, key=len)
    for column in COLUMNS.get(metric.removeprefix(f"{name}_"), ()):
        found = {row["example_id"]: row[column] for row in by_set[name] if row.get(column) is not None}
        if found and math.isclose(math.fsum(found.values()) / len(found), value, rel_tol=SAME, abs_tol=SAME):
            return of_rows(found, clusters(comparison))
    return Number(value, {}, comparison.spans[index].get(metric), len(by_set[name]))


def clusters(comparison: Comparison) -> Clusters:
    """Of all rows that were measured, where the suite names any; the ids of one set are none of another's."""
    found: dict[str, str] = {}
    for by_set in comparison.rows:
        for name, rows in by_set.items():
            for row in rows:
                if row.get("cluster"):
                    found.setdefault(row["example_id"], f"{name}/{row['cluster']}")
    return found
