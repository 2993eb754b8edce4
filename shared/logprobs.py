"""Hidden states + head -> log-probability and entropy at chosen positions. The one numerical core of scoring, training and evaluation.

Rows go through the head in chunks: everything of the size rows × vocabulary that exists at one time (the product in the model's dtype,
float32 logits, their exponentials, the mask of ties) fills at most `chunk_mib` MiB, so memory does not grow with the number of rows and
the full logit matrix never exists. The backward pass computes each chunk's logits again instead of keeping them: one more head product,
for a memory bound. Sums and exponentials are float32 (float64 for float64 models) whatever the dtype of the model; on a CPU they run
over blocks of a chunk that stay in its cache, which leaves them nearly free beside the product.

Outside the bound: results (a few numbers a row), gradients, what a matrix product or torch.topk takes for itself (topk on a CPU: 16 bytes a
vocabulary entry and thread), and one row where the bound is smaller than a row.

Shapes: N wanted positions, D width of the model, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from shared.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK_MIB = 64
CACHE_MIB = 2
"""of a CPU's cache for each thread, about"""


@dataclass(frozen=True)
class HeadOptions:
    """What to compute at a position besides log-probability and entropy, and in how much memory. Raises ConfigError."""

    chunk_mib: int = CHUNK_MIB
    """MiB that all temporaries of the head may fill together"""
    temperature: float | None = None
    """also the entropy of softmax(logits / temperature)"""
    top_k: int = 0
    """also the ids and log-probabilities of the k likeliest tokens"""

    def __post_init__(self) -> None:
        if self.chunk_mib < 1:
            raise ConfigError(f"head_mib is {self.chunk_mib}, expected at least 1 (MiB)")
        if self.temperature is not None and not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ConfigError(f"entropy_temperature is {self.temperature}, expected more than 0")
        if self.top_k < 0:
            raise ConfigError(f"topk is {self.top_k}, expected 0 or more")

    @property
    def plain(self) -> HeadOptions:
        """The same bound, nothing besides log-probability and entropy."""
        return HeadOptions(self.chunk_mib)

    def check(self, vocabulary: int) -> None:
        """Raises ConfigError where the vocabulary has fewer tokens than top_k asks for."""
        if self.top_k > vocabulary:
            raise ConfigError(f"topk is {self.top_k}, but the model's vocabulary has {vocabulary} tokens")


