"""Why numbers of a comparison are missing, in words for its readers."""

from __future__ import annotations

from tu_eval.compare.comparison import Comparison
from tu_eval.compare.groups import Group
from tu_eval.results.columns import MORE, Column


def lacking(comparison: Comparison) -> list[str]:
    """Which numbers of which models, and why: one text a reason."""
    missing: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for column in comparison.columns:
        titles: dict[str, list[str]] = {}
        for group in comparison.groups:
            if all(comparison.value(i, column.metric) is None for i in group.members):
                titles.setdefault(_reason(comparison, group, column), []).append(group.title)
        for reason, names in titles.items():
            heading = column.heading if column.group in ("Overall", MORE) else f"{column.group}: {column.heading}"
            missing.setdefault((reason, tuple(names)), []).append(heading)
    every = tuple(group.title for group in comparison.groups)
    return [
        f"{', '.join(headings)}{'' if names == every else ' of ' + ', '.join(names)}: {reason}"
        for (reason, names), headings in missing.items()
    ]


def _reason(comparison: Comparison, group: Group, column: Column) -> str:
    return comparison.results[group.members[0]].summary["reasons"].get(column.metric) or "was not measured"
