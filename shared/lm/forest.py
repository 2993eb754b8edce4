"""Many sequences that share prefixes as one packed row: each shared prefix is computed once, nothing is padded.

The sequences form a forest of segments (runs of tokens without a branch), laid out in depth-first order, so that the
descendants of a segment follow it without a gap: token j is visible to token i exactly when j <= i < end(j), where
end(j) is where the descendants of j's segment end. What attention runs over such a row is in shared/lm/attention.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from shared.lm.memory import placed

MIN_SHARED = 4
"""tokens; a shorter shared prefix is computed twice, which costs less than another segment in the attention calls"""
MAX_WASTE = 0.25
"""share of padding that a group of segments may hold …"""
CALL_COST = 16_384
"""… or this many query-key pairs, the time of which is about that of another attention call (SmolLM2 on two CPU
cores)"""
ALONE = 32_768
"""query-key pairs from which a segment is cheaper alone, where it may stand alone"""


@dataclass
class Segment:
    """Tokens `start .. start + length` of the packed row, whose first token has position `depth`."""

    start: int
    length: int
    depth: int
    parent: Segment | None

    def context(self) -> list[int]:
        """Row indices of all ancestor tokens and its own, in order of position."""
        chain, segment = [], self
        while segment is not None:
            chain.append(range(segment.start, segment.start + segment.length))
            segment = segment.parent
        return [i for part in reversed(chain) for i in part]


@dataclass
class SegmentGroup:
    """B segments whose attention runs in one call; N queries and M keys each, padded by repeating index 0."""

    query_BN: torch.Tensor
    key_BM: torch.Tensor
    real_BN: torch.Tensor
    """which queries are not padding"""
    mask_BNM: torch.Tensor
    """which key a query may look at, sliding windows aside"""
    _masks: dict[Any, torch.Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> SegmentGroup:
        return SegmentGroup(self.query_BN.to(device), self.key_BM.to(device), self.real_BN.to(device), self.mask_BNM.to(device))

    def visible(self, positions_L: torch.Tensor, window: int | None) -> torch.Tensor:
        """[B, N, M] bool."""
        if window is None:
            return self.mask_BNM
        return self.mask_BNM & (positions_L[self.query_BN][:, :, None] - positions_L[self.key_BM][:, None, :] < window)

    def added(self, positions_L: torch.Tensor, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """[B, 1, N, M], 0 or −inf: what SDPA would make of the mask in every layer, made once a forward pass."""
        if (window, dtype) not in self._masks:
            visible = self.visible(positions_L, window)[:, None]
            self._masks[window, dtype] = torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(
                ~visible, float("-inf")
            )
        return self._masks[window, dtype]


@dataclass
class Single:
    """A segment whose attention runs by itself; M keys, its own last."""

    start: int
    length: int
    context_M: torch.Tensor


@dataclass
class Forest:
    """A packed row of L tokens and the map back."""

    ids_L: torch.Tensor
    positions_L: torch.Tensor
    ends_L: torch.Tensor
    """row index behind the last descendant of the token's segment"""
    slots: list[list[int]]
    """for each sequence, the index in the packed row of each of its tokens"""
    segments: list[Segment]
    groups: list[SegmentGroup]
    """empty where flex attention needs none"""
    singles: list[Single]
    order_L: torch.Tensor
    """where in the outputs of the groups, one after another, padding included, each token of the row is that belongs to
    a group …"""
    grouped_L: torch.Tensor
    """… and which tokens those are"""
    windows: list[int | None] = field(default_factory=list)
    """the sliding window of each call of the attention so far"""
    _blocks: dict[Any, Any] = field(default_factory=dict)


def pack(sequences: Sequence[Sequence[int]], device: torch.device | str = "cpu", *, alone: bool = False) -> Forest:
    """Packs sequences of token ids (none empty) into one row. Order and duplicates do not matter: equal prefixes are
    stored once.

    `alone`: large segments may stand alone in attention, which then has no gradient.
    """
    assert all(sequences), "an empty sequence has nothing to pack"
    device = torch.device(device)
    ids: list[int] = []
    positions: list[int] = []
    segments: list[Segment] = []
    slots: list[list[int]] = [[] for _ in sequences]
    by_ids = sorted(range(len(sequences)), key=lambda i: list(sequences[i]))
    common = [0, *(common_prefix(sequences[a], sequences[b]) for a, b in itertools.pairwise(by_ids))]
    lengths = [len(sequences[i]) for i in by_ids]
    # Runs of `by_ids` that share a segment, what comes before it, its parent. A stack, not recursion: texts with many
    # spans nest deeply.
    stack: list[tuple[PrefixRun, int, Segment | None]] = []
    stack += [(run, 0, None) for run in _runs(common, lengths, 0, len(by_ids), 0)][::-1]
    while stack:
        (first, last, shared), depth, parent = stack.pop()
        segment = Segment(len(ids), shared - depth, depth, parent)
        ids.extend(sequences[by_ids[first]][depth:shared])
        positions.extend(range(depth, shared))
        segments.append(segment)
        for member in by_ids[first:last]:
            slots[member].extend(range(segment.start, segment.start + segment.length))
        longer = next((k for k in range(first, last) if lengths[k] > shared), last)  # those that end here sort before
        if longer < last:
            stack += [(run, shared, segment) for run in _runs(common, lengths, longer, last, shared)][::-1]
    ids_L, positions_L, ends_L = (placed(x, device) for x in (ids, positions, _ends(segments)))
    return Forest(ids_L, positions_L, ends_L, slots, segments, *_shared_out(segments, device, alone))