class PositionScores(NamedTuple):
    """All in nats, float32 or better, on the device of the hidden states; the last three only when they were asked for."""

    logprob: torch.Tensor
    """[N], of the target"""
    entropy: torch.Tensor
    """[N], of the whole distribution"""
    tempered: torch.Tensor | None
    """[N], entropy of softmax(logits / temperature)"""
    top_ids: torch.Tensor | None
    """[N, k] int64, likeliest first, equal ones by id"""
    top_logprobs: torch.Tensor | None
    """[N, k], normalised over the full vocabulary"""


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

    @torch.no_grad()
    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """[N, V], float32 or better. Not differentiable."""
        return self.finished(self.product(hidden_ND))

    def product(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """[N, V] in the dtype of the weights, or of autocast where it is on."""
        return torch.nn.functional.linear(hidden_ND.to(self.weight.dtype), self.weight, self.bias)

    def finished(self, z_NV: torch.Tensor) -> torch.Tensor:
        """Logits from the product, float32 or better; the product may be overwritten."""
        z_NV = z_NV.to(accumulation_dtype(self.weight.dtype))
        if self.scale != 1.0:
            z_NV.mul_(self.scale)
        return z_NV if self.softcap is None else z_NV.div_(self.softcap).tanh_().mul_(self.softcap)


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


@dataclass(frozen=True)
class Sizes:
    """How many rows go through the head at once, and how many of those through sums and exponentials (each at least one)."""

    chunk: int
    block: int


def sizes(like: torch.Tensor, vocabulary: int, chunk_mib: int, *, top_k: int = 0) -> Sizes:
    """Rows whose temporaries stay within the bound, for hidden states of the dtype and device of `like`.

    A vocabulary entry costs the product, in a block also a float32 copy, an exponential (or slope of the soft cap) and a byte (mask of
    ties). On a CPU three such blocks take at most 3/8 of the bound; elsewhere small blocks would only be slow, so a block is a chunk,
    whose product may be in low precision (two bytes) even where the weights are not: autocast.
    """
    bound, wide = chunk_mib << 20, accumulation_dtype(like.dtype).itemsize
    if like.device.type != "cpu":
        rows = max(1, bound // (vocabulary * (2 + 2 * wide + 1) + 80 * top_k))
        return Sizes(rows, rows)
    block = min(CACHE_MIB * torch.get_num_threads() << 20, bound // 8)
    return Sizes(max(1, (bound - 3 * block) // (vocabulary * like.dtype.itemsize + 80 * top_k)), max(1, block // (wide * vocabulary)))


def score_positions(hidden_ND: torch.Tensor, target_N: torch.Tensor, head: Head, options: HeadOptions | None = None) -> PositionScores:
    """What `options` ask for at each position, the distribution being that of its hidden state. Not differentiable."""
    options = options or HeadOptions()
    options.check(head.weight.shape[0])
    size = sizes(head.weight, head.weight.shape[0], options.chunk_mib, top_k=options.top_k)
    with torch.no_grad():
        chunks = zip(hidden_ND.split(size.chunk), target_N.split(size.chunk), strict=True)  # of no rows: one empty chunk
        return joined([_score_chunk(hidden, target, head, options, size.block) for hidden, target in chunks])


def _score_chunk(hidden_ND: torch.Tensor, target_N: torch.Tensor, head: Head, options: HeadOptions, block: int) -> PositionScores:
    """A function of its own, so that nothing holds a chunk's product when the next one is made."""
    blocks = zip(head.product(hidden_ND).split(block), target_N.split(block), strict=True)
    return joined([scores_of(head.finished(z), target, options) for z, target in blocks])


def joined(parts: Sequence[PositionScores]) -> PositionScores:
    """One after the other."""
    return PositionScores._make(None if values[0] is None else torch.cat(values) for values in zip(*parts, strict=True))


def scores_of(z_NV: torch.Tensor, target_N: torch.Tensor, options: HeadOptions) -> PositionScores:
    """From the logits of one block, which are overwritten; besides them one buffer of their size, and a mask of it where ids tie."""
    lowest = torch.finfo(z_NV.dtype).min
    z_NV -= z_NV.amax(-1, keepdim=True)
    logp = z_NV.gather(1, target_N[:, None])[:, 0]
    z_NV.clamp_min_(lowest)  # 0 · log 0 is 0: a forbidden token (logit −inf) adds nothing to an entropy
    buffer = z_NV.exp()
    log_norm, entropy = _entropy(buffer, z_NV, 1.0)
    tempered = top_ids = top = None
    if options.temperature is not None:
        torch.div(z_NV, options.temperature, out=buffer).exp_()
        tempered = _entropy(buffer, z_NV, options.temperature)[1]
    if options.top_k:
        top_ids = _top_ids(z_NV, options.top_k, buffer)
        top = z_NV.gather(1, top_ids)
        top = top.masked_fill(top == lowest, -torch.inf) - log_norm[:, None]
    return PositionScores(logp - log_norm, entropy, tempered, top_ids, top)


def _entropy(exp_NV: torch.Tensor, z_NV: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logarithm of the sum and entropy, both [N], of exponentials of z / temperature, which are overwritten.

    H = log Σ exp(z / T) − Σ exp(z / T) · z / T / Σ exp(z / T)
    """
    total = exp_NV.sum(-1)
    log_norm = total.log()
    return log_norm, log_norm - exp_NV.mul_(z_NV).sum(-1) / (total * temperature)


def _top_ids(z_NV: torch.Tensor, k: int, buffer: torch.Tensor) -> torch.Tensor:
    """[N, k] ids of the k largest, descending, equal ones by id. `buffer` [N, V] is overwritten.

    torch.topk breaks ties as it likes. Which ids it takes matters only where the k-th value occurs again beyond the first k;
    there (common in bfloat16) a second pass finds the lowest ids that have this value.
    """
    width = z_NV.shape[1]
    values, ids = z_NV.topk(min(k + 1, width))
    last = values[:, k - 1 : k]
    if k < width and bool((values[:, k:] == last).any()):
        numbers = -torch.arange(width, device=z_NV.device, dtype=z_NV.dtype)
        torch.where(z_NV == last, numbers, numbers.new_tensor(-torch.inf), out=buffer)
        lowest = buffer.topk(k).indices
        above = (values[:, :k] > last).sum(-1, keepdim=True)
        place = torch.arange(k, device=z_NV.device)[None]
        ids = torch.where(place < above, ids[:, :k], lowest.gather(1, (place - above).clamp_min(0)))
    ids = ids[:, :k].sort(-1).values
    return ids.gather(1, z_NV.gather(1, ids).sort(stable=True, descending=True).indices)


def target_logprobs(hidden_ND: torch.Tensor, target_N: torch.Tensor, head: Head, *, chunk_mib: int = CHUNK_MIB) -> torch.Tensor:
    """Log-probability of `target_N`, [N], nats; differentiable in the hidden states, the head's weight and bias."""
    size = sizes(head.weight, head.weight.shape[0], chunk_mib)
    return _TargetLogprobs.apply(hidden_ND, head.weight, head.bias, target_N, head, size)


class _TargetLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND, weight, bias, target_N, head, size):
        ctx.save_for_backward(hidden_ND, weight, bias, target_N)
        ctx.size, ctx.scale, ctx.softcap = size, head.scale, head.softcap
        plain = Head(weight, bias, head.scale, head.softcap)
        chunks = zip(hidden_ND.split(size.chunk), target_N.split(size.chunk), strict=True)
        return torch.cat([_logprobs_of_chunk(hidden, target, plain, size.block) for hidden, target in chunks])

    @staticmethod
    def backward(ctx, grad_N):
        hidden_ND, weight, bias, target_N = ctx.saved_tensors
        head = Head(weight, bias, ctx.scale, ctx.softcap)
        d_hidden = torch.empty_like(hidden_ND)
        wide = accumulation_dtype(weight.dtype)  # sums over chunks: in bfloat16 they would lose what is small beside the sum so far
        d_weight = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[1] else None
        d_bias = torch.zeros_like(bias, dtype=wide) if bias is not None and ctx.needs_input_grad[2] else None
        for at in range(0, len(target_N), ctx.size.chunk):
            part = slice(at, at + ctx.size.chunk)
            d_z = _d_product(head, hidden_ND[part], target_N[part], grad_N[part], ctx.size.block, d_bias)
            d_hidden[part] = (d_z @ weight).to(d_hidden.dtype)
            if d_weight is not None and weight.dtype == wide:
                d_weight.addmm_(d_z.T, hidden_ND[part].to(wide))
            elif d_weight is not None:
                d_weight += d_z.T @ hidden_ND[part].to(weight.dtype)
            del d_z  # before the next one is made
        return d_hidden, _as(weight, d_weight), _as(bias, d_bias), None, None, None


def _logprobs_of_chunk(hidden_ND: torch.Tensor, target_N: torch.Tensor, head: Head, block: int) -> torch.Tensor:
    """[N]. A function of its own for the same reason as `_score_chunk`."""
    out = []
    for product, target in zip(head.product(hidden_ND).split(block), target_N.split(block), strict=True):
        z = head.finished(product)
        z -= z.amax(-1, keepdim=True)
        out.append(z.gather(1, target[:, None])[:, 0] - z.exp_().sum(-1).log())
    return torch.cat(out)


def _d_product(head: Head, hidden_ND, target_N, grad_N, block: int, d_bias_V: torch.Tensor | None) -> torch.Tensor:
    """[N, V] gradient at the product of head and hidden states, in the dtype of the weights, written over the product.

    d logp / d logits = onehot − softmax; the soft cap multiplies by 1 − (logit / cap)².
    """
    d_product = head.product(hidden_ND).to(head.weight.dtype)
    grad_N = grad_N * head.scale
    for d_part, wanted, grad in zip(d_product.split(block), target_N.split(block), grad_N.split(block), strict=True):
        z = head.finished(d_part)
        slope = None if head.softcap is None else z.div(head.softcap).square_().neg_().add_(1)
        z -= z.amax(-1, keepdim=True)
        z.exp_()
        z *= -(grad / z.sum(-1))[:, None]
        z[torch.arange(len(z), device=z.device), wanted] += grad
        if slope is not None:
            z *= slope
        if d_bias_V is not None:
            d_bias_V += z.sum(0)
        d_part.copy_(z)  # itself where the weights are float32
    return d_product


def _as(like: torch.Tensor | None, gradient: torch.Tensor | None) -> torch.Tensor | None:
    return None if like is None or gradient is None else gradient.to(like.dtype)
