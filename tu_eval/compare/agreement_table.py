"""Beside what unlearning did: how well its tokens were chosen, a row a run."""

from __future__ import annotations

from typing import Any

from tu_eval.compare.agreement import FIGURES
from tu_eval.compare.comparison import Comparison
from tu_eval.compare.intervals import Estimate
from tu_eval.results.columns import show

BESIDE = (
    "forget_quality",
    "model_utility",
    "forget_fact_probability",
    "forget_probability",
    "retain_fact_probability",
    "retain_probability",
)
"""what unlearning did, beside how well its tokens were chosen"""


def attribution_table(comparison: Comparison, table: list[list[Estimate]]) -> dict[str, Any] | None:
    """Headings, and of each run: title, group, recipe, figures, results beside them, and why there are no figures."""
    if not comparison.agreements:
        return None
    beside = [(c, column) for c, column in enumerate(comparison.columns) if column.metric in BESIDE]
    rows = [
        {
            "group": g,
            "title": group.title,
            "recipe": found.recipe if found else "",
            "figures": [show(found.figures[name] if found else None) for name in FIGURES],
            "beside": [show(table[g][c].value) for c, _ in beside],
            "why": why,
        }
        for g, (group, (found, why)) in enumerate(zip(comparison.groups, comparison.agreements, strict=True))
        if group.role is None
    ]
    headings = [column.heading if column.group == "Overall" else f"{column.group}: {column.heading}" for _, column in beside]
    return {"figures": list(FIGURES.values()), "beside": headings, "rows": rows}
