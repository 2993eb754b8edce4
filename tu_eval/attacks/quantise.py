"""Rounding the weights: unlearning that moved them by less than half a step of the grid is rounded away, and the
knowledge is back.

Zhang et al. 2024 (arXiv 2410.16454). Grids are those of tu_eval/measure/rounding.py: integers of some bits, with a
scale an output channel or one for every `group` inputs of a channel, and as an attack of its own NF4. Cost: a forward
pass over the forget rows for each form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from tu_eval.attacks.probing import Probe, measure, restored
from tu_eval.measure.rounding import GROUP, matrices, normal_float, rounded
from tu_eval.results.folder import ResultRow

if TYPE_CHECKING:
    from shared.engines.torch import TorchEngine

__all__ = ["matrices", "nf4", "quantise", "rounded"]


def quantise(engine: TorchEngine, probes: Sequence[Probe], *, bits: Sequence[int], group: int) -> list[ResultRow]:
    """Rows with the weights as they are and after each rounding to integers."""
    rows = measure(engine, probes, "as it is")
    for width in bits:
        for size, name in ((None, f"int{width}, a scale a channel"), (group, f"int{width}, a scale for {group}")):
            rows += _with(engine, probes, name, lambda weight, width=width, size=size: rounded(weight, width, size))
    return rows


def nf4(engine: TorchEngine, probes: Sequence[Probe]) -> list[ResultRow]:
    """Rows with the weights as they are and in NF4."""
    return [*measure(engine, probes, "as it is"), *_with(engine, probes, f"nf4, a scale for {GROUP}", normal_float)]


def _with(
    engine: TorchEngine, probes: Sequence[Probe], name: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> list[ResultRow]:  # fmt: skip
    weights = matrices(engine.packed.model)
    with restored(weights), torch.no_grad():
        for weight in weights:
            weight.copy_(change(weight))
        return measure(engine, probes, name)
