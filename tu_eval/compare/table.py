"""Results in the terminal, on stdout."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from shared.errors import printable
from tu_eval.compare.comparison import Comparison
from tu_eval.compare.fluency import cells as fluent_cells
from tu_eval.compare.fluency import fluencies
from tu_eval.results.columns import Column, columns_of, show
from tu_eval.results.folder import CONFIG, ROWS
from tu_eval.results.results import SUMMARY, Results

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

ALSO = ("retain_probability", "retain_knowmem")
"""columns of the short table beside those of the forget set"""
FLUENT = ("Set", "Answers", "Repet-\nition", "Dis-\ntinct-1", "Dis-\ntinct-2", "Empty", "Refus-\ning", "Empty,\nrepeats")
"""the heads of compare/fluency.py, cut so that they fit into eighty characters"""
PERPLEXITY = "Per-\nplexity"
LARGEST = 700.0
"""nats of which a float holds the exponential"""


def print_results(results: Results) -> None:
    """Metrics of one run, and where its files are."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    summary, console = results.summary, Console()
    attacks = (summary.get("membership") or {}).get("attacks") or {}
    table = Table("", "metric", "value", title=Text(printable(f"{results.label} on {summary['suite']}")), title_justify="left")
    last = why = None
    for column in columns_of(summary):
        if last not in (None, column.group):
            table.add_section()
        value = summary["metrics"][column.metric]
        shown, why = _value(value, summary["reasons"].get(column.metric, ""), why)
        if found := attacks.get(column.metric.removeprefix("mia_")):
            shown += f" [{show(found['low'])}, {show(found['high'])}], TPR at 1 % {show(found['true_positives'])}"
        group = printable(column.group) if column.group != last else ""
        table.add_row(Text(group), Text(f"{printable(column.heading)} {column.better}"), Text(shown))
        last = column.group
    console.print(table)
    _print_fluency(results)
    # No wrapping: a path broken over two lines cannot be copied.
    console.print(f"results: {results.folder} ({SUMMARY}, {ROWS}, {CONFIG})", soft_wrap=True, markup=False, highlight=False)


def _value(value: float | None, reason: str, before: str | None) -> tuple[str, str | None]:
    """-> the cell, and the reason why there is no number; the one of the line before is not said twice."""
    if value is not None:
        return show(value), None
    return printable(f"— {'as above' if reason and reason == before else reason}".rstrip()), reason


def _print_fluency(results: Results) -> None:
    """Of each set with answers, whether they read as language; perplexity where --fluency-model read them."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    by_set: dict[str, list[dict[str, Any]]] = {}
    for row in results.rows():
        by_set.setdefault(row["set"], []).append(row)
    found = fluencies(by_set)
    surprise = {name: results.summary["metrics"].get(f"{name}_answer_nll") for name in found}
    read = any(value is not None for value in surprise.values())
    if not found:
        return
    title = "Do the answers read as language?"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    heads = (*FLUENT, PERPLEXITY) if read else FLUENT
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number else "left", no_wrap=True)
    for name, (_, *cells) in zip(found, fluent_cells([""], [found]), strict=True):
        value = surprise[name]
        more = [show(None if value is None else math.exp(min(value, LARGEST)))] if read else []
        table.add_row(*(Text(printable(cell)) for cell in (*cells, *more)))
    _wide_enough(table).print(table)


def print_comparison(comparison: Comparison) -> None:
    """The columns that matter most; the page has them all."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    count = len(comparison.results)
    title = Text(printable(f"{comparison.results[0].summary['suite']}: {count} {'model' if count == 1 else 'models'}"))
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column("n", justify="right")
    columns = [c for c in comparison.columns if c.group in ("Overall", "Forget set") or c.metric in ALSO]
    if not any(c.group == "Overall" for c in columns):  # MUSE: there is room, and PrivLeak is one of its four numbers
        columns += [c for c in comparison.columns if c.metric == "privleak"]
    for column in columns:
        table.add_column(Text(_heading(column)), justify="right", no_wrap=True)
    for group in comparison.groups:
        held = [comparison.estimate(group, c) for c in columns]
        table.add_row(Text(printable(group.title)), str(len(group.members)), *(show(e.value) for e in held))
    console = _wide_enough(table)
    console.print(table)
    if comparison.leaks is not None:
        heads, (every, *_) = comparison.leaks
        for head, count in zip(heads[1:], every[1:], strict=True):
            console.print(printable(f"secrets in answers of {head}: {count}"), soft_wrap=True, markup=False, highlight=False)
    for note in comparison.notes:
        console.print(printable(f"note: {note}"), soft_wrap=True, markup=False, highlight=False)


def _wide_enough(table: Table) -> Console:
    """A cut label or number is of no use: where the terminal is too narrow, it wraps the lines itself."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console()
    needed = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    return Console(width=max(console.width, needed))


def _heading(column: Column) -> str:
    """A word a line, so that eight columns fit into eighty characters."""
    words = printable(column.metric).replace("_", "\n").replace("probability", "prob.").replace("rouge", "ROUGE")
    return f"{words}\n{column.better}"
