"""A diagnosis as a table on stdout and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

MEASURES = {
    "snr": "SNR",
    "gain": "gain over all",
    "aimed_gain": "aimed gain",
    "ideal_gain": "ideal gain",
    "conflict_share": "conflict share",
    "cosine": "cosine with retain",
}
"""key in an entry -> what a reader sees"""
DRAWN = ("snr", "conflict_share", "cosine")
COLOR = "#2b6cb0"


def print_table(result: Mapping[str, Any]) -> None:
    """Weightings, then classes: estimate ± standard error; — where rows are too few to tell."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    measured = [key for key in MEASURES if key in result["weightings"]["all"]]
    title = f"{result['rows']} forget rows, {result['tokens']} target tokens, {result['retain_rows']} retain rows"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("weights on", no_wrap=True)
    for heading in ("tokens", *(MEASURES[key] for key in measured)):
        table.add_column(heading.replace(" ", "\n", 1), justify="right", no_wrap=True)
    for group in ("weightings", "classes"):
        for name, entry in result[group].items():
            table.add_row(name, str(entry["tokens"]), *(show(entry[key]) for key in measured))
        table.add_section()
    console = Console()
    needed = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    Console(width=max(console.width, needed)).print(table)


def show(value: list[float | None] | float | None) -> str:
    if value is None:
        return "—"
    if isinstance(value, int | float):
        return f"{value:.3g}"
    estimate, error = value
    return f"{estimate:.3g} ± {'?' if error is None else format(error, '.2g')}"


def draw(result: Mapping[str, Any], path: Path) -> None:
    """A PNG: a row of panels for weightings, one for classes; points with a standard error to each side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = [key for key in DRAWN if key in result["weightings"]["all"]]
    groups = ("weightings", "classes")
    heights = [len(result[group]) + 1.5 for group in groups]
    figure = Figure(figsize=(1.2 + 3.1 * len(measured), 0.3 * sum(heights) + 1.2), layout="constrained")
    panels = figure.subplots(len(groups), len(measured), squeeze=False, height_ratios=heights, sharex="col", sharey="row")
    for row, group in enumerate(groups):
        for column, key in enumerate(measured):
            _panel(panels[row][column], result[group], key)
        panels[row][0].set_ylabel(group)
    for column, key in enumerate(measured):
        panels[-1][column].set_xlabel(MEASURES[key])
    parts = f"{result['rows']} forget rows, {result['tokens']} target tokens"
    figure.suptitle(f"{parts}; bars: one standard error", fontsize=10)
    FigureCanvasAgg(figure).print_png(path)


def _panel(axes: Any, entries: Mapping[str, Any], key: str) -> None:
    """One measure of each entry, the first on top; an entry without an estimate keeps its line, empty."""
    for place, entry in enumerate(entries.values()):
        if entry[key] is not None:
            estimate, error = entry[key]
            axes.errorbar(estimate, place, xerr=error or 0, fmt="o", color=COLOR, capsize=3, markersize=5)
    axes.set_yticks(range(len(entries)), list(entries))
    axes.set_ylim(len(entries) - 0.5, -0.5)
    if key == "cosine":  # an estimate beyond −1..1 says only that rows are too few
        axes.set_xlim(-1.1, 1.1)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
