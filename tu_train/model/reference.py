"""The model before training, without a second model: copies of the parameters that train, put in their places for a
forward pass.

Memory: one copy of the trained parameters, nothing for LoRA, whose adapters are switched off instead. Only methods that
need the start model's logits or activations pay for it; reference log-probabilities of forget tokens come from the
store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from shared.lm.logprobs import Head
from shared.lm.packed import PackedModel


class Reference:
    def __init__(self, packed: PackedModel, adapters_off: Callable[[], AbstractContextManager] | None = None):
        """To be made before training begins. `adapters_off`: for LoRA, a context in which the model runs without its
        adapters."""
        self.packed, self.adapters_off = packed, adapters_off
        trained = [] if adapters_off else [p for p in packed.model.parameters() if p.requires_grad]
        self.kept: list[tuple[torch.nn.Parameter, Tensor]] = [(p, p.detach().clone()) for p in trained]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inside, the model is the one before training; without gradient. Nothing is copied: pointers change places.
        In a model in shards places are fixed, and numbers change them."""
        now = [p.data for p, _ in self.kept]
        torch.clear_autocast_cache()  # it knows a parameter by its place, and would keep a cast of what stood there before
        try:
            if self.packed.root is not None:
                self._exchange()
            else:
                for parameter, before in self.kept:
                    parameter.data = before
            with torch.no_grad():
                if self.adapters_off is None:
                    yield
                else:
                    with self.adapters_off():
                        yield
        finally:
            if self.packed.root is not None:
                self._exchange()
            else:
                for (parameter, _), data in zip(self.kept, now, strict=True):
                    parameter.data = data
            torch.clear_autocast_cache()

    @torch.no_grad()
    def _exchange(self) -> None:
        for parameter, before in self.kept:
            now = parameter.detach().clone()
            parameter.copy_(before)
            before.copy_(now)

    @property
    def head(self) -> Head:
        """The start model's head, for use outside of `active` too; of a model in shards to be asked for inside."""
        head, before = self.packed.head, {id(p): data for p, data in self.kept}

        def kept(p: Tensor) -> Tensor:
            if self.packed.root is not None and p.requires_grad:
                return p.detach().clone()  # whole weights do not outlive the pass
            return before.get(id(p), p.detach())

        return replace(head, weight=kept(head.weight), bias=None if head.bias is None else kept(head.bias))
