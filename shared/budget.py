"""Consecutive runs of items that fit a budget: parts of a store, forward passes, requests handed over at a time."""

from __future__ import annotations

from collections.abc import Sequence


def within_budget(lengths: Sequence[int], budget: int) -> list[tuple[int, int]]:
    """Cuts 0 … len(lengths) into ranges (end exclusive) of at most `budget` in sum; a longer item stands alone."""
    ranges, start, total = [], 0, 0
    for i, length in enumerate(lengths):
        if i > start and total + length > budget:
            ranges.append((start, i))
            start, total = i, 0
        total += length
    return [*ranges, (start, len(lengths))] if lengths else []
