"""Hidden states + head -> log-probability and entropy at chosen positions. The one numerical core of scoring, training
and evaluation.

Positions go through the head in chunks, and each chunk through blocks of the vocabulary: only one block of logits (rows
of a chunk × width of a block) exists at a time, and with its exponentials and the mask of ties it fills at most
`chunk_mib` MiB, whatever the number of positions and the size of the vocabulary. On a CPU a block is smaller still and
stays in the cache: fresh memory costs more than the product that fills it. Each block yields the logarithm of its sum
and its own entropy, and the chain rule joins them:

    log Σ = logsumexp over blocks of log Σ_b        w_b = exp(log Σ_b − log Σ)        H = Σ_b w_b · (H_b − log w_b)

The backward pass computes each block's logits again instead of keeping them: one more head product, for a memory bound.
Sums and exponentials are float32 (float64 for float64 models) whatever the dtype of the model.

Outside the bound: results and the blocks' sums (a few numbers a row), gradients, what a matrix product or torch.topk
takes for itself.

Shapes: N wanted positions, D width of the model, V vocabulary, or the width of a block of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from shared.errors import ConfigError, ModelError
from shared.lm.products import linear, multiply

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK_MIB = 64
CACHE_MIB = 2
"""of a CPU's cache for each thread, about"""
ROWS, MIN_WIDTH = 512, 1024
"""rows of a chunk on a CPU, where a matrix product comes near the machine's rate (elsewhere eight times that), and the
narrowest block worth a call; see benchmarks/where_time_goes.py"""
SCALES = ("logit_scale", "lm_head_multiplier")
"""entries of a configuration that multiply the logits (Cohere, Falcon-H1); `logits_scaling` divides them (Granite)"""
SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap")
"""entries that name the soft cap of the logits (Gemma 2, RecurrentGemma)"""
FORBIDDEN = -1e30
"""stands for a logit of −inf, which would turn sums into NaN"""
ALL = slice(None)


@dataclass(frozen=True)
class HeadOptions:
    """What to compute at a position besides log-probability and entropy, and in how much memory. Raises ConfigError."""

    chunk_mib: int = CHUNK_MIB
    """MiB that all temporaries of the head may fill together"""
    temperature: float | None = None
    """also the entropy of softmax(logits / temperature)"""
    top_k: int = 0
    """also the ids and log-probabilities of the k likeliest tokens"""
    second: bool = False
    """also Σ p · (log p)², the second moment of the distribution's own log-probabilities"""

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
    """All in nats, float32 or better, on the device of the hidden states; the last four only when they were asked
    for."""

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
    second: torch.Tensor | None
    """[N], Σ p · (log p)²; less the entropy's square it is the variance of log p"""


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

    def product(self, hidden_ND: torch.Tensor, block: slice = ALL, dtype: torch.dtype | None = None) -> torch.Tensor:
        """[N, V of the block] in `dtype`; unless given, in that of the weights."""
        dtype = dtype or self.weight.dtype
        bias = None if self.bias is None else self.bias[block].to(dtype)
        return linear(hidden_ND.to(dtype), self.weight[block].to(dtype), bias)

    def finished(self, z_NV: torch.Tensor) -> torch.Tensor:
        """Logits from the product, float32 or better; the product may be overwritten."""
        z_NV = z_NV.to(accumulation_dtype(self.weight.dtype))
        if self.bias is not None:
            z_NV.clamp_min_(FORBIDDEN)  # a bias may forbid a token
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
    scale = next((float(value) for name in SCALES if (value := getattr(config, name, None))), None)
    scale = scale or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
    softcap = next((value for name in SOFT_CAPS if (value := getattr(config, name, None))), None)
    return Head(layer.weight, getattr(layer, "bias", None), float(scale), softcap)


@dataclass(frozen=True)
class Sizes:
    """How many positions go through the head at once, and how many tokens of the vocabulary (each at least one)."""

    rows: int
    width: int

    def blocks(self, vocabulary: int) -> list[slice]:
        return [slice(at, min(at + self.width, vocabulary)) for at in range(0, vocabulary, self.width)]


