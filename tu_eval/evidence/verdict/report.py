"""The verdict page: one HTML file that needs nothing else, a screen for each model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared import __version__
from shared.errors import printable
from shared.files.fs import write_text
from tu_eval.compare.report import fill
from tu_eval.evidence.verdict.lines import Line
from tu_eval.evidence.verdict.measured import Number
from tu_eval.evidence.verdict.rules import BAD, GOOD
from tu_eval.evidence.verdict.verdict import Verdict, headline, load, verdicts
from tu_eval.results.columns import show

WIDTH, PAD = 150.0, 7.0
"""of the strip that shows a model between retain model and target, SVG user units"""
PLOT = (520.0, 300.0, 60.0, 20.0)
"""width, height, left and bottom margin (right and top: the latter) of the front"""


def write_verdict(out: Path, folders: Sequence[Path], target: Path | None, retain: Path | None) -> list[Verdict]:
    """Writes the page atomically. Raises StoreError for folders that do not go together."""
    comparison, roles, more = load(folders, target, retain)
    made = verdicts(comparison, roles, more)
    first = comparison.results[0].summary
    about = {role: comparison.labels[roles[role]] if role in roles else None for role in ("target", "retain")}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page(made, about, first, comparison.notes))
    return made


def page(made: Sequence[Verdict], about: dict[str, str | None], first: dict[str, Any], notes: Sequence[str]) -> str:
    shown = [
        {
            "title": v.label, "about": v.about, "headline": headline(v), "note": v.note, "missing": v.missing, "on_front": v.on_front,
            "parts": [("Forgotten?", [_line(x) for x in v.forgotten]), ("Kept?", [_line(x) for x in v.kept])],
        }
        for v in made
    ]  # fmt: skip
    return fill("verdict.html.j2", runs=shown, about=about, suite=first["suite"], rows=first["rows"], limit=first["limit"], notes=notes,
                plot=_plot(made) if sum(v.point is not None for v in made) > 1 else None, size=PLOT, version=__version__)  # fmt: skip


def _line(line: Line) -> dict[str, Any]:
    tone = "good" if line.said.state in GOOD else "bad" if line.said.state in BAD else "open"
    models = {"model": line.model, "target": line.target, "retain": line.retain}
    cells = {role: {"text": show(m and m.value), "span": _span(m)} for role, m in models.items()}
    return {"how": line.how, "name": line.name, "n": line.model.n, "tone": tone, "sentence": line.said.sentence, "state": line.said.state,
            "cells": cells, "strip": _strip(line)}  # fmt: skip


def _span(m: Number | None) -> str:
    return "" if m is None or m.span is None else f"{show(m.span[0])} to {show(m.span[1])}"


def _strip(line: Line) -> dict[str, Any]:
    """x of the marks on a scale from 0 to 1, or over all values where one lies outside."""
    held = [m for m in (line.model, line.target, line.retain) if m is not None]
    low, high = min(0.0, *(m.value for m in held)), max(1.0, *(m.value for m in held))

    def x(value: float) -> float:
        return round(PAD + (min(max(value, low), high) - low) / (high - low) * (WIDTH - 2 * PAD), 1)

    span = line.model.span
    return {"model": x(line.model.value), "target": line.target and x(line.target.value), "retain": line.retain and x(line.retain.value),
            "span": span and (x(span[0]), x(span[1])), "width": WIDTH, "pad": PAD}  # fmt: skip


def _plot(made: Sequence[Verdict]) -> list[dict[str, Any]]:
    width, height, left, bottom = PLOT
    out = []
    for number, verdict in enumerate(made, start=1):
        if verdict.point is not None:
            known, kept = (min(max(v, 0.0), 1.0) for v in verdict.point)
            x, y = left + kept * (width - left - bottom), bottom + known * (height - 3 * bottom)
            out.append({"x": round(x, 1), "y": round(y, 1), "number": number, "title": verdict.label, "on_front": verdict.on_front,
                        "known": show(verdict.point[0]), "kept": show(verdict.point[1])})  # fmt: skip
    return out


def print_verdicts(made: Sequence[Verdict]) -> None:
    """A line a model on stdout."""
    for verdict in made:
        left = f" Not measured: {', '.join(how for how, _ in verdict.missing)}." if verdict.missing else ""
        print(printable(f"{verdict.label}: {headline(verdict)}{f' {verdict.note}' if verdict.note else ''}{left}"))
