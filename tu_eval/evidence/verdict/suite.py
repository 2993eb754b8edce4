"""What a suite's results say, as measures: which metrics stand under which question, and their values row by row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tu_eval.compare.comparison import Comparison
from tu_eval.compare.intervals import SAME
from tu_eval.evidence.verdict.measured import Clusters, Number, of_rows
from tu_eval.results.columns import KINDS, LONE, OVERALL, SETS, plain

COLUMNS = {
    "fact_probability": ("fact_probability",), "probability": ("probability_options", "probability"), "rouge": ("rouge_l_recall",),
    "extraction_strength": ("extraction_strength",), "verbmem": ("verbmem",), "knowmem": ("knowmem",),
}  # fmt: skip
"""last part of a metric's name -> the columns of rows.parquet whose mean it may be"""


def direct(metrics: Mapping[str, Any]) -> list[str]:
    """The forget set's metrics that are higher the more is known, those of the facts in place of those of the whole
    answer."""
    facts = metrics.get("forget_fact_probability") is not None
    names = ("fact_probability" if facts else "probability", "rouge", "extraction_strength", "verbmem", "knowmem")
    return [m for kind in names if metrics.get(m := f"forget_{kind}") is not None]


def membership(metrics: Mapping[str, Any]) -> list[str]:
    return [m for m in LONE if m.startswith("mia_") and metrics.get(m) is not None]


def kept(metrics: Mapping[str, Any], sets: Sequence[str]) -> list[str]:
    """Of the retain set what the model says and how probable the answers are, of other sets one of the two, model
    utility."""
    names = ["retain_probability", "retain_rouge", "retain_knowmem"]
    for name in sets:
        if name not in ("forget", "retain") and not name.startswith("forget_"):
            held = [m for m in (f"{name}_rouge", f"{name}_probability") if metrics.get(m) is not None]
            names += held[:1]
    return [m for m in (*names, "model_utility") if metrics.get(m) is not None]


def title(metric: str, sets: Sequence[str]) -> str:
    """`Retain set: ROUGE-L recall`; a metric of the forget set by its own name alone."""
    if metric in OVERALL or metric in LONE:
        return OVERALL.get(metric) or LONE[metric]
    name = max((s for s in sets if metric.startswith(f"{s}_")), key=len)
    kind = metric.removeprefix(f"{name}_")
    heading = KINDS.get(kind, plain(kind))
    return heading if name == "forget" else f"{SETS.get(name, plain(name))}: {heading}"


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