def sizes(like: torch.Tensor, count: int, vocabulary: int, chunk_mib: int) -> Sizes:
    """For `count` positions and a head of the dtype and device of `like`: blocks that stay within the bound, on a CPU
    within its cache.

    An entry costs the product where that is in low precision (autocast: two bytes, whatever the weights), a logit, an
    exponential (or the slope of the soft cap), and a byte (mask of ties).
    """
    wide = accumulation_dtype(like.dtype).itemsize
    entries = (chunk_mib << 20) // (2 * wide + 3)
    rows = 8 * ROWS
    if like.device.type == "cpu":
        entries, rows = min(entries, (CACHE_MIB * torch.get_num_threads() << 20) // wide), ROWS
    rows = max(1, min(rows, count, entries // MIN_WIDTH))
    return Sizes(rows, max(1, min(vocabulary, entries // rows)))


def product_dtype(weight: torch.Tensor) -> torch.dtype:
    """That of autocast where it is on: the backward pass, where it is not, has to use the same."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def score_positions(hidden_ND: torch.Tensor, target_N: torch.Tensor, head: Head, options: HeadOptions | None = None) -> PositionScores:
    """What `options` ask for at each position, the distribution being that of its hidden state. Not differentiable."""
    options = options or HeadOptions()
    vocabulary = head.weight.shape[0]
    options.check(vocabulary)
    size, dtype = sizes(head.weight, len(target_N), vocabulary, options.chunk_mib), product_dtype(head.weight)

    def scored(hidden: torch.Tensor, target: torch.Tensor) -> PositionScores:
        blocks = size.blocks(vocabulary)
        return combined([sums_of(head.finished(head.product(hidden, b, dtype)), target, options, b.start) for b in blocks], options)

    with torch.no_grad():
        chunks = zip(hidden_ND.split(size.rows), target_N.split(size.rows), strict=True)  # of no rows: one empty chunk
        return joined([scored(hidden, target) for hidden, target in chunks])


def joined(parts: Sequence[PositionScores]) -> PositionScores:
    """One after the other."""
    return PositionScores._make(None if values[0] is None else torch.cat(values) for values in zip(*parts, strict=True))


class Sums(NamedTuple):
    """What one block of the vocabulary says of N positions; the last four only when they were asked for."""

    target_N: torch.Tensor
    """logit of the target; −inf where it is in another block"""
    plain: Moments
    tempered: Moments | None
    top_ids_NK: torch.Tensor | None
    """ids in the whole vocabulary"""
    top_logits_NK: torch.Tensor | None


class Moments(NamedTuple):
    """Of softmax(logits / temperature) within a block, [N] each."""

    log_sum: torch.Tensor
    entropy: torch.Tensor
    second: torch.Tensor | None = None


def scores_of(z_NV: torch.Tensor, target_N: torch.Tensor, options: HeadOptions) -> PositionScores:
    """From logits of the whole vocabulary, which are overwritten; besides them one buffer of their size, and a mask of
    it where ids tie."""
    return combined([sums_of(z_NV.clamp_min_(FORBIDDEN), target_N, options)], options)


def sums_of(z_NV: torch.Tensor, target_N: torch.Tensor, options: HeadOptions, first: int = 0) -> Sums:
    """From the logits of a block that begins at token `first`, which are overwritten."""
    at = (target_N - first).clamp(0, z_NV.shape[1] - 1)
    target = z_NV.gather(1, at[:, None])[:, 0].masked_fill(at != target_N - first, -torch.inf)
    highest = z_NV.amax(-1)
    z_NV -= highest[:, None]
    buffer = z_NV.exp()
    plain = _moments(buffer, z_NV, highest, 1.0, options.second)
    tempered = top_ids = top = None
    if options.temperature is not None:
        torch.div(z_NV, options.temperature, out=buffer).exp_()
        tempered = _moments(buffer, z_NV, highest, options.temperature)
    if options.top_k:
        top_ids = _top_ids(z_NV, min(options.top_k, z_NV.shape[1]), buffer)
        top = z_NV.gather(1, top_ids) + highest[:, None]
        top_ids = top_ids + first
    return Sums(target, plain, tempered, top_ids, top)


def _moments(exp_NV: torch.Tensor, z_NV: torch.Tensor, highest_N: torch.Tensor, temperature: float, second: bool = False) -> Moments:
    """From exponentials of z / temperature, which are overwritten; z is relative to `highest_N`.

    With l = z / T − log Σ: H = −Σ p · l, second moment Σ p · l².
    """
    total = exp_NV.sum(-1)
    log_total = total.log()
    mean = exp_NV.mul_(z_NV).sum(-1) / (total * temperature)
    square = None
    if second:
        square = exp_NV.mul_(z_NV).sum(-1) / total - 2 * log_total * mean + log_total.square()
    return Moments(highest_N / temperature + log_total, log_total - mean, square)


def combined(blocks: Sequence[Sums], options: HeadOptions) -> PositionScores:
    """All blocks of the vocabulary together."""
    log_norm, entropy, second = _joined_moments([b.plain for b in blocks])
    tempered = None if options.temperature is None else _joined_moments([b.tempered for b in blocks if b.tempered is not None])[1]
    top_ids = top = None
    if options.top_k:
        # Within a block equal logits come by id, and blocks come by id: a stable sort leaves them so.
        logits, ids = (torch.cat([getattr(b, name) for b in blocks], 1) for name in ("top_logits_NK", "top_ids_NK"))
        logits, order = logits.sort(dim=-1, descending=True, stable=True)
        top_ids = ids.gather(1, order[:, : options.top_k])
        top = _log_probability(logits[:, : options.top_k], log_norm[:, None])
    logp = _log_probability(torch.stack([b.target_N for b in blocks]).amax(0), log_norm)
    return PositionScores(logp, entropy, tempered, top_ids, top, second)


def _joined_moments(blocks: Sequence[Moments]) -> Moments:
    """The chain rule; see the top of the file. A block of forbidden tokens alone has w = 0."""
    log_sum = torch.stack([b.log_sum for b in blocks])
    log_norm = log_sum.logsumexp(0)
    log_w = log_sum - log_norm
    w, own = log_w.exp(), torch.stack([b.entropy for b in blocks])
    entropy = (w * (own - log_w)).sum(0)
    if blocks[0].second is None:
        return Moments(log_norm, entropy)
    second = torch.stack([b.second for b in blocks if b.second is not None])
    return Moments(log_norm, entropy, (w * (second - 2 * log_w * own + log_w.square())).sum(0))


def _log_probability(z: torch.Tensor, log_norm: torch.Tensor) -> torch.Tensor:
    return z.masked_fill(z <= FORBIDDEN / 2, -torch.inf) - log_norm


def _top_ids(z_NV: torch.Tensor, k: int, buffer: torch.Tensor) -> torch.Tensor:
    """[N, k] ids of the k largest, descending, equal ones by id. `buffer` [N, V] is overwritten.

    torch.topk breaks ties as it likes. Which ids it takes matters only where the k-th value occurs again beyond the
    first k; there (common in bfloat16) a second pass finds the lowest ids that have this value.
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
    size = sizes(head.weight, len(target_N), head.weight.shape[0], chunk_mib)
    return _TargetLogprobs.apply(hidden_ND, head.weight, head.bias, target_N, head, size)


class _TargetLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND, weight, bias, target_N, head, size):
        plain, dtype = Head(weight, bias, head.scale, head.softcap), product_dtype(weight)
        chunks = zip(hidden_ND.split(size.rows), target_N.split(size.rows), strict=True)
        logp, log_norm = (torch.cat(x) for x in zip(*(_logprobs_of_chunk(h, t, plain, size, dtype) for h, t in chunks), strict=True))
        ctx.save_for_backward(hidden_ND, weight, bias, target_N, log_norm)
        ctx.size, ctx.scale, ctx.softcap, ctx.dtype = size, head.scale, head.softcap, dtype
        return logp

    @staticmethod
    def backward(ctx, grad_N):
        hidden_ND, weight, bias, target_N, log_norm_N = ctx.saved_tensors
        head = Head(weight, bias, ctx.scale, ctx.softcap)
        wide = accumulation_dtype(weight.dtype)  # in bfloat16, sums over blocks would lose what is small beside the sum so far
        d_hidden = torch.zeros_like(hidden_ND, dtype=wide)
        d_weight = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[1] else None
        d_bias = torch.zeros_like(bias, dtype=wide) if bias is not None and ctx.needs_input_grad[2] else None
        for at in range(0, len(target_N), ctx.size.rows):
            part = slice(at, at + ctx.size.rows)
            hidden = hidden_ND[part].to(ctx.dtype)
            for block in ctx.size.blocks(weight.shape[0]):
                z = _d_product(head, hidden, target_N[part], grad_N[part], log_norm_N[part], block, ctx.dtype)
                if d_bias is not None:
                    d_bias[block] += z.sum(0)
                d_z = z.to(ctx.dtype)
                _add_product(d_hidden[part], d_z, weight[block].to(ctx.dtype))
                if d_weight is not None:
                    _add_product(d_weight[block], d_z.T, hidden)
        return _as(hidden_ND, d_hidden), _as(weight, d_weight), _as(bias, d_bias), None, None, None


def _logprobs_of_chunk(hidden_ND, target_N, head: Head, size: Sizes, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of the targets and logarithm of the sum, [N] each."""
    targets, log_sums = [], []
    for block in size.blocks(head.weight.shape[0]):
        z = head.finished(head.product(hidden_ND, block, dtype))
        at = (target_N - block.start).clamp(0, z.shape[1] - 1)
        targets.append(z.gather(1, at[:, None])[:, 0].masked_fill(at != target_N - block.start, -torch.inf))
        highest = z.amax(-1)
        z -= highest[:, None]
        log_sums.append(highest + z.exp_().sum(-1).log())
    log_norm = torch.stack(log_sums).logsumexp(0)
    return _log_probability(torch.stack(targets).amax(0), log_norm), log_norm


def _d_product(head: Head, hidden_ND, target_N, grad_N, log_norm_N, block: slice, dtype: torch.dtype) -> torch.Tensor:
    """[N, V of the block] gradient at the product of head and hidden states, float32 or better.

    d logp / d logits = onehot − softmax; the soft cap multiplies by 1 − (logit / cap)².
    """
    z = head.finished(head.product(hidden_ND, block, dtype))
    slope = None if head.softcap is None else z.div(head.softcap).square_().neg_().add_(1)
    z -= log_norm_N[:, None]
    z.exp_()
    z *= -(grad_N * head.scale)[:, None]
    # Every row adds something, outside the block nothing: to choose rows, the host would wait for the device.
    at = (target_N - block.start).clamp(0, z.shape[1] - 1)
    here = at == target_N - block.start
    z.scatter_add_(1, at[:, None], (grad_N * head.scale).to(z.dtype).where(here, 0)[:, None])
    return z if slope is None else z.mul_(slope)


def _add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """total += a @ b, where the product may be of lower precision."""
    total += multiply(a, b)


def _as(like: torch.Tensor | None, gradient: torch.Tensor | None) -> torch.Tensor | None:
    return None if like is None or gradient is None else gradient.to(like.dtype)
