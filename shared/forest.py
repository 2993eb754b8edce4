"""Many sequences that share prefixes as one packed row: each shared prefix is computed once, nothing is padded.

The sequences form a forest of segments (runs of tokens without a branch). A segment's tokens attend to the tokens of its ancestors
and, causally, to their own segment. Transformers lets a registered function replace the attention of every architecture that
supports the interface; ours gathers, for groups of segments of similar size, their queries [B, H, N, D] and the keys of ancestors and
own tokens [B, H, M, D], and makes one SDPA call a group. No mask over the packed row is ever built: the cost of attention is that of
the segments, M per query token, plus the padding inside a group, which `MAX_WASTE` bounds.

Exact up to the order of sums. Sliding windows are honoured (by distance in position), soft-capped scores too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MIN_SHARED = 6
"""tokens; a shorter shared prefix is computed twice, which costs less than another group of attention calls"""
MAX_WASTE = 0.25
"""share of padding that a group of segments may hold"""


@dataclass
class Segment:
    """Tokens `start .. start + length` of the packed row, whose first token has position `depth`."""

    start: int
    length: int
    depth: int
    parent: Segment | None

    def context(self) -> list[int]:
        """Row indices of all ancestor tokens and its own, in order of position."""
        above = self.parent.context() if self.parent else []
        return above + list(range(self.start, self.start + self.length))


@dataclass
class Group:
    """B segments whose attention runs in one call; N queries and M keys each, padded by repeating index 0."""

    query_BN: torch.Tensor
    key_BM: torch.Tensor
    back_Q: torch.Tensor
    """which of the B·N outputs are real"""
    mask_BNM: torch.Tensor
    distance_BNM: torch.Tensor
    """position of the query minus position of the key, for sliding windows"""


@dataclass
class Forest:
    """A packed row of L tokens and the map back."""

    ids_L: torch.Tensor
    positions_L: torch.Tensor
    slots: list[list[int]]
    """for each sequence, the index in the packed row of each of its tokens"""
    groups: list[Group]
    order_L: torch.Tensor
    """puts the outputs of the groups, one after another, into the order of the packed row"""

    def to(self, device: torch.device) -> Forest:
        groups = [Group(*(getattr(g, f.name).to(device) for f in fields(Group))) for g in self.groups]
        return Forest(self.ids_L.to(device), self.positions_L.to(device), self.slots, groups, self.order_L.to(device))


def pack(sequences: Sequence[Sequence[int]]) -> Forest:
    """Packs sequences of token ids (none empty) into one row. Order and duplicates do not matter: equal prefixes are stored once."""
    assert all(sequences), "an empty sequence has nothing to pack"
    order = sorted(range(len(sequences)), key=lambda i: list(sequences[i]))
    ids: list[int] = []
    positions: list[int] = []
    segments: list[Segment] = []
    slots: list[list[int]] = [[] for _ in sequences]

    def add(members: list[int], depth: int, parent: Segment | None) -> None:
        """`members` share their first `depth` tokens and hold at least one more; they are in sorted order."""
        for run in _runs(sequences, members, depth):
            shared = _common(sequences, run, depth)
            segment = Segment(len(ids), shared - depth, depth, parent)
            ids.extend(sequences[run[0]][depth:shared])
            positions.extend(range(depth, shared))
            segments.append(segment)
            for member in run:
                slots[member].extend(range(segment.start, segment.start + segment.length))
            longer = [m for m in run if len(sequences[m]) > shared]
            if longer:
                add(longer, shared, segment)

    add(order, 0, None)
    groups = _groups(segments, torch.tensor(positions))
    rows = torch.cat([g.query_BN.flatten()[g.back_Q] for g in groups])
    return Forest(torch.tensor(ids), torch.tensor(positions), slots, groups, torch.argsort(rows))


def _common(sequences: Sequence[Sequence[int]], run: list[int], depth: int) -> int:
    """Length of the prefix that all of a sorted run share: that of its first and last."""
    return common_prefix(sequences[run[0]], sequences[run[-1]], depth)


def common_prefix(first: Sequence[int], second: Sequence[int], start: int = 0) -> int:
    """Length of the prefix that both share, given that their first `start` entries are equal."""
    end = min(len(first), len(second))
    return next((i for i in range(start, end) if first[i] != second[i]), end)


def _runs(sequences: Sequence[Sequence[int]], members: list[int], depth: int) -> Iterator[list[int]]:
    """Cuts sorted members into runs that share at least MIN_SHARED tokens after `depth`; one that ends sooner must be shared whole."""
    run = [members[0]]
    for member in members[1:]:
        shared = _common(sequences, [run[0], member], depth) - depth
        shortest = min(len(sequences[run[0]]), len(sequences[member])) - depth
        if shared >= min(MIN_SHARED, shortest):
            run.append(member)
        else:
            yield run
            run = [member]
    yield run


def _groups(segments: list[Segment], positions: torch.Tensor) -> list[Group]:
    """Segments of similar shape together, so that little is padded."""
    shaped = sorted(((s.length, s.depth + s.length, s) for s in segments), key=lambda x: (x[0], x[1], x[2].start), reverse=True)
    groups, batch, n, m, real = [], [], 0, 0, 0
    for length, keys, segment in shaped:
        cost, filled = max(n, length) * max(m, keys) * (len(batch) + 1), real + length * keys
        if batch and cost > filled * (1 + MAX_WASTE):
            groups.append(_group(batch, positions))
            batch, n, m, real = [], 0, 0, 0
        batch.append(segment)
        n, m, real = max(n, length), max(m, keys), real + length * keys
    return [*groups, _group(batch, positions)]


def _group(segments: list[Segment], positions: torch.Tensor) -> Group:
    contexts = [s.context() for s in segments]
    b, n, m = len(segments), max(s.length for s in segments), max(map(len, contexts))
    query = torch.zeros(b, n, dtype=torch.long)
    key = torch.zeros(b, m, dtype=torch.long)
    real_query = torch.zeros(b, n, dtype=torch.bool)
    real_key = torch.zeros(b, m, dtype=torch.bool)
    for i, (segment, context) in enumerate(zip(segments, contexts, strict=True)):
        query[i, : segment.length] = torch.arange(segment.start, segment.start + segment.length)
        key[i, : len(context)] = torch.tensor(context)
        real_query[i, : segment.length] = True
        real_key[i, : len(context)] = True
    distance = positions[query][:, :, None] - positions[key][:, None, :]
    # a padded query may look at key 0, so that no softmax is empty; its output is dropped
    mask = (distance >= 0) & real_key[:, None, :] | ~real_query[:, :, None] & (torch.arange(m) == 0)
    back = real_query.flatten().nonzero()[:, 0]
    return Group(query, key, back, mask, distance)


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
    heads = query.shape[1]
    repeat = heads // key.shape[1]
    parts = []
    for group in forest.groups:
        b, n = group.query_BN.shape
        q = query[0][:, group.query_BN].transpose(0, 1)
        k, v = (_repeat(x[0][:, group.key_BM].transpose(0, 1), repeat) for x in (key, value))
        mask = group.mask_BNM if sliding_window is None else group.mask_BNM & (group.distance_BNM < sliding_window)
        part = _attend(q, k, v, mask[:, None], scaling, softcap, dropout)
        parts.append(part.transpose(0, 1).reshape(heads, b * n, -1)[:, group.back_Q])
    out = torch.cat(parts, 1)[:, forest.order_L]
    return out.transpose(0, 1)[None].contiguous(), None


def _repeat(x: torch.Tensor, times: int) -> torch.Tensor:
    return x if times == 1 else x.repeat_interleave(times, 1)


def _attend(q, k, v, mask, scale, softcap, dropout) -> torch.Tensor:
    if softcap is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, dropout_p=dropout)
    scores = (q @ k.transpose(-1, -2)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = (torch.tanh(scores / softcap) * softcap).masked_fill(~mask, float("-inf"))
    return F.dropout(scores.float().softmax(-1).to(q.dtype), dropout) @ v
