"""Attention over a packed row (shared/lm/forest.py): every token attends to its ancestors and to those before it in its
own segment.

Transformers lets a registered function replace the attention of every architecture that supports the interface. Ours
has three forms:

- On CUDA, flex attention with the row's rule of visibility as its block mask.
- Elsewhere, for groups of segments of similar size: their queries [B, H, N, D] and the keys of ancestors and own tokens
  [B, KV, M, D] are gathered, one SDPA call a group.
- Scoring in float32 on a CPU, a segment with many query-key pairs stands alone: its scores are two products a key head
  (all query heads of that key head at once, shared/lm/products.py) around a softmax, in blocks of queries that read no
  key they may not see.

No mask over the packed row is ever built: the cost is that of the segments, M per query token, plus padding inside a
group, kept below what another call would cost. Exact up to the order of sums. Sliding windows are honoured (by distance
in position), and soft-capped scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from shared.lm.forest import Forest, Single
from shared.lm.products import FasterProducts, onednn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

QUERIES = 512
"""of a segment that stands alone, at once: their scores stay in the cache, and few keys beyond the last query are
read"""

_active: ContextVar[Forest | None] = ContextVar("forest", default=None)


@contextmanager
def attending(model: PreTrainedModel, forest: Forest) -> Iterator[None]:
    """While active, the model's attention runs within this packed row, its linear layers by the faster products; after
    it, as before."""
    _register()
    configs = {id(c): c for c in (model.config, model.config.get_text_config())}.values()
    before = [c._attn_implementation for c in configs]
    token = _active.set(forest)
    for config in configs:
        config._attn_implementation = "forest"
    try:
        with FasterProducts():
            yield
    finally:
        _active.reset(token)
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name


def recomputing(model: PreTrainedModel) -> AbstractContextManager[None]:
    """The attention of the forward pass in hand, for when activation checkpointing runs it again: by then another pass
    may be in hand, and the backward pass may run in another thread."""
    forest = _active.get()
    return FasterProducts() if forest is None else attending(model, forest)  # type: ignore[return-value]


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

    Raises TypeError for an argument that may change the result and is not understood (attention sinks, position
    biases).
    """
    forest = _active.get()
    assert forest is not None, "forest attention runs inside `attending` only"
    strange = [name for name, value in kwargs.items() if value is not None and name not in IGNORED and not (name == "is_causal" and value)]
    if strange:
        raise TypeError(f"forest attention does not know {', '.join(strange)}")
    forest.windows.append(sliding_window)
    if not forest.groups and not forest.singles:
        return _flex(forest, query, key, value, scaling, dropout, sliding_window, softcap), None
    if forest.singles and dropout:
        raise TypeError("attention while scoring has no dropout")
    # Whole tokens [L, heads · D] are gathered, not heads one by one: that is how they lie in memory.
    flat = [x[0].transpose(0, 1).flatten(1) for x in (query, key, value)]
    parts = _grouped(forest, flat, query, key, value, scaling, dropout, sliding_window, softcap)
    if not forest.singles:
        return torch.cat(parts).index_select(0, forest.order_L).unflatten(1, (query.shape[1], -1))[None], None
    out = query.new_empty(query.shape[2], query.shape[1], value.shape[-1])
    if parts:
        out[forest.grouped_L] = torch.cat(parts).index_select(0, forest.order_L).unflatten(1, out.shape[1:])
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    for single in forest.singles:
        _alone(single, query[0], flat[1], flat[2], out, scale, sliding_window, softcap)
    return out[None], None


def _grouped(forest: Forest, flat, query, key, value, scaling, dropout, sliding_window, softcap) -> list[torch.Tensor]:
    """Outputs of the groups, [B · N, H · D] each, padding included."""
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
    return parts


def _alone(single: Single, query_HLD, key_LE, value_LE, out_LHD, scale: float, window: int | None, softcap: float | None) -> None:
    """Fills the rows of one segment."""
    heads, _, width = query_HLD.shape
    key_GMD, value_GMD = (
        x.index_select(0, single.context_M).unflatten(1, (-1, d)).transpose(0, 1).contiguous()
        for x, d in ((key_LE, width), (value_LE, out_LHD.shape[-1]))
    )
    depth, groups = len(single.context_M) - single.length, len(key_GMD)
    for first in range(0, single.length, QUERIES):
        count = min(QUERIES, single.length - first)
        rows, seen = slice(single.start + first, single.start + first + count), depth + first + count
        added = out_of_sight(count, seen, window, query_HLD)
        for g in range(groups):
            mine = slice(g * heads // groups, (g + 1) * heads // groups)
            q = (query_HLD[mine, rows] * scale).flatten(0, 1)
            scores = onednn(q, key_GMD[g, :seen]).unflatten(0, (-1, count))
            if softcap is not None:
                scores.div_(softcap).tanh_().mul_(softcap)
            scores[..., -added.shape[1] :].add_(added)
            weights = torch.softmax(scores, -1, out=scores)
            out_LHD[rows, mine] = onednn(weights.flatten(0, 1), value_GMD[g, :seen].T).unflatten(0, (-1, count)).transpose(0, 1)


def out_of_sight(count: int, seen: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
    """[count, W], −inf where one of the last `count` of `seen` tokens may not look at one of the last W, else 0. W is
    `count`, or `seen` where a window slides."""
    width = count if window is None or window >= seen else seen
    behind = torch.arange(count, device=like.device)[:, None] + width - count - torch.arange(width, device=like.device)
    hidden = behind < 0 if window is None else (behind < 0) | (behind >= window)
    return torch.zeros(count, width, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))


def _gather(x: torch.Tensor, index: torch.Tensor, heads: int) -> torch.Tensor:
    """Tokens [L, heads · D] -> [B, heads, N, D]."""
    return x.index_select(0, index.flatten()).view(*index.shape, heads, -1).transpose(1, 2)


def _capped(q, k, v, mask, scale, softcap, dropout) -> torch.Tensor:
    repeat = q.shape[1] // k.shape[1]
    k, v = (x if repeat == 1 else x.repeat_interleave(repeat, 1) for x in (k, v))
    scores = (q @ k.transpose(-1, -2)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = (torch.tanh(scores / softcap) * softcap).masked_fill(~mask, float("-inf"))
    return F.dropout(scores.float().softmax(-1).to(q.dtype), dropout) @ v


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
