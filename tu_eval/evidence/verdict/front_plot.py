"""Geometry of the plot of what is forgotten against what is kept: the template draws. Both axes are the part of 0 to 1
where the models are; less is still known upwards. Lengths are those of tu_eval/compare/plot.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tu_eval.compare.plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, labelled, share_axis
from tu_eval.evidence.verdict.verdict import Verdict
from tu_eval.results.columns import show


def front_plot(made: Sequence[Verdict]) -> dict[str, Any] | None:
    """Points with the numbers of the models as labels, none on another, and ticks; None for fewer than two points."""
    shown = [(number, v, v.point) for number, v in enumerate(made, start=1) if v.point is not None]
    if len(shown) < 2:
        return None
    known, kept = ([min(max(point[k], 0.0), 1.0) for *_, point in shown] for k in (0, 1))
    (low, high), y_ticks = share_axis(known)
    (left, right), x_ticks = share_axis(kept)

    def x(value: float) -> float:
        return round(LEFT + (value - left) / (right - left) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(TOP + (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    at = [(x(k), y(n)) for k, n in zip(kept, known, strict=True)]
    indices = list(range(len(shown)))
    labels = labelled(indices, [str(number) for number, *_ in shown], at, dict.fromkeys(indices, (None, None)))
    points = [
        {"place": label, "title": shown[label.index][1].label, "on_front": shown[label.index][1].on_front,
         "known": show(shown[label.index][2][0]), "kept": show(shown[label.index][2][1])}
        for label in labels
    ]  # fmt: skip
    return {"points": points, "x_ticks": [(x(t), text) for t, text in x_ticks], "y_ticks": [(y(t), text) for t, text in y_ticks],
            "ends": (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM), "size": (WIDTH, HEIGHT)}  # fmt: skip
