"""Rounding the weights: unlearning that moved them by less than half a step of the grid is rounded away, and the
knowledge is back.

Zhang et al. 2024 (arXiv 2410.16454). Weights are rounded to nearest on a symmetric grid and put back in the model's own
dtype:

    s = max |w| / (2^(bits-1) - 1)        w' = s · round(w / s)

with one s an output channel, or one for every `group` inputs of a channel. Rounded are the weight matrices of linear
layers; embeddings and the head stay as they are, as is usual. Cost: a forward pass over the forget rows for each form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from shared.errors import ModelError
from tu_eval.attacks.probing import Probe, measure, restored
from tu_eval.results.folder import ResultRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from shared.engines.torch import TorchEngine


def quantise(engine: TorchEngine, probes: Sequence[Probe], *, bits: Sequence[int], group: int) -> list[ResultRow]:
    """Rows with the weights as they are and after each rounding."""
    weights = matrices(engine.packed.model)
    rows = measure(engine, probes, "as it is")
    for width in bits:
        for size, name in ((None, f"int{width}, a scale a channel"), (group, f"int{width}, a scale for {group}")):
            with restored(weights), torch.no_grad():
                for weight in weights:
                    weight.copy_(rounded(weight, width, size))
                rows += measure(engine, probes, name)
    return rows


def matrices(model: PreTrainedModel) -> list[torch.Tensor]:
    """Weights of all linear layers but the head, [outputs, inputs] each (views where the layer keeps them the other way
    round)."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear | Conv1D) and m is not head]
    if not layers:
        raise ModelError(f"{type(model).__name__} has no linear layers that could be rounded; leave the attack quantise out")
    return [layer.weight.detach().T if isinstance(layer, Conv1D) else layer.weight.detach() for layer in layers]


def rounded(weight: torch.Tensor, bits: int, group: int | None) -> torch.Tensor:
    """[outputs, inputs] on the grid, in the same dtype; the last group of a channel may be shorter. A group of zeros
    stays as it is."""
    outputs, inputs = weight.shape
    size = min(group or inputs, inputs)
    most = 2 ** (bits - 1) - 1
    padded = torch.nn.functional.pad(weight.float(), (0, -inputs % size)).view(outputs, -1, size)
    scale = padded.abs().amax(-1, keepdim=True) / most
    steps = (padded / scale.where(scale > 0, 1.0)).round().clamp(-most, most)
    return (steps * scale).view(outputs, -1)[:, :inputs].to(weight.dtype)
