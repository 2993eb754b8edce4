"""Which models nothing dominates: no other forgets at least as much and keeps at least as much, one of the two more."""

from __future__ import annotations

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """`points`: of each model, what is still known (lower is better) and what is kept (higher is better).

    -> whether each lies on the front; equal points all do."""
    return [not any(_dominates(other, one) for other in points) for one in points]


def _dominates(other: tuple[float, float], one: tuple[float, float]) -> bool:
    return other[0] <= one[0] and other[1] >= one[1] and other != one
