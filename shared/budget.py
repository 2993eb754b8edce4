"""Items that fit a budget: parts of a store, forward passes, requests handed over at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def within_budget(lengths: Sequence[int], budget: int) -> list[tuple[int, int]]:
    """Cuts 0 … len(lengths) into ranges (end exclusive) of at most `budget` in sum; a longer item stands alone."""
    ranges, start, total = [], 0, 0
    for i, length in enumerate(lengths):
        if i > start and total + length > budget:
            ranges.append((start, i))
            start, total = i, 0
        total += length
    return [*ranges, (start, len(lengths))] if lengths else []


def padded_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Places of sequences in order of length, at most `budget` tokens with the padding; a longer one stands alone."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[i] > budget:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
