"""How much of an answer the model has by heart, from which answer positions it gets right: there, the likeliest token
is the gold one.

`hits` leaves out the end-of-turn token: a model that only knows when to stop has memorised nothing.
Source: OpenUnlearning (arXiv 2506.12618), extraction strength after Carlini et al. 2021 (arXiv 2012.07805).
"""

from __future__ import annotations

from collections.abc import Sequence


def exact_memorization(hits: Sequence[bool]) -> float:
    """Share of the answer's positions that are right, 0 to 1. `hits`: [positions], not empty."""
    return sum(map(bool, hits)) / len(hits)


def extraction_strength(hits: Sequence[bool]) -> float:
    """1 − k/n for n positions, k the length of the shortest prefix of the answer after which every position is right.

    1: the question alone brings the whole answer. 0: the last position is wrong, so no prefix short of the answer does.
    (The code that OpenUnlearning published stops at 1/n instead: it never looks at the empty rest.)
    """
    right = next((i for i, hit in enumerate(reversed(hits)) if not hit), len(hits))
    return right / len(hits)
