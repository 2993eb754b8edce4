"""The comparison outside a page: Markdown (what a reader needs), CSV (every run with all digits), PNG (the plot)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from shared.errors import ConfigError, printable
from shared.files.fs import atomic_file, write_text
from tu_eval.compare import paired, plot
from tu_eval.compare.agreement import FIGURES
from tu_eval.compare.agreement_table import attribution_table
from tu_eval.compare.comparison import Comparison
from tu_eval.compare.intervals import Estimate
from tu_eval.compare.lacking import lacking
from tu_eval.compare.paired import Difference
from tu_eval.compare.report import plot_of
from tu_eval.results.columns import show

MARKS = {"best": " **(best)**", "near": " (≈ best)", "": ""}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""matplotlib's for plot.SHAPES"""
COLOURS = ("#0072b2", "#d55e00", "#00815d", "#a84f83", "#8a6d00", "#2f7fb5", "#444b57", "#b03a2e")
DPI = 160


def markdown(comparison: Comparison, pairs: Sequence[Difference] = ()) -> str:
    """A table, one row a metric and one column a recipe: value, 95 % interval, mark."""
    table = comparison.table()
    heads = ["Set", "Metric", *(group.title + (f" (n = {n})" if (n := len(group.members)) > 1 else "") for group in comparison.groups)]
    lines = ["| " + " | ".join(map(_cell, heads)) + " |", "|---|---|" + "---:|" * (len(heads) - 2)]
    for c, column in enumerate(comparison.columns):
        marks = comparison.marks(c, table)
        rates = [comparison.true_positives(group.members, column.metric) for group in comparison.groups]
        cells = [_value(row[c]) + _rate(rates[g]) + MARKS[marks[g]] for g, row in enumerate(table)]
        lines.append("| " + " | ".join([_cell(column.group), f"{_cell(column.heading)} {column.better}", *cells]) + " |")
    chosen = _attribution(comparison, table)
    about = [
        f"Suite {comparison.results[0].summary['suite']}. In brackets: 95 % intervals, "
        "over seeds (t; of the log-odds for metrics from 0 to 1) where n is 2 or more, else over rows (bootstrap).",
        *(["TPR: true-positive rate at 1 % false positives."] if any(c.metric.startswith("mia_") for c in comparison.columns) else []),
        *(f"No value for {why}." for why in lacking(comparison)),
        *(f"Note: {note}" for note in comparison.notes),
    ]  # fmt: skip
    return "\n".join([*lines, "", *(line + "  " for line in map(_cell, about)), *chosen, *_leaks(comparison), *_pairs(pairs)]) + "\n"


def _leaks(comparison: Comparison) -> list[str]:
    """Lines of the table of secrets given away."""
    if comparison.leaks is None:
        return []
    heads, rows = comparison.leaks
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in (heads, *rows)]
    return ["", lines[0], "|---|" + "---:|" * (len(heads) - 1), *lines[1:]]


def _pairs(pairs: Sequence[Difference]) -> list[str]:
    """Lines of the table of paired differences."""
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in (paired.HEADS, *paired.cells(pairs))]
    return ["", lines[0], "|---|---|---:|---|---:|---|", *lines[1:]] if pairs else []


def _attribution(comparison: Comparison, table: list[list[Estimate]]) -> list[str]:
    """Lines of a second table: how well the tokens were chosen, beside what unlearning with them did."""
    held = attribution_table(comparison, table)
    if held is None:
        return []
    heads = ["Model", "Importance", *held["figures"], *held["beside"]]
    rows = [[row["title"], row["recipe"] or f"({row['why']})", *row["figures"], *row["beside"]] for row in held["rows"]]
    lines = ["| " + " | ".join(map(_cell, cells)) + " |" for cells in [heads, *rows]]
    return ["", lines[0], "|---|---|" + "---:|" * (len(heads) - 2), *lines[1:]]


def _value(e: Estimate) -> str:
    return show(e.value) + (f" [{show(e.span[0])}, {show(e.span[1])}]" if e.span else "")


def _rate(rate: float | None) -> str:
    return "" if rate is None else f", TPR {show(rate)}"


def _cell(text: str) -> str:
    """No label can end a cell or a row, or become markup."""
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return printable(" ".join(text.split()))


