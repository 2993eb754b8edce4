"""The comparison page: one HTML file that needs nothing else. Values are escaped by jinja2; the page has no script."""

from __future__ import annotations

from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

from shared import __version__
from shared.errors import ConfigError
from shared.fs import write_text
from tu_eval import plot
from tu_eval.compare import DOWN, MEANING, UP, Comparison, role, show

TEMPLATE = "report.html.j2"
SHADES = 8
"""colours the page's style defines; markers differ in shape as well, and after SHADES results are hollow"""


def write_report(path: Path, comparison: Comparison) -> None:
    """Writes the page atomically. Raises ConfigError when `path` cannot be a file."""
    if path.is_dir():
        raise ConfigError(f"--out {path}: is a folder; expected the name of an HTML file")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(comparison))


def render(comparison: Comparison) -> str:
    import jinja2

    shared_by_all = set.intersection(*(set(_settings(r.summary)) for r in comparison.results))
    source = resources.files("tu_eval").joinpath("templates", TEMPLATE).read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source).render(
        suite=comparison.results[0].summary["suite"],
        identity=comparison.results[0].summary,
        groups=[(name, len(list(columns))) for name, columns in groupby(comparison.columns, key=lambda c: c.group)],
        columns=comparison.columns,
        starts={columns[0].metric for columns in _groups(comparison)},
        rows=[_row(comparison, i) for i in range(len(comparison.results))],
        common=[item for item in _settings(comparison.results[0].summary) if item in shared_by_all],
        plot=_plot(comparison),
        size=plot,
        absent=_absent(comparison),
        meaning={k: v for k, v in MEANING.items() if any(c.heading == k for c in comparison.columns)},
        notes=comparison.notes,
        up=UP,
        down=DOWN,
        version=__version__,
    )


def _groups(comparison: Comparison) -> list[list[Any]]:
    return [list(columns) for _, columns in groupby(comparison.columns, key=lambda c: c.group)]


def _row(comparison: Comparison, index: int) -> dict[str, Any]:
    summary = comparison.results[index].summary
    values = [comparison.value(index, c.metric) for c in comparison.columns]
    return {
        "label": comparison.labels[index],
        "role": role(comparison.results[index]),
        "marker": plot.marker_path(index),
        "shade": index % SHADES,
        "hollow": (index // SHADES) % 2 == 1,
        "cells": [
            {"text": show(v), "reason": summary["reasons"].get(c.metric, ""), "share": None if v is None else 100 * v, "metric": c.metric}
            for c, v in zip(comparison.columns, values, strict=True)
        ],
        "summary": summary,
        "settings": dict(_settings(summary)),
    }


def _settings(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """What the numbers may depend on besides model and data, as (name, value)."""
    engine = {k: summary["engine"][k] for k in ("device", "batching") if k in summary["engine"]}
    return [(k.replace("_", " "), str(v).lower()) for k, v in {**summary["settings"], **engine}.items()]


def _plot(comparison: Comparison) -> plot.Plot | None:
    values = [
        (i, label, utility, quality)
        for i, label in enumerate(comparison.labels)
        if (quality := comparison.value(i, "forget_quality")) is not None and (utility := comparison.value(i, "model_utility")) is not None
    ]
    return plot.layout(values) if values else None


def _absent(comparison: Comparison) -> list[tuple[str, str]]:
    """(label, why) of the results that have no place in the plot."""
    out = []
    for i, label in enumerate(comparison.labels):
        missing = [m for m in ("forget_quality", "model_utility") if comparison.value(i, m) is None]
        if missing:
            reasons = comparison.results[i].summary["reasons"]
            out.append((label, "; ".join(f"{m.replace('_', ' ')} {reasons.get(m, 'is missing')}" for m in missing)))
    return out
