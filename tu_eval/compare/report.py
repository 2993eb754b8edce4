"""The comparison page: one HTML file that needs nothing else.

Values are escaped by jinja2. Texts of the data lie in the page as JSON, and its script shows one row at a time, as text
and never as markup; tables, plot and settings are there without the script.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

from shared import __version__
from shared.better import DOWN, UP, ZERO
from shared.files.fs import write_text
from shared.secret import without_secrets
from tu_eval.compare import fluency, paired, plot
from tu_eval.compare.agreement_table import attribution_table
from tu_eval.compare.bars import charts
from tu_eval.compare.comparison import Comparison
from tu_eval.compare.intervals import Estimate
from tu_eval.compare.lacking import lacking
from tu_eval.compare.paired import Difference
from tu_eval.results.columns import LUME_KINDS, MEANING, meanings, plain, said, show

SHADES = 8
"""colours the page's style defines; markers differ in shape as well, and after SHADES results are hollow"""
NUMBERS = {
    "probability": "Probability",
    "truth_ratio": "R",
    "rouge_l_recall": "ROUGE-L",
    "verbmem": "VerbMem",
    "knowmem": "KnowMem",
    **LUME_KINDS,
}
"""columns of rows.parquet that the row browser shows"""


def write_report(
    path: Path, comparison: Comparison, *, texts: bool = True, against: str | None = None, pairs: Sequence[Difference] = ()
) -> None:  # fmt: skip
    """Writes the page atomically; `texts=False` leaves the row browser out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(comparison, texts=texts, against=against, pairs=pairs))


def render(comparison: Comparison, *, texts: bool = True, against: str | None = None, pairs: Sequence[Difference] = ()) -> str:
    table = comparison.table()
    marks = [comparison.marks(c, table) for c in range(len(comparison.columns))]
    common, settings = _common([_settings(r.summary) for r in comparison.results])
    first = comparison.results[0].summary
    return fill(
        "report.html.j2",
        suite=first["suite"],
        identity=first,
        columns=comparison.columns,
        spans=[(name, len(list(columns))) for name, columns in groupby(comparison.columns, key=lambda c: c.group)],
        starts={next(iter(columns)).metric for _, columns in groupby(comparison.columns, key=lambda c: c.group)},
        groups=[_group(comparison, g, table, marks) for g in range(len(comparison.groups))],
        marked=any(any(column) for column in marks),
        has_retain=any(g.role == "retain" for g in comparison.groups),
        runs=[_run(comparison, i, settings[i]) for i in range(len(comparison.results))],
        common=common,
        plot=plot_of(comparison, table),
        size=plot,
        has_quality=_has_quality(comparison),
        absent=_absent(comparison) if _has_quality(comparison) else [],
        lacking=lacking(comparison),
        attribution=attribution_table(comparison, table),
        charts=charts(comparison, table),
        against=against,
        pairs=(paired.HEADS, paired.cells(pairs)) if pairs else None,
        leaks=comparison.leaks,
        fluency=(fluency.HEADS, fluency.cells(comparison.labels, comparison.fluency)) if any(comparison.fluency) else None,
        meaning=meanings([k for k in MEANING if any(c.heading == k for c in comparison.columns)]),
        notes=comparison.notes,
        data=embedded(_rows(comparison)) if texts else None,
        up=UP,
        down=DOWN,
        zero=ZERO if any(c.better == ZERO for c in comparison.columns) else None,
        version=__version__,
    )


def fill(template: str, **values: Any) -> str:
    """A template of this package; style and script are files beside it."""
    import jinja2

    def source(name: str) -> str:
        return resources.files("tu_eval.compare").joinpath("templates", name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(source), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(**values)


def embedded(value: Any) -> Any:
    """JSON for inside a script element: no `<`, so that no text of the data can end the element or open a comment."""
    from markupsafe import Markup

    return Markup(json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"))  # noqa: S704


def _group(comparison: Comparison, at: int, table: list[list[Estimate]], marks: list[list[str]]) -> dict[str, Any]:
    group = comparison.groups[at]
    seeds = [str(t.seed) for t, _ in (comparison.trainings[i] for i in group.members) if t is not None and t.seed is not None]
    known = group.training is not None and group.training.method is not None
    return {
        "title": group.title,
        "about": group.about,
        "role": group.role,
        "n": len(group.members),
        "seeds": ", ".join(seeds) if known else "",
        "marker": plot.marker_path(at),
        "shade": at % SHADES,
        "hollow": (at // SHADES) % 2 == 1,
        "cells": [
            {
                "metric": column.metric,
                "value": e.value,
                "text": show(e.value),
                "span": e.span and f"{show(e.span[0])} to {show(e.span[1])}",
                "source": e.source,
                "n": e.n,
                "mark": marks[c][at],
                "found": None if (rate := comparison.true_positives(group.members, column.metric)) is None else show(rate),
                "reason": comparison.results[group.members[0]].summary["reasons"].get(column.metric, "") if e.value is None else "",
            }
            for c, (column, e) in enumerate(zip(comparison.columns, table[at], strict=True))
        ],
    }


def _run(comparison: Comparison, index: int, settings: dict[str, str]) -> dict[str, Any]:
    training, why = comparison.trainings[index]
    summary = comparison.results[index].summary
    about = training.about if training else {}
    return {
        "label": comparison.labels[index],
        "summary": summary,
        "settings": settings,
        "training": {plain(k): without_secrets(said(v)) for k, v in [*about.items(), *(training.settings if training else {}).items()]},
        "why": why,
        "fingerprints": {
            "weights": summary["model_fingerprint"],
            "tokenizer": summary["tokenizer_fingerprint"],
            "template": summary["template_fingerprint"],
            "data": summary["data_fingerprint"],
            "rows": summary["rows_sha256"],
        },
    }


def _settings(summary: dict[str, Any]) -> dict[str, str]:
    """What the numbers may depend on besides model and data."""
    engine = {k: summary["engine"][k] for k in ("device", "batching") if k in summary["engine"]}
    return {plain(k): said(v) for k, v in {**summary["settings"], **engine}.items()}


def _common(every: list[dict[str, str]]) -> tuple[dict[str, str], list[dict[str, str]]]:
    """-> what all runs share, and what each has besides."""
    same = {k: v for k, v in every[0].items() if all(other.get(k) == v for other in every)}
    return same, [{k: v for k, v in one.items() if k not in same} for one in every]


def plot_of(comparison: Comparison, table: list[list[Estimate]]) -> plot.Plot | None:
    at = {column.metric: c for c, column in enumerate(comparison.columns)}
    if not {"model_utility", "forget_quality"} <= at.keys():
        return None
    values, spans = [], {}
    for g, (group, row) in enumerate(zip(comparison.groups, table, strict=True)):
        utility, quality = row[at["model_utility"]], row[at["forget_quality"]]
        if utility.value is not None and quality.value is not None:
            values.append((g, group.title, utility.value, quality.value))
            spans[g] = (utility.span, quality.span)
    return plot.layout(values, spans) if values else None


def _has_quality(comparison: Comparison) -> bool:
    """MUSE has none."""
    return any(c.metric == "forget_quality" for c in comparison.columns)


def _absent(comparison: Comparison) -> list[tuple[str, str]]:
    """(labels, why) of the results that have no place in the plot, those with the same reason together."""
    found: dict[str, list[str]] = {}
    for i, label in enumerate(comparison.labels):
        missing = [m for m in ("forget_quality", "model_utility") if comparison.value(i, m) is None]
        if missing:
            reasons = comparison.results[i].summary["reasons"]
            why = "; ".join(f"{plain(m).lower()}: {reasons.get(m, 'was not measured').removeprefix('forget: ')}" for m in missing)
            found.setdefault(why, []).append(label)
    return [(", ".join(labels), why) for why, labels in found.items()]


def _rows(comparison: Comparison) -> dict[str, Any]:
    """What the row browser shows: each set's rows once, and by model its answers and numbers, all lists in one
    order."""
    sets = []
    for name, first in comparison.rows[0].items():
        models = []
        for rows in comparison.rows:
            numbers = {title: [_number(row.get(column)) for row in rows[name]] for column, title in NUMBERS.items()}
            models.append({"answers": [row["generation"] for row in rows[name]], "numbers": numbers})
        texts = {key: [row[key] for row in first] for key in ("example_id", "question", "answer")}
        sets.append({"name": name, **texts, "models": models})
    group_of = {i: g for g, group in enumerate(comparison.groups) for i in group.members}
    return {"labels": comparison.labels, "groups": [group_of[i] for i in range(len(comparison.labels))], "sets": sets}


def _number(value: float | None) -> str | None:
    return None if value is None else show(value)
