"""Forget losses at token level. Tensors in, summed loss out; the denominator is explicit, so that it can be that of a whole step.

    N     weighted target tokens of all rows, one after another (tokens of weight zero may be left out)
    B     rows
    logp_N, ref_logp_N   log-probability of the gold token under the model in training / under the scored model (from the store), nats
    weight_N             token weights; all 1 gives the sequence-level method of the literature
    row_N                which row a token belongs to, 0..B-1

A loss is minimised. The update of a step is the gradient of (sum of losses) / (sum of denominators over the step).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import ConfigError, nearest

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Method:
    loss: Callable[..., Tensor]
    """(logp_N, ref_logp_N, weight_N, row_N, rows, beta) -> summed loss"""
    per: str
    """`token`: the denominator is the sum of weights; `row`: the number of rows"""
    paper: str


def graddiff(logp_N: Tensor, ref_logp_N: Tensor, weight_N: Tensor, row_N: Tensor, rows: int, beta: float) -> Tensor:
    """GradDiff (Liu et al. 2022; Maini et al. 2024): −Σ w · NLL = Σ w · log p, over Σ w; with the retain loss beside it.

    The weight scales each token's own ascent, so a token of weight zero is neither pushed nor counted.
    """
    return (weight_N * logp_N).sum()


def npo(logp_N: Tensor, ref_logp_N: Tensor, weight_N: Tensor, row_N: Tensor, rows: int, beta: float) -> Tensor:
    """NPO (Zhang et al. 2024, arXiv 2404.05868): Σ over rows of −(2/β) · log σ(−β · Σ_t w_t · (log p_t − log p_ref,t)), over rows.

    The weight enters inside the sequence log-ratio: the row's saturation (how far it is already forgotten) is then judged by the
    tokens that matter, not by all of them.
    """
    import torch
    from torch.nn.functional import logsigmoid

    ratio_B = torch.zeros(rows, dtype=logp_N.dtype, device=logp_N.device)
    ratio_B = ratio_B.index_add(0, row_N, weight_N * (logp_N - ref_logp_N))
    return (-(2 / beta) * logsigmoid(-beta * ratio_B)).sum()


METHODS = {
    "graddiff": Method(graddiff, "token", "arXiv 2401.06121"),
    "npo": Method(npo, "row", "arXiv 2404.05868"),
}


def find_method(name: str) -> Method:
    if name not in METHODS:
        raise ConfigError(f"--method {name}: unknown{nearest(name, METHODS)}")
    return METHODS[name]
