"""Keys and values of the first tokens of a batch, which pass after pass reads and none adds to."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache


class Begun(DynamicCache):
    """A cache of transformers that stops growing with `close`: later keys and values are given back behind those held,
    and not kept. All held tokens are read, whatever window a layer has; its mask hides what it must not see."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def close(self, length: int) -> None:
        """Holds the first `length` tokens of each row, and from here on nothing is added."""
        self.closed = True
        for layer in self.layers:
            held: Any = layer
            held.keys, held.values = (one[..., :length, :].clone() for one in (held.keys, held.values))

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """-> keys and values [B, heads, P + new, width] of a layer."""
        if not self.closed:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        held: Any = self.layers[layer_idx]
        return torch.cat([held.keys, key_states], dim=-2), torch.cat([held.values, value_states], dim=-2)
