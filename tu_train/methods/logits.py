"""Losses that need the whole distribution: a function of the logits of each position, without the full [N, V] matrix.

Positions go through the head in chunks; the backward pass computes each chunk again (torch.utils.checkpoint), so memory
is that of one chunk, for one more head product. N positions, C of a chunk, V vocabulary, D width of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from shared.lm.logprobs import CHUNK_MIB, accumulation_dtype

if TYPE_CHECKING:
    from shared.lm.logprobs import Head

COPIES = 6
"""matrices of the size of a chunk's logits that a loss and its backward hold at one time, about"""
FORBIDDEN = -1e30
"""stands for a logit of −inf: a probability of 0 times it must be 0"""


def per_position(hidden_ND: Tensor, head: Head, fn: Callable[..., Tensor], *rows: Tensor, chunk_mib: int = CHUNK_MIB) -> Tensor:
    """[N] of `fn(logits_CV, *rows of the chunk) -> [C]`; differentiable in the hidden states and the head. `rows` have
    N entries each."""
    width = head.weight.shape[0] * accumulation_dtype(head.weight.dtype).itemsize * COPIES
    size = max(1, (chunk_mib << 20) // width)

    def of_chunk(hidden_CD: Tensor, *mine: Tensor) -> Tensor:
        return fn(logits(hidden_CD, head), *mine)

    chunks = zip(*(x.split(size) for x in (hidden_ND, *rows)), strict=True)
    done = [checkpoint(of_chunk, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks if len(chunk[0])]
    return torch.cat(done) if done else hidden_ND.sum(-1).to(accumulation_dtype(head.weight.dtype))  # type: ignore[arg-type]


def logits(hidden_ND: Tensor, head: Head) -> Tensor:
    """[N, V], float32 or better; differentiable, unlike Head.logits."""
    z_NV = linear(hidden_ND.to(head.weight.dtype), head.weight, head.bias).to(accumulation_dtype(head.weight.dtype))
    return finished(z_NV if head.bias is None else z_NV.clamp_min(FORBIDDEN), head)


def gold_logits(hidden_ND: Tensor, head: Head, target_N: Tensor) -> Tensor:
    """[N] the raw logit of the gold token: one row of the head a position, no vocabulary."""
    wide = accumulation_dtype(head.weight.dtype)
    z_N = (hidden_ND.to(wide) * head.weight[target_N].to(wide)).sum(-1)
    return finished(z_N if head.bias is None else z_N + head.bias[target_N].to(wide), head)


def finished(z: Tensor, head: Head) -> Tensor:
    """Scale and soft cap."""
    z = z if head.scale == 1.0 else z * head.scale
    return z if head.softcap is None else (z / head.softcap).tanh() * head.softcap


def cross_entropy(p_CV: Tensor, z_CV: Tensor) -> Tensor:
    """[C] −Σ p · log softmax(z)."""
    return -(p_CV * z_CV.log_softmax(-1)).sum(-1)


def kl(log_p_CV: Tensor, log_q_CV: Tensor) -> Tensor:
    """[C] KL(p ‖ q) = Σ p · (log p − log q); where p is 0 nothing is added."""
    p_CV = log_p_CV.exp()
    return torch.where(p_CV > 0, p_CV * (log_p_CV - log_q_CV), 0.0).sum(-1)
