"""Matrix products in float32 by the library that is fast on this CPU.

torch gives them to MKL, which takes its AVX-512 kernels on Intel's processors only. On other processors it reaches half
of what oneDNN does (benchmarks/where_time_goes.py prints the ratio). torch has oneDNN too, but asks it for lower
precisions only.

The same sums are taken in another order, so results differ by rounding. Which library computes depends on the processor
alone, never on a timing: the same machine gives the same bytes. Everything else (devices, dtypes, autocast, a torch
without oneDNN, small matrices) is left to torch.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

SMALL = 1 << 16
"""entries of the second matrix (a layer's weight); with fewer, the call costs more than the product gains. The first
matrix does not count, so that a token's numbers come from the same library whatever its company"""


@cache
def available() -> bool:
    """Whether oneDNN computes here: a processor with AVX-512 that is not Intel's, and a torch that has it."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or vendor() in ("", "GenuineIntel"):
        return False
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def vendor() -> str:
    """Who made the processor, as Linux names it; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("vendor_id")), "")


def fits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether oneDNN multiplies these two."""
    plain = a.dtype == b.dtype == torch.float32 and a.device.type == b.device.type == "cpu" and b.ndim == 2
    return plain and b.numel() >= SMALL and a.numel() > 0 and not torch.is_autocast_enabled("cpu") and available()


def multiply(a_NK: torch.Tensor, b_KM: torch.Tensor) -> torch.Tensor:
    """a @ b, [N, M], in any memory layout. Not differentiable."""
    return onednn(a_NK, b_KM.T) if fits(a_NK, b_KM) else a_NK @ b_KM


def linear(x: torch.Tensor, weight_MK: torch.Tensor, bias_M: torch.Tensor | None = None) -> torch.Tensor:
    """x @ weight.T + bias over the last dimension of x, differentiable; what torch.nn.functional.linear computes."""
    if not fits(x, weight_MK):
        return F.linear(x, weight_MK, bias_M)
    return _Linear.apply(x, weight_MK, bias_M) if torch.is_grad_enabled() else _forward(x, weight_MK, bias_M)


class FasterProducts(TorchFunctionMode):
    """While active, every linear layer of any model computes with `linear`."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return (linear if func is F.linear else func)(*args, **(kwargs or {}))


def _forward(x: torch.Tensor, weight_MK: torch.Tensor, bias_M: torch.Tensor | None) -> torch.Tensor:
    return onednn(x.flatten(0, -2), weight_MK, bias_M).unflatten(0, x.shape[:-1])


def onednn(a_NK: torch.Tensor, b_MK: torch.Tensor, bias_M: torch.Tensor | None = None) -> torch.Tensor:
    """a @ b.T + bias, whatever the size; for float32 on a CPU, where oneDNN is `available`. Not differentiable."""
    operator: Any = torch.ops.mkldnn._linear_pointwise
    return operator(_dense(a_NK), _dense(b_MK), bias_M, "none", [], "")


def _dense(x: torch.Tensor) -> torch.Tensor:
    """Rows or columns without gaps: of anything else oneDNN makes a copy first, a thousand times slower than torch
    does."""
    return x if x.is_contiguous() or x.T.is_contiguous() else x.contiguous()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return _forward(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad_NM, needs = grad.flatten(0, -2), ctx.needs_input_grad
        d_x = multiply(grad_NM, weight).view_as(x) if needs[0] else None
        d_weight = multiply(grad_NM.T, x.flatten(0, -2)) if needs[1] else None
        return d_x, d_weight, grad_NM.sum(0) if needs[2] else None
