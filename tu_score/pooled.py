"""The figures of `tu-score agree` over more tokens than memory holds, the same to the last digit as of arrays in
memory.

Values lie in files (shared/files/spill.py). One signal at a time is sorted there, in place; every figure is then a walk
over the sorted values, a piece at a time. Cost: a sort of N numbers a signal. Disk: 8 bytes a token and signal, and 26
more a token for the one that is being sorted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing

import numpy as np

from shared.files.spill import Spilled
from shared.weighting.weights import share_count

PIECE = 2**20
"""values in memory at a time"""


def pooled(scores: np.ndarray, truth: np.ndarray, joined: np.ndarray | None, shares: Mapping[str, float]) -> dict[str, float]:
    """auc, ap, p_true and a precision for each of `shares`, of scores [N] without NaN and truth [N] bool with both
    kinds; `joined`: [N] bool, is a token of the same word as the one before it; None: token by token."""
    with closing(Spilled(float)) as own, closing(Spilled(float)) as true:
        for at in pieces(len(scores)):
            own.add(scores[at])
            true.add(scores[at][truth[at]])
        ordered, positive = own.mapped(), true.mapped()
        ordered.sort()
        positive.sort()
        count, found = len(scores), {"auc": _auc(ordered, positive), "ap": _ap(ordered, positive)}
        found["p_true"] = _precision(scores, truth, None, ordered, positive, len(positive))
        for name, share in shares.items():
            found[name] = _precision(scores, truth, joined, ordered, positive, share_count(share, count))
    return found


def pieces(count: int) -> Iterator[slice]:
    for at in range(0, count, PIECE):
        yield slice(at, min(at + PIECE, count))


def _auc(ordered: np.ndarray, positive: np.ndarray) -> float:
    """From the ranks of the true tokens, equal values sharing the mean of theirs; both arrays from low to high."""
    twice, count = 0, len(positive)
    for at in pieces(count):
        own = positive[at]
        twice += int((np.searchsorted(ordered, own) + np.searchsorted(ordered, own, side="right") + 1).sum())
    return (twice - count * (count + 1)) / 2 / (count * (len(ordered) - count))


def _ap(ordered: np.ndarray, positive: np.ndarray) -> float:
    before = 0
    with closing(Spilled(float)) as terms:
        for at in reversed(list(pieces(len(ordered)))):
            own = ordered[at]
            new = np.concatenate([[at.start == 0 or ordered[at.start - 1] != own[0]], own[1:] != own[:-1]])
            first = np.flatnonzero(new)[::-1]  # of each run of equal values, from the top
            found = len(positive) - np.searchsorted(positive, own[first])
            terms.add(np.diff(found, prepend=before) * found / (len(ordered) - at.start - first))
            before = int(found[-1]) if len(found) else before
        return float(terms.mapped().sum() / len(positive))  # of one array: the sum's rounding depends on its pieces


def _precision(
    scores: np.ndarray, truth: np.ndarray, joined: np.ndarray | None, ordered: np.ndarray, positive: np.ndarray, count: int
) -> float:  # fmt: skip
    """Among the tokens that `most_important` takes, at most `count`: all above a value, and of those that have it the
    earliest, words whole."""
    if count >= len(scores):
        return len(positive) / len(scores)
    line = ordered[len(ordered) - count - 1]
    above = len(ordered) - int(np.searchsorted(ordered, line, side="right"))
    right = len(positive) - int(np.searchsorted(positive, line, side="right"))
    equal, hits = _earliest(scores, truth, joined, line, count - above, above == 0)
    return (right + hits) / (above + equal)


def _earliest(
    scores: np.ndarray, truth: np.ndarray, joined: np.ndarray | None, line: float, room: int, some: bool
) -> tuple[int, int]:  # fmt: skip
    """Of the tokens that score `line`, the earliest that fill `room`, words whole, and how many of them are true;
    `some`: the first word, even if it is longer. More have that score than there is room for."""
    seen = hits = taken = true = 0
    for at in pieces(len(scores)):
        equal = np.flatnonzero(scores[at] == line)
        begins = np.ones(len(equal), dtype=bool)
        if joined is not None:
            place = equal + at.start
            begins = ~joined[place] | (scores[np.maximum(place - 1, 0)] != line)
        told, ends = np.concatenate([[0], np.cumsum(truth[at][equal])]), np.flatnonzero(begins)
        ends = ends[seen + ends > 0]  # a word ends where the next one begins
        chosen = ends[seen + ends <= room][-1:]
        if not len(chosen) and some and not taken:
            chosen = ends[:1]
        if len(chosen):
            taken, true = seen + int(chosen[0]), hits + int(told[chosen[0]])
        seen, hits = seen + len(equal), hits + int(told[-1])
        if seen > room and (taken or not some):
            return taken, true
    return (seen, hits) if some and not taken else (taken, true)
