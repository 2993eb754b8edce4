"""The verdict page: one HTML file that needs nothing else, a screen for each model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared import __version__
from shared.errors import printable
from shared.files.fs import write_text
from tu_eval.compare.report import fill
from tu_eval.evidence.verdict.front_plot import front_plot
from tu_eval.evidence.verdict.lines import BENCHMARK, Line
from tu_eval.evidence.verdict.meaning import meanings_of
from tu_eval.evidence.verdict.measured import Number
from tu_eval.evidence.verdict.rules import BAD, GOOD
from tu_eval.evidence.verdict.verdict import NO_RETAIN, Verdict, headline, load, verdicts
from tu_eval.results.columns import show

NOT_MEASURED = {"forgotten": "what is still there", "kept": "what was kept"}
"""question -> how what nobody measured of it is said"""
WIDTH, PAD = 150.0, 7.0
"""of the strip that shows a model between retain model and target, SVG user units"""


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
            "columns": _columns(v), "elsewhere": v.elsewhere,
            "parts": [("Forgotten?", [_line(x) for x in v.forgotten]), ("Kept?", [_line(x) for x in v.kept])],
        }
        for v in made
    ]  # fmt: skip
    meaning = meanings_of([x for v in made for x in (*v.forgotten, *v.kept)])
    return fill("verdict.html.j2", runs=shown, about=about, suite=first["suite"], rows=first["rows"], limit=first["limit"], notes=notes,
                no_retain=NO_RETAIN, not_measured=NOT_MEASURED, marks={role for v in made for role in _columns(v)}, meaning=meaning,
                plot=front_plot(made), version=__version__)  # fmt: skip


def _columns(verdict: Verdict) -> dict[str, str]:
    """Role -> heading; without those of which no line has a number."""
    lines = (*verdict.forgotten, *verdict.kept)
    heads = {"model": "This model", "target": "Before", "retain": "Never saw it"}
    return {role: head for role, head in heads.items() if any(getattr(x, role) is not None for x in lines)}


def _line(line: Line) -> dict[str, Any]:
    tone = "good" if line.said.state in GOOD else "bad" if line.said.state in BAD else "open"
    models = {"model": line.model, "target": line.target, "retain": line.retain}
    cells = {role: {"text": show(m and m.value), "span": _span(m)} for role, m in models.items()}
    name = line.name if line.how == BENCHMARK else f"{line.name[:1].upper()}{line.name[1:]}"
    return {"how": line.how, "name": name, "n": line.model.n, "tone": tone, "sentence": line.said.sentence, "state": line.said.state,
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


def print_verdicts(made: Sequence[Verdict]) -> None:
    """A line a model on stdout, and one where there was no retain model."""
    for verdict in made:
        ways = {said: [m.what for m in verdict.missing if m.question == question] for question, said in NOT_MEASURED.items()}
        parts = [f"{said} {', '.join(what)}" for said, what in ways.items() if what]
        left = f" Not measured: {'; '.join(parts)}." if parts else ""
        print(printable(f"{verdict.label}: {headline(verdict)}{f' {verdict.note}' if verdict.note else ''}{left}"))
    if not any(verdict.retain for verdict in made):
        print(NO_RETAIN)
