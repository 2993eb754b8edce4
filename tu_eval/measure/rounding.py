"""Weights on a coarser grid: integers, and the four-bit normal floats of QLoRA (Dettmers et al. 2023, arXiv
2305.14314).

Rounded are the weight matrices of linear layers; embeddings and the head stay as they are, as is usual. Values are put
back in the model's own dtype.

    integers    s = max |w| / (2^(bits-1) - 1)        w' = s · round(w / s)
    NF4         s = max |w|                           w' = s · the nearest of 16 levels to w / s

with one s an output channel, or for every `group` inputs of one. The levels of NF4 are quantiles of the normal
distribution, asymmetric so that 0 is one of them: eight for x ≥ 0 beside seven below and 0, with the outermost at
OFFSET, scaled to −1 … 1. The scales themselves are kept whole (no double quantisation).
"""

from __future__ import annotations

from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

import torch

from shared.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Rounding = Literal["int8", "int4", "nf4"]
GROUP = 64
"""inputs that share a scale in NF4, as published"""
OFFSET = 0.9677083
"""quantile of the outermost level, as published: the mean of 1 − 1/32 and 1 − 1/30"""


@cache
def levels() -> tuple[float, ...]:
    """The 16 of NF4, from −1 to 1."""
    quantile = NormalDist().inv_cdf

    def side(count: int) -> list[float]:
        """Quantiles from OFFSET down to the one before the middle."""
        return [quantile(OFFSET + (0.5 - OFFSET) * k / (count - 1)) for k in range(count - 1)]

    up, down = side(9), side(8)
    return tuple(x / up[0] for x in sorted([*up, 0.0, *(-x for x in down)]))


def matrices(model: PreTrainedModel) -> list[torch.Tensor]:
    """Weights of all linear layers but the head, [outputs, inputs] each (views where the layer keeps them the other way
    round)."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear | Conv1D) and m is not head]
    if not layers:
        raise ModelError(f"{type(model).__name__} has no linear layers that could be rounded; leave the rounding out")
    return [layer.weight.detach().T if isinstance(layer, Conv1D) else layer.weight.detach() for layer in layers]


def rounded(weight: torch.Tensor, bits: int, group: int | None) -> torch.Tensor:
    """[outputs, inputs] on the grid, in the same dtype; the last group of a channel may be shorter. A group of zeros
    stays as it is."""
    padded, size = _grouped(weight, group)
    most = 2 ** (bits - 1) - 1
    scale = padded.abs().amax(-1, keepdim=True) / most
    steps = (padded / scale.where(scale > 0, 1.0)).round().clamp(-most, most)
    return _whole(steps * scale, weight, size)


def normal_float(weight: torch.Tensor, group: int = GROUP) -> torch.Tensor:
    """The same in NF4. A value half-way between two levels takes the lower one."""
    padded, size = _grouped(weight, group)
    scale = padded.abs().amax(-1, keepdim=True)
    grid = torch.tensor(levels(), device=weight.device)
    between = (grid[1:] + grid[:-1]) / 2
    return _whole(grid[torch.bucketize((padded / scale.where(scale > 0, 1.0)).contiguous(), between)] * scale, weight, size)


def round_model(model: PreTrainedModel, how: Rounding) -> None:
    """In place: NF4 with GROUP, integers with a scale a channel."""
    with torch.no_grad():
        for weight in matrices(model):
            weight.copy_(normal_float(weight) if how == "nf4" else rounded(weight, int(how[3:]), None))


def _grouped(weight: torch.Tensor, group: int | None) -> tuple[torch.Tensor, int]:
    """-> [outputs, groups, size] in float32, filled up with zeros, and the size."""
    outputs, inputs = weight.shape
    size = min(group or inputs, inputs)
    return torch.nn.functional.pad(weight.float(), (0, -inputs % size)).view(outputs, -1, size), size


def _whole(values: torch.Tensor, like: torch.Tensor, size: int) -> torch.Tensor:
    return values.reshape(len(like), -1)[:, : like.shape[1]].to(like.dtype)