def _shared_out(
    segments: list[Segment], device: torch.device, alone: bool
) -> tuple[list[SegmentGroup], list[Single], torch.Tensor, torch.Tensor]:
    """Groups, singles, and where the tokens of the groups are: the fields of a Forest."""
    if flex_fits(device):
        nowhere = torch.empty(0, dtype=torch.long, device=device)
        return [], [], nowhere, nowhere
    large = [alone and s.length * (s.depth + s.length) >= ALONE for s in segments]
    groups = _groups([s for s, is_large in zip(segments, large, strict=True) if not is_large])
    singles = [
        Single(s.start, s.length, torch.tensor(s.context(), device=device)) for s, is_large in zip(segments, large, strict=True) if is_large
    ]
    place = torch.full((sum(s.length for s in segments),), -1)
    if groups:
        real = torch.cat([g.real_BN.flatten() for g in groups]).nonzero()[:, 0]
        place[torch.cat([g.query_BN[g.real_BN] for g in groups])] = real
    grouped = (place >= 0).nonzero()[:, 0]
    return [g.to(device) for g in groups], singles, place[grouped].to(device), grouped.to(device)


def flex_fits(device: torch.device) -> bool:
    """Flex attention has kernels worth using on CUDA; written for it, tried on the CPU for its numbers only."""
    return device.type == "cuda"


def _ends(segments: list[Segment]) -> list[int]:
    """For each token of the row, the index behind the last descendant of its segment (segments are in depth-first
    order)."""
    last = {id(s): s.start + s.length for s in segments}
    for s in reversed(segments):
        if s.parent is not None:
            last[id(s.parent)] = max(last[id(s.parent)], last[id(s)])
    return [last[id(s)] for s in segments for _ in range(s.length)]


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the prefix that both share."""
    end = min(len(first), len(second))
    return next((i for i in range(end) if first[i] != second[i]), end)


PrefixRun = tuple[int, int, int]
"""first, last (exclusive), and the length of the prefix that sequences first … last of the sorted order share"""


def _runs(common: list[int], lengths: list[int], first: int, last: int, depth: int) -> Iterator[PrefixRun]:
    """Cuts first … last of the sorted order into runs that share at least MIN_SHARED tokens after `depth`; a sequence
    that ends sooner must be shared whole. `common[k]` is the length of the prefix that sequences k - 1 and k share."""
    start, shared = first, lengths[first]
    for k in range(first + 1, last):
        both = min(shared, common[k])
        if both - depth >= min(MIN_SHARED, lengths[start] - depth, lengths[k] - depth):
            shared = both
        else:
            yield start, k, shared
            start, shared = k, lengths[k]
    yield start, last, shared


def _groups(segments: list[Segment]) -> list[SegmentGroup]:
    """Segments of similar shape together. A group ends where padding would cost more than another call."""
    shaped = sorted(((s.length, s.depth + s.length, s) for s in segments), key=lambda x: (x[0], x[1], x[2].start), reverse=True)
    groups, batch, n, m, real = [], [], 0, 0, 0
    for length, keys, segment in shaped:
        pairs, filled = max(n, length) * max(m, keys) * (len(batch) + 1), real + length * keys
        if batch and pairs - filled > max(MAX_WASTE * filled, CALL_COST):
            groups.append(_group(batch))
            batch, n, m, real = [], 0, 0, 0
        batch.append(segment)
        n, m, real = max(n, length), max(m, keys), real + length * keys
    return [*groups, _group(batch)] if batch else groups


def _group(segments: list[Segment]) -> SegmentGroup:
    b, n, m = len(segments), max(s.length for s in segments), max(s.depth + s.length for s in segments)
    query = torch.zeros(b, n, dtype=torch.long)
    key = torch.zeros(b, m, dtype=torch.long)
    lengths = torch.tensor([s.length for s in segments])[:, None, None]
    depths = torch.tensor([s.depth for s in segments])[:, None, None]
    for i, segment in enumerate(segments):
        query[i, : segment.length] = torch.arange(segment.start, segment.start + segment.length)
        key[i, : segment.depth + segment.length] = torch.tensor(segment.context())
    at_n, at_m = torch.arange(n)[None, :, None], torch.arange(m)[None, None, :]
    # a padded query may look at key 0, so that no softmax is empty; its output is dropped
    mask = (at_m <= at_n + depths) & (at_n < lengths) | (at_n >= lengths) & (at_m == 0)
    return SegmentGroup(query, key, (at_n < lengths)[:, :, 0], mask)