def table_csv(comparison: Comparison) -> str:
    """One line a run; numbers read back as the same floats, empty where there is none.

    mia_X_tpr_1: true-positive rate of an attack at 1 % false positives; importance_X: agreement of the run's importance
    with true spans.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    metrics = [c.metric for c in comparison.columns]
    attacks = [m for m in metrics if m.startswith("mia_")]
    rates = [f"{m}_tpr_1" for m in attacks]
    at = {i: g for g, group in enumerate(comparison.groups) for i in group.members}
    writer.writerow(
        [
            "label",
            "group",
            "role",
            "method",
            "tokens",
            "seed",
            "suite",
            "model",
            "model_fingerprint",
            *map(_plain, metrics),
            *map(_plain, rates),
            *(f"importance_{name}" for name in FIGURES),
        ]
    )
    for i, (label, result) in enumerate(zip(comparison.labels, comparison.results, strict=True)):
        training, group = comparison.trainings[i][0], comparison.groups[at[i]]
        recipe = (training.method, training.tokens, training.seed) if training else (None, None, None)
        names = [label, group.title, group.role, *recipe, *(result.summary[k] for k in ("suite", "model", "model_fingerprint"))]
        agreed = comparison.agreements[at[i]][0] if comparison.agreements else None
        values = [
            *(comparison.value(i, metric) for metric in metrics),
            *(comparison.true_positives([i], metric) for metric in attacks),
            *(agreed and agreed.figures[name] for name in FIGURES),
        ]
        writer.writerow([*map(_plain, names), *("" if v is None else repr(v) for v in values)])
    return out.getvalue()


def _plain(value: Any) -> str:
    """A name as a cell. One that a spreadsheet would take for a formula gets an apostrophe before it; numbers stay
    numbers."""
    if not isinstance(value, str):
        return "" if value is None else str(value)
    return f"'{printable(value)}" if value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else printable(value)


def write_exports(
    comparison: Comparison, *, to_markdown: Path | None, to_csv: Path | None, to_png: Path | None, pairs: Sequence[Difference] = ()
) -> None:  # fmt: skip
    """Each file atomically. Raises ConfigError when there is nothing to plot."""
    for path, make in ((to_markdown, partial(markdown, pairs=pairs)), (to_csv, table_csv)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, make(comparison))
    if to_png is not None:
        to_png.parent.mkdir(parents=True, exist_ok=True)
        _write_png(to_png, comparison)


def check_png(comparison: Comparison) -> None:
    if plot_of(comparison, comparison.table()) is None:
        raise ConfigError("--png: no result has both a forget quality and a model utility, so there is nothing to plot")


def _write_png(path: Path, comparison: Comparison) -> None:
    """The page's plot, from the same geometry."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = plot_of(comparison, comparison.table())
    assert drawn is not None, "check_png looked"
    figure = Figure(figsize=(plot.WIDTH / 72, plot.HEIGHT / 72), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, plot.WIDTH), ylim=(plot.HEIGHT, 0))
    axes.axis("off")
    _frame(axes, drawn)
    for p in drawn.points:
        colour, hollow = COLOURS[p.index % 8], (p.index // 8) % 2 == 1
        if p.across:
            axes.plot(p.across, (p.y, p.y), color=colour, linewidth=1.2)
        if p.down:
            axes.plot((p.x, p.x), p.down, color=colour, linewidth=1.2)
        if p.leader:
            axes.plot((p.x, p.text_x), (p.y, p.text_y - 4), color="#5c626c", linewidth=0.7)
        axes.plot(
            [p.x], [p.y], marker=MARKERS[p.index % 8], markersize=9, color=colour, markerfacecolor="white" if hollow else colour, zorder=3
        )
        align: Any = {"start": "left", "middle": "center", "end": "right"}[p.anchor]
        bold = comparison.groups[p.index].role is not None
        # A dollar sign would start a formula.
        axes.text(p.text_x, p.text_y, p.label.replace("$", r"\$"), ha=align, fontsize=9, weight="bold" if bold else "normal", zorder=4)
    with atomic_file(path) as temporary, temporary.open("wb") as handle:
        FigureCanvasAgg(figure).print_png(handle, metadata={"Software": "token-unlearn"})


def _frame(axes: Any, drawn: plot.Plot) -> None:
    left, right, top, bottom = plot.LEFT, plot.WIDTH - plot.RIGHT, plot.TOP, plot.HEIGHT - plot.BOTTOM
    for x, text in drawn.x_ticks:
        axes.plot((x, x), (top, bottom), color="#eceef1", linewidth=0.8)
        axes.text(x, bottom + 18, text, ha="center", fontsize=8)
    for y, text in drawn.y_ticks:
        axes.plot((left, right), (y, y), color="#eceef1", linewidth=0.8)
        axes.text(left - 9, y + 4, f"$10^{{{text[3:]}}}$" if "^" in text else text, ha="right", fontsize=8)
    axes.plot((left, right), (drawn.told_apart_y,) * 2, color="#5c626c", linewidth=0.9, linestyle=(0, (5, 4)))
    axes.plot((left, left, right), (top, bottom, bottom), color="#5c626c", linewidth=0.8)
    axes.text((left + right) / 2, plot.HEIGHT - 12, "model utility →", ha="center", fontsize=9)
    axes.text(20, (top + bottom) / 2, "forget quality (p-value, log scale) →", ha="center", va="center", rotation=90, fontsize=9)
