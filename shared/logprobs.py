"""Hidden states + head -> log-probability and entropy at chosen positions. The one numerical core of scoring, training and evaluation.

Rows go through the head in chunks whose logits fill at most `chunk_mib` MiB of float32, so memory does not grow with the number of
rows, and the full logit matrix never exists. The backward pass computes each chunk's logits again instead of keeping them:
one more head product, for a memory bound. Sums and exponentials are float32 (float64 for float64 models) whatever the dtype of the model.

Shapes: N wanted positions, D width of the model, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from shared.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK_MIB = 64


@dataclass(frozen=True)
class Head:
    """The last step of a causal LM: logits = softcap(scale · (hidden @ weight.T + bias))."""

    weight: torch.Tensor
    """[V, D]"""
    bias: torch.Tensor | None = None
    """[V]"""
    scale: float = 1.0
    softcap: float | None = None
    """c of c·tanh(x / c), as in Gemma 2"""

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """[N, V], float32 or better; the product itself runs in the dtype of the weights, or of autocast where it is on."""
        z = torch.nn.functional.linear(hidden_ND.to(self.weight.dtype), self.weight, self.bias)
        z = z.to(accumulation_dtype(self.weight.dtype))
        if self.scale != 1.0:
            z = z * self.scale
        return z if self.softcap is None else torch.tanh(z / self.softcap) * self.softcap


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def head_of(model: PreTrainedModel) -> Head:
    """The head of any causal LM, from its output embedding and the scaling entries of its configuration."""
    layer: Any = model.get_output_embeddings()
    if layer is None:
        raise ModelError(f"{type(model).__name__} has no output embedding; it is not a causal language model")
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
    return Head(layer.weight, getattr(layer, "bias", None), float(scale), getattr(config, "final_logit_softcapping", None))


def rows_per_chunk(vocabulary: int, chunk_mib: int) -> int:
    """Rows whose float32 logits, their exponentials and one copy stay within the bound (at least one row)."""
    return max(1, (chunk_mib << 20) // (3 * 4 * vocabulary))


def score_positions(
    hidden_ND: torch.Tensor, target_N: torch.Tensor, head: Head, *, chunk_mib: int = CHUNK_MIB
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of `target_N` and entropy of the whole distribution, both [N], nats. Not differentiable."""
    logp, entropy = [], []
    rows = rows_per_chunk(head.weight.shape[0], chunk_mib)
    with torch.no_grad():
        for hidden, target in zip(hidden_ND.split(rows), target_N.split(rows), strict=True):
            z = head.logits(hidden)
            log_norm = z.logsumexp(-1, keepdim=True)
            logp.append(z.gather(1, target[:, None])[:, 0] - log_norm[:, 0])
            z -= log_norm
            # 0 · log 0 is 0: a forbidden token (logit −inf) adds nothing to the entropy
            entropy.append(-(z.exp() * z.clamp_min(torch.finfo(z.dtype).min)).sum(-1))
    empty = hidden_ND.new_zeros(0, dtype=accumulation_dtype(head.weight.dtype))
    return (torch.cat(logp), torch.cat(entropy)) if logp else (empty, empty)


def target_logprobs(hidden_ND: torch.Tensor, target_N: torch.Tensor, head: Head, *, chunk_mib: int = CHUNK_MIB) -> torch.Tensor:
    """Log-probability of `target_N`, [N], nats; differentiable in the hidden states, the head's weight and bias."""
    return _TargetLogprobs.apply(hidden_ND, head.weight, head.bias, target_N, head, rows_per_chunk(head.weight.shape[0], chunk_mib))


class _TargetLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND, weight, bias, target_N, head, rows):
        ctx.save_for_backward(hidden_ND, weight, bias, target_N)
        ctx.rows, ctx.scale, ctx.softcap = rows, head.scale, head.softcap
        out = hidden_ND.new_empty(len(target_N), dtype=accumulation_dtype(weight.dtype))
        plain = Head(weight, bias, head.scale, head.softcap)
        for at in range(0, len(target_N), rows):
            z = plain.logits(hidden_ND[at : at + rows])
            out[at : at + rows] = z.gather(1, target_N[at : at + rows, None])[:, 0] - z.logsumexp(-1)
        return out

    @staticmethod
    def backward(ctx, grad_N):
        """d logp / d logits = onehot − softmax; the soft cap multiplies by 1 − (logit / cap)²."""
        hidden_ND, weight, bias, target_N = ctx.saved_tensors
        head = Head(weight, bias, ctx.scale, ctx.softcap)
        d_hidden = torch.empty_like(hidden_ND)
        d_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        d_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        for at in range(0, len(target_N), ctx.rows):
            part = slice(at, at + ctx.rows)
            z = head.logits(hidden_ND[part])
            slope = None if ctx.softcap is None else 1 - (z / ctx.softcap).square()
            d_z = z.softmax(-1).neg_()
            d_z[torch.arange(len(d_z), device=d_z.device), target_N[part]] += 1
            d_z *= grad_N[part, None] * ctx.scale
            if slope is not None:
                d_z *= slope
            d_z = d_z.to(weight.dtype)
            d_hidden[part] = (d_z @ weight).to(d_hidden.dtype)
            if d_weight is not None:
                d_weight.addmm_(d_z.T, hidden_ND[part].to(weight.dtype))
            if d_bias is not None:
                d_bias += d_z.sum(0)
        return d_hidden, d_weight, d_bias, None, None, None
