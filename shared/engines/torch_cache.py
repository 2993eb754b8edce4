"""Keys and values of rows that write, and the attention of a model that reads its prompts into them or a further token
from them.

The attention is registered with transformers like the forest's, and layers are told apart by the order in which a pass
calls them, so that every architecture that the forest fits is fed this way too. B rows, H heads over KV key heads, D
size of a head, M tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from shared.lm.attention import attending, forest_attention
from shared.lm.forest import pack
from shared.lm.products import FasterProducts

if TYPE_CHECKING:
    from shared.lm.packed import PackedModel

GROW = 64
"""tokens by which places are lengthened at least"""


class Cache:
    """`rows` places of `room` tokens, lengthened when they must be."""

    def __init__(self, rows: int):
        self.rows, self.room = rows, 0
        self.layers: list[list[torch.Tensor]] = []
        """keys and values, [rows, room, KV · D] each"""

    def make_room(self, tokens: int) -> None:
        """New places hold zeros: what a mask hides has to be finite all the same."""
        if tokens > self.room:
            more = max(tokens - self.room, GROW)
            self.layers = [[F.pad(cached, (0, 0, 0, more)) for cached in layer] for layer in self.layers]
            self.room += more

    def put(self, layer: int, place, at, new: Sequence[torch.Tensor]) -> None:
        """Keys and values for places and positions given as an index; a layer that is new is added."""
        if layer == len(self.layers):
            self.layers.append([x.new_zeros(self.rows, self.room, x.shape[-1]) for x in new])
        for cached, x in zip(self.layers[layer], new, strict=True):
            cached[place, at] = x

    def move(self, source: int, target: int, tokens: int) -> None:
        for layer in self.layers:
            for cached in layer:
                cached[target, :tokens] = cached[source, :tokens]

    def bytes_a_token(self) -> int:
        return sum(cached.shape[2] * cached.element_size() for layer in self.layers for cached in layer)


def read_prompts(packed: PackedModel, cache: Cache, first: int, prompts: Sequence[list[int]]) -> torch.Tensor:
    """Reads prompts into the places from `first` on -> hidden states of their last tokens, [B, width]."""
    forest, longest = pack(prompts, packed.model.device), max(map(len, prompts))
    cache.make_room(longest)
    slots = torch.tensor([s + [0] * (longest - len(s)) for s in forest.slots], device=packed.model.device)
    with attending(packed.model, forest), _during(packed.model, _Prompts(cache, first, slots)):
        hidden = _hidden(packed, forest.ids_L, forest.positions_L)
    return hidden[[s[-1] for s in forest.slots]]


def read_tokens(packed: PackedModel, cache: Cache, tokens: Sequence[int], at: Sequence[int]) -> torch.Tensor:
    """Reads for each place, from the first on, the token that stands at its position `at` -> their hidden states, [B,
    width]."""
    device, longest = packed.model.device, max(at) + 1
    cache.make_room(longest)
    at_B = torch.tensor(at, device=device)
    with _during(packed.model, _Tokens(cache, at_B, longest)):
        return _hidden(packed, torch.tensor(tokens, device=device), at_B)


def _hidden(packed: PackedModel, ids_L: torch.Tensor, positions_L: torch.Tensor) -> torch.Tensor:
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids_L.device)  # keeps transformers from building its own
    with FasterProducts():
        out = packed.backbone(input_ids=ids_L[None], position_ids=positions_L[None], attention_mask=mask, use_cache=False)
    return out.last_hidden_state[0]


@dataclass
class _Prompts:
    """A pass over packed prompts; padded `slots_BM` says which rows are the tokens of each."""

    cache: Cache
    first: int
    slots_BM: torch.Tensor
    layer: int = 0

    def attend(self, module, query, key, value, attention_mask, **options):
        count, longest = self.slots_BM.shape
        new = [x[0].transpose(0, 1).flatten(1)[self.slots_BM.flatten()].view(count, longest, -1) for x in (key, value)]
        self.cache.put(self.layer, slice(self.first, self.first + count), slice(0, longest), new)
        self.layer += 1
        return forest_attention(module, query, key, value, attention_mask, **options)


@dataclass
class _Tokens:
    """A pass over one token of each row, which stands at `at_B` in its place."""

    cache: Cache
    at_B: torch.Tensor
    longest: int
    layer: int = 0
    masks: dict = field(default_factory=dict)

    def attend(self, module, query, key, value, attention_mask, scaling=None, dropout=0.0, sliding_window=None, softcap=None, **options):
        """query [1, H, B, D]; key, value [1, KV, B, D] -> [1, B, H, D]. Heads that share a key head are the queries of
        one call."""
        count, groups = len(self.at_B), key.shape[1]
        new = [x[0].transpose(0, 1).flatten(1) for x in (key, value)]
        self.cache.put(self.layer, torch.arange(count, device=query.device), self.at_B, new)
        k, v = (x[:count, : self.longest].unflatten(2, (groups, -1)).transpose(1, 2) for x in self.cache.layers[self.layer])
        self.layer += 1
        q = query[0].transpose(0, 1).unflatten(1, (groups, -1))
        mask = self.mask(sliding_window, query.dtype)
        if softcap is None:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
        else:
            scores = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
            out = ((scores / softcap).tanh() * softcap + mask).float().softmax(-1).to(q.dtype) @ v
        return out.flatten(1, 2)[None], None

    def mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """[B, 1, 1, M], 0 where the token may look, else −inf. Made once a pass and window."""
        if (window, dtype) not in self.masks:
            position, at = torch.arange(self.longest, device=self.at_B.device)[None], self.at_B[:, None]
            visible = position <= at
            if window is not None:
                visible &= at - position < window
            hidden = torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, -torch.inf)
            self.masks[window, dtype] = hidden[:, None, None]
        return self.masks[window, dtype]


_active: ContextVar[_Prompts | _Tokens | None] = ContextVar("generation", default=None)


def _attention(module, query, key, value, attention_mask, **options):
    step = _active.get()
    assert step is not None, "this attention runs inside `_during` only"
    return step.attend(module, query, key, value, attention_mask, **options)


@cache
def _register() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register("generation", _attention)


@contextmanager
def _during(model, step: _Prompts | _Tokens) -> Iterator[None]:
    """While active, the model's attention is that of this pass."""
    _register()
    configs = {id(c): c for c in (model.config, model.config.get_text_config())}.values()
    before, token = [c._attn_implementation for c in configs], _active.set(step)
    for config in configs:
        config._attn_implementation = "generation"
    try:
        yield
    finally:
        _active.reset(token)
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name
