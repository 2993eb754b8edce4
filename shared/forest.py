"""Many sequences that share prefixes as one packed row: each shared prefix is computed once, nothing is padded.

The sequences form a forest of segments (runs of tokens without a branch), laid out in depth-first order, so that the descendants of a
segment follow it without a gap: token j is visible to token i exactly when j <= i < end(j), where end(j) is where the descendants of
j's segment end. Transformers lets a registered function replace the attention of every architecture that supports the interface.

Ours has two forms. On CUDA, flex attention with that rule as its block mask. Elsewhere, for groups of segments of similar size, it
gathers their queries [B, H, N, D] and the keys of ancestors and own tokens [B, KV, M, D], and makes one SDPA call a group. No mask over the
packed row is ever built: the cost of attention is that of the segments, M per query token, plus padding inside a group, kept below
what another call would cost.

Exact up to the order of sums. Sliding windows are honoured (by distance in position), soft-capped scores too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MIN_SHARED = 4
"""tokens; a shorter shared prefix is computed twice, which costs less than another segment in the attention calls"""
MAX_WASTE = 0.25
"""share of padding that a group of segments may hold …"""
CALL_COST = 16_384
"""… or this many query-key pairs, the time of which is about that of another attention call (SmolLM2 on two CPU cores)"""


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
class Group:
    """B segments whose attention runs in one call; N queries and M keys each, padded by repeating index 0."""

    query_BN: torch.Tensor
    key_BM: torch.Tensor
    real_BN: torch.Tensor
    """which queries are not padding"""
    mask_BNM: torch.Tensor
    """which key a query may look at, sliding windows aside"""
    _masks: dict[Any, torch.Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> Group:
        return Group(self.query_BN.to(device), self.key_BM.to(device), self.real_BN.to(device), self.mask_BNM.to(device))

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
class Forest:
    """A packed row of L tokens and the map back."""

    ids_L: torch.Tensor
    positions_L: torch.Tensor
    ends_L: torch.Tensor
    """row index behind the last descendant of the token's segment"""
    slots: list[list[int]]
    """for each sequence, the index in the packed row of each of its tokens"""
    segments: list[Segment]
    groups: list[Group]
    """empty where flex attention needs none"""
    order_L: torch.Tensor
    """where in the outputs of the groups, one after another, padding included, each token of the row is"""
    _blocks: dict[Any, Any] = field(default_factory=dict)


