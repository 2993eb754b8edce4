"""Bars by method: where each bar, whisker and reference line of a metric ends, in per cent of the track. The template
draws."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tu_eval.compare.comparison import Comparison
from tu_eval.compare.groups import Group
from tu_eval.compare.intervals import Estimate
from tu_eval.results.columns import Column, show

MODES = ("all", "hard", "soft")
LOWEST = -20.0
"""log10 of the smallest p-value that has a place"""


@dataclass(frozen=True)
class Bar:
    mode: str
    apart: str
    """what tells it from the other bars of its method and mode; empty if there are no others"""
    title: str
    text: str
    n: int
    start: float
    width: float
    whisker: tuple[float, float] | None
    """start and width"""


@dataclass(frozen=True)
class Chart:
    column: Column
    methods: list[tuple[str, list[Bar]]]
    lines: list[tuple[str, float, str, str | None]]
    """target and retain model: (title, place, value, role)"""
    low: str
    high: str


def charts(comparison: Comparison, table: list[list[Estimate]]) -> list[Chart]:
    """One a metric that some unlearned model has; empty when no method is known."""
    running = [g for g, group in enumerate(comparison.groups) if group.role is None and group.training and group.training.method]
    out = []
    for c, column in enumerate(comparison.columns):
        held = [g for g in running if table[g][c].value is not None]
        if held:
            out.append(_chart(comparison, [row[c] for row in table], column, held))
    return out


def _chart(comparison: Comparison, held: list[Estimate], column: Column, running: list[int]) -> Chart:
    ends = [g for g, group in enumerate(comparison.groups) if group.role and held[g].value is not None]
    place, low, high = _axis([held[g] for g in [*running, *ends]], column)
    origin = place(0.0) if not column.log else 0.0
    names = Counter(_name(comparison.groups[g]) for g in running)
    by_method: dict[str, list[tuple[int, Bar]]] = {}
    for g in running:
        group, e = comparison.groups[g], held[g]
        assert group.training is not None and group.training.method is not None and e.value is not None
        mode, at = group.training.tokens or "", place(e.value)
        whisker = e.span and (place(e.span[0]), place(e.span[1]) - place(e.span[0]))
        # Where no setting differs (the same weights twice, say) the title does.
        apart = group.apart if names[_name(group)] == 1 else " · ".join(p for p in (group.apart, group.title) if p)
        bar = Bar(mode, apart, group.title, show(e.value), e.n, min(origin, at), abs(at - origin), whisker)
        by_method.setdefault(group.training.method, []).append((MODES.index(mode) if mode in MODES else len(MODES), bar))
    methods = [(method, [bar for _, bar in sorted(bars, key=lambda b: b[0])]) for method, bars in by_method.items()]
    lines = [(comparison.groups[g].title, place(held[g].value or 0.0), show(held[g].value), comparison.groups[g].role) for g in ends]
    return Chart(column, methods, lines, low, high)


def _name(group: Group) -> tuple[str | None, ...]:
    return (group.training.method, group.training.tokens, group.apart) if group.training else (group.title,)


def _axis(held: list[Estimate], column: Column) -> tuple[Callable[[float], float], str, str]:
    """-> value to per cent of the track, and what its ends say. Zero is always on it; shares run from 0 to 1, others
    hold every whisker."""
    values = [e.value for e in held if e.value is not None]
    if column.log:
        low = max(LOWEST, min(-3.0, *(math.floor(math.log10(v)) if v > 0 else LOWEST for v in values)))
        return lambda v: _cut(100 * (1 - (math.log10(v) if v > 0 else low) / low)), f"1e{low:.0f} (log scale)", "1"
    values += [end for e in held for end in e.span or ()]
    bottom, top = min(0.0, *values), max(1.0, *values)
    return lambda v: _cut(100 * (v - bottom) / (top - bottom)), f"{bottom:g}", f"{top:g}"


def _cut(share: float) -> float:
    return min(100.0, max(0.0, share))
