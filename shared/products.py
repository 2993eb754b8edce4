"""Matrix products with a weight, by the library that is fast on this processor.

PyTorch's CPU builds for x86 send float32 products to MKL, which takes its AVX-512 kernels on Intel's processors only: elsewhere
(AMD from Zen 4 on) it runs at under half the rate that oneDNN, which is in the same builds, reaches. The choice depends on the processor
alone, never on a timing, so that the same machine gives the same bytes.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from types import MethodType

import torch
import torch.nn.functional as F


@cache
def use_onednn() -> bool:
    """Whether float32 products on the CPU go to oneDNN: AVX-512, and not Intel's."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return False
    return _vendor() not in ("", "GenuineIntel") and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _vendor() -> str:
    """As the kernel or the system names it; empty where neither does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "GenuineIntel" if "GenuineIntel" in platform.processor() else ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("vendor_id")), "")


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x @ weight.T + bias, [..., D] by [V, D] -> [..., V]. What is not a plain float32 product on a CPU is left to PyTorch."""
    if (
        x.dtype != torch.float32
        or weight.dtype != torch.float32
        or x.device.type != "cpu"
        or torch.is_grad_enabled()
        or torch.is_autocast_enabled("cpu")
        or not use_onednn()
    ):
        return F.linear(x, weight, bias)
    return _product(x, weight, bias)


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def speed_up(model: torch.nn.Module) -> None:
    """Has every linear layer of the model use `linear`. Weights, names and what is saved stay as they are."""
    if use_onednn():
        for module in model.modules():
            if type(module) is torch.nn.Linear:
                module.forward = MethodType(_forward, module)


def _forward(self: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return linear(x, self.weight, self.bias)
