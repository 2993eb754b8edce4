"""Modules that treat each token by itself (MLPs, norms) take a long packed row in blocks, whose intermediate results stay in a CPU's cache.

Of a whole row they are tens of MiB, which the allocator may have to ask the system for again in every layer
(benchmarks/where_time_goes.py prints the gain). The same numbers: no sum crosses tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = 512
"""of a block"""


@contextmanager
def in_blocks(model: PreTrainedModel, tokens: int = TOKENS) -> Iterator[None]:
    """While active, on a CPU and without gradient, such modules run in blocks of `tokens`; before and after, as they were loaded."""
    fits = model.device.type == "cpu" and not torch.is_grad_enabled()
    modules = [m for name, m in model.named_modules() if token_wise(name, m) and "forward" not in vars(m)] if fits else []
    for module in modules:
        module.forward = _blockwise(module.forward, tokens)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def token_wise(name: str, module: nn.Module) -> bool:
    """By the names that transformers gives them; what they return is checked when the model is loaded (shared/packed.py)."""
    return name.rpartition(".")[2] == "mlp" or type(module).__name__.endswith("Norm")


def _blockwise(forward: Callable[..., Any], tokens: int) -> Callable[..., Any]:
    def run(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if x.ndim != 3 or len(x) != 1 or x.shape[1] <= tokens or args or kwargs:
            return forward(x, *args, **kwargs)
        first = forward(x[:, :tokens])
        if not isinstance(first, torch.Tensor) or first.shape[:2] != (1, tokens):
            return forward(x)
        out = first.new_empty(1, x.shape[1], *first.shape[2:])
        out[:, :tokens] = first
        for at in range(tokens, x.shape[1], tokens):
            out[:, at : at + tokens] = forward(x[:, at : at + tokens])
        return out

    return run
