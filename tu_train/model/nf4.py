"""Linear layers whose weights lie in four bits, NF4 of QLoRA (arXiv 2305.14314, appendix E), and do not train.

Sixteen levels that a normal distribution fills equally, times a float32 scale a block of 64 numbers: 0.5625 bytes a
weight. A layer's weight is whole, in bfloat16, only while its product runs, forward or backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from shared.errors import ConfigError

LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
BLOCK = 64


class Nf4Linear(nn.Module):
    """The layer `linear` in four bits."""

    codes: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight = linear.weight.detach()
        self.in_features, self.out_features, self.dtype = linear.in_features, linear.out_features, weight.dtype
        codes, scale = quantised(weight)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    @property
    def weight(self) -> Tensor:
        """[out, in], made anew."""
        return whole(self.codes, self.scale, self.out_features, self.in_features, self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        y: Any = _Product.apply(x, self.codes, self.scale, self.out_features, self.dtype)
        return y if self.bias is None else y + self.bias


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scale: Tensor, rows: int, dtype: torch.dtype) -> Tensor:  # type: ignore[override]
        ctx.rows, ctx.dtype, ctx.held, ctx.of = rows, dtype, (codes, scale), x.dtype
        return x.to(dtype) @ whole(codes, scale, rows, x.shape[-1], dtype).T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        codes, scale = ctx.held
        columns = codes.numel() * 2 // ctx.rows
        return (gradient.to(ctx.dtype) @ whole(codes, scale, ctx.rows, columns, ctx.dtype)).to(ctx.of), None, None, None, None


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """-> codes [numbers / 2] uint8, the first of a pair in the upper half, and scales [numbers / 64] float32."""
    count = weight.numel()
    if weight.is_meta:
        return torch.empty(count // 2, dtype=torch.uint8, device="meta"), torch.empty(count // BLOCK, device="meta")
    x_BK = weight.float().reshape(-1, BLOCK)
    scale_B = x_BK.abs().amax(1)
    levels = torch.tensor(LEVELS, device=weight.device)
    code = torch.bucketize(x_BK / scale_B.clamp_min(torch.finfo(torch.float32).tiny)[:, None], (levels[1:] + levels[:-1]) / 2)
    pairs = code.to(torch.uint8).view(-1, 2)
    return pairs[:, 0] << 4 | pairs[:, 1], scale_B


def whole(codes: Tensor, scale_B: Tensor, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """[rows, columns]"""
    levels = torch.tensor(LEVELS, device=codes.device)
    pairs = torch.stack((levels.repeat_interleave(16), levels.repeat(16)), 1)
    return (pairs[codes.int()].view(-1, BLOCK) * scale_B[:, None]).to(dtype).view(rows, columns)


def in_four_bits(model: Any) -> None:
    """Every linear layer but the head and adapters, in place. Raises ConfigError for a layer that does not divide into
    blocks, or a model with none."""
    head, found = model.get_output_embeddings(), 0
    for name, module in [*model.named_modules()]:
        for part, layer in [*module.named_children()]:
            if not isinstance(layer, nn.Linear) or layer is head or layer.weight.requires_grad:
                continue
            if "lora_" in name or hasattr(layer, "base_layer"):
                continue
            if layer.weight.numel() % BLOCK:
                raise ConfigError(f"--set weights=nf4: layer {name}.{part} has {layer.weight.numel()} weights, which do not divide into "
                                  f"blocks of {BLOCK}; use --set weights=bfloat16")  # fmt: skip
            setattr(module, part, Nf4Linear(layer))
            found += 1
    if not found:
        raise ConfigError("--set weights=nf4: the model has no linear layers of torch to keep in four bits; use --set weights=bfloat16")


def in_full(model: Any) -> None:
    """The counterpart of `in_four_bits`, as the layers computed; those with an adapter in float32, whatever they lay
    in, so that merging it rounds no update away."""
    for module in [*model.modules()]:
        adapted = hasattr(module, "base_layer")
        for part, layer in [*module.named_children()]:
            if isinstance(layer, Nf4Linear):
                layer = _linear(layer)
                setattr(module, part, layer)
            if adapted and part == "base_layer":
                layer.float()


def _linear(layer: Nf4Linear) -> nn.Linear:
    made = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    made.weight = nn.Parameter(layer.weight, requires_grad=False)
    made.bias = layer.bias
    return made
