"""curves.png: what log.jsonl holds, at a glance. Four small panels over the steps: loss, NLL, learning rate,
evaluations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.files.fs import atomic_file

STYLES = (("#0072B2", "-", "o"), ("#D55E00", "--", "s"), ("#009E73", "-.", "^"), ("#CC79A7", ":", "D"), ("#000000", "-", "v"))
"""colours of Okabe and Ito, which colour-blind readers tell apart; dashes and marks for print without colour"""
PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("loss", "forget_loss", "retain_loss")),
    ("NLL (nats a token)", ("forget_nll", "retain_nll")),
    ("learning rate", ("learning_rate",)),
)
PIXELS_PER_INCH = 100


def draw_curves(log: Path, out: Path) -> None:
    """Panels without data are left out; a run without any number gets no file. Evaluations are the fields that start
    with `eval_`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    evaluations = tuple(sorted({name for r in records for name in r if name.startswith("eval_")}))
    panels = [
        (title, shown) for title, names in (*PANELS, ("evaluation", evaluations)) if (shown := [n for n in names if _has(records, n)])
    ]
    if not panels:
        return
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.4 * columns, 2.9 * rows), dpi=PIXELS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, names) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place)
        for k, name in enumerate(names):
            points = [(r["step"] + 1, r[name]) for r in records if isinstance(r.get(name), (int, float))]
            colour, dash, mark = STYLES[k % len(STYLES)]
            axes.plot(*zip(*points, strict=True), color=colour, linestyle=dash, linewidth=1.6, label=_label(name),
                      marker=mark if len(points) <= 25 else None, markersize=4)  # fmt: skip
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("step", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(names) > 1 or title == "evaluation":
            axes.legend(fontsize=8, frameon=False)
    with atomic_file(out) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _has(records: Sequence[Mapping[str, Any]], name: str) -> bool:
    return any(isinstance(r.get(name), (int, float)) for r in records)


def _label(name: str) -> str:
    words = name.removeprefix("eval_").replace("_", " ")
    return words.replace("nll", "NLL")