def pack(sequences: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Forest:
    """Packs sequences of token ids (none empty) into one row. Order and duplicates do not matter: equal prefixes are stored once."""
    assert all(sequences), "an empty sequence has nothing to pack"
    device = torch.device(device)
    ids: list[int] = []
    positions: list[int] = []
    segments: list[Segment] = []
    slots: list[list[int]] = [[] for _ in sequences]
    by_ids = sorted(range(len(sequences)), key=lambda i: list(sequences[i]))
    common = [0, *(common_prefix(sequences[a], sequences[b]) for a, b in itertools.pairwise(by_ids))]
    lengths = [len(sequences[i]) for i in by_ids]
    # Runs of `by_ids` that share a segment, what comes before it, its parent. A stack, not recursion: texts with many spans nest deeply.
    stack: list[tuple[Run, int, Segment | None]] = []
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
    groups = [] if flex_fits(device) else _groups(segments)
    order = torch.empty(len(ids) if groups else 0, dtype=torch.long)
    if groups:
        real = torch.cat([g.real_BN.flatten() for g in groups]).nonzero()[:, 0]
        order[torch.cat([g.query_BN[g.real_BN] for g in groups])] = real
    ids_L, positions_L, ends_L = (torch.tensor(x, device=device) for x in (ids, positions, _ends(segments)))
    return Forest(ids_L, positions_L, ends_L, slots, segments, [g.to(device) for g in groups], order.to(device))


def _ends(segments: list[Segment]) -> list[int]:
    """For each token of the row, the index behind the last descendant of its segment (segments are in depth-first order)."""
    last = {id(s): s.start + s.length for s in segments}
    for s in reversed(segments):
        if s.parent is not None:
            last[id(s.parent)] = max(last[id(s.parent)], last[id(s)])
    return [last[id(s)] for s in segments for _ in range(s.length)]


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the prefix that both share."""
    end = min(len(first), len(second))
    return next((i for i in range(end) if first[i] != second[i]), end)


Run = tuple[int, int, int]
"""first, last (exclusive), and the length of the prefix that sequences first … last of the sorted order share"""


def _runs(common: list[int], lengths: list[int], first: int, last: int, depth: int) -> Iterator[Run]:
    """Cuts first … last of the sorted order into runs that share at least MIN_SHARED tokens after `depth`; a sequence that ends sooner must
    be shared whole. `common[k]` is the length of the prefix that sequences k - 1 and k share."""
    start, shared = first, lengths[first]
    for k in range(first + 1, last):
        both = min(shared, common[k])
        if both - depth >= min(MIN_SHARED, lengths[start] - depth, lengths[k] - depth):
            shared = both
        else:
            yield start, k, shared
            start, shared = k, lengths[k]
    yield start, last, shared


def _groups(segments: list[Segment]) -> list[Group]:
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
    return [*groups, _group(batch)]


def _group(segments: list[Segment]) -> Group:
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
    return Group(query, key, (at_n < lengths)[:, :, 0], mask)


_active: ContextVar[Forest | None] = ContextVar("forest", default=None)


@contextmanager
def attending(model: PreTrainedModel, forest: Forest) -> Iterator[None]:
    """While active, the model's attention runs within this packed row; before and after, as it was loaded."""
    _register()
    configs = {id(c): c for c in (model.config, model.config.get_text_config())}.values()
    before = [c._attn_implementation for c in configs]
    token = _active.set(forest)
    for config in configs:
        config._attn_implementation = "forest"
    try:
        yield
    finally:
        _active.reset(token)
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name


def recomputing(model: PreTrainedModel) -> AbstractContextManager[None]:
    """The attention of the forward pass in hand, for when activation checkpointing runs it again: by then another pass may be in hand,
    and the backward pass may run in another thread."""
    forest = _active.get()
    return nullcontext() if forest is None else attending(model, forest)


@cache
def _register() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register("forest", forest_attention)


# What transformers passes along that says nothing about which token attends to which.
IGNORED = frozenset(
    {"position_ids", "cache_position", "use_cache", "past_key_values", "output_attentions", "output_hidden_states", "return_dict"}
)


def forest_attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, sliding_window=None, softcap=None, **kwargs):
    """query [1, H, L, D]; key, value [1, KV, L, D] -> [1, L, H, D].

    Raises TypeError for an argument that may change the result and is not understood (attention sinks, position biases).
    """
    forest = _active.get()
    assert forest is not None, "forest attention runs inside `attending` only"
    strange = [name for name, value in kwargs.items() if value is not None and name not in IGNORED and not (name == "is_causal" and value)]
    if strange:
        raise TypeError(f"forest attention does not know {', '.join(strange)}")
    if not forest.groups:
        return _flex(forest, query, key, value, scaling, dropout, sliding_window, softcap), None
    # Whole tokens [L, heads · D] are gathered, not heads one by one: that is how they lie in memory.
    flat = [x[0].transpose(0, 1).flatten(1) for x in (query, key, value)]
    parts = []
    for group in forest.groups:
        indices = (group.query_BN, group.key_BM, group.key_BM)
        q, k, v = (_gather(x, index, y.shape[1]) for x, index, y in zip(flat, indices, (query, key, value), strict=True))
        if softcap is None:
            mask = group.added(forest.positions_L, sliding_window, q.dtype)
            gqa = q.shape[1] != k.shape[1]
            part = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling, dropout_p=dropout, enable_gqa=gqa)
        else:
            part = _capped(q, k, v, group.visible(forest.positions_L, sliding_window)[:, None], scaling, softcap, dropout)
        parts.append(part.transpose(1, 2).flatten(0, 1).flatten(1))
    out = torch.cat(parts).index_select(0, forest.order_L)
    return out.unflatten(1, (query.shape[1], -1))[None], None


def _gather(x: torch.Tensor, index: torch.Tensor, heads: int) -> torch.Tensor:
    """Tokens [L, heads · D] -> [B, heads, N, D]."""
    return x.index_select(0, index.flatten()).view(*index.shape, heads, -1).transpose(1, 2)


def _capped(q, k, v, mask, scale, softcap, dropout) -> torch.Tensor:
    repeat = q.shape[1] // k.shape[1]
    k, v = (x if repeat == 1 else x.repeat_interleave(repeat, 1) for x in (k, v))
    scores = (q @ k.transpose(-1, -2)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = (torch.tanh(scores / softcap) * softcap).masked_fill(~mask, float("-inf"))
    return F.dropout(scores.float().softmax(-1).to(q.dtype), dropout) @ v


def flex_fits(device: torch.device) -> bool:
    """Flex attention has kernels worth using on CUDA; written for it, tried on the CPU for its numbers only."""
    return device.type == "cuda"


@cache
def _flex_kernel(compiled: bool) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True) if compiled else flex_attention


def _flex(forest: Forest, query, key, value, scale, dropout, window, softcap) -> torch.Tensor:
    """[1, L, H, D]; the rule of visibility as a block mask, made once a forward pass and window."""
    from torch.nn.attention.flex_attention import create_block_mask

    if dropout:
        raise TypeError("flex attention has no dropout")
    ends, positions, length = forest.ends_L, forest.positions_L, len(forest.ids_L)

    def visible(b, h, q, k):
        seen = (k <= q) & (q < ends[k])
        return seen if window is None else seen & (positions[q] - positions[k] < window)

    def capped(score, b, h, q, k):
        return torch.tanh(score / softcap) * softcap

    if window not in forest._blocks:
        forest._blocks[window] = create_block_mask(visible, None, None, length, length, device=query.device)
    out = _flex_kernel(query.device.type == "cuda")(
        query, key, value, score_mod=None if softcap is None else capped, block_mask=forest._blocks[window], scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return out.transpose(1, 2).contiguous()
