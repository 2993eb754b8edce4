"""AdamW, in 32 or 8 bits, and the schedule of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from shared.errors import ConfigError

FUSED = ("cpu", "cuda", "mps")
"""devices on which torch updates all parameters in one kernel"""


def make_optimizer(parameters: Sequence[Tensor], kind: str, *, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """`kind`: adamw or adamw8bit. Raises ConfigError where the 8-bit optimizer is not installed."""
    options: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    if kind == "adamw":
        return torch.optim.AdamW(list(parameters), fused=parameters[0].device.type in FUSED, **options)
    return adamw8bit()(parameters, **options)


def adamw8bit() -> Any:
    """The class of the 8-bit optimizer. Raises ConfigError where its package is not installed."""
    try:
        from bitsandbytes.optim import AdamW8bit  # type: ignore[import-not-found]
    except ImportError:
        raise ConfigError("--set optimizer=adamw8bit needs bitsandbytes, which is not installed: pip install 'token-unlearn[adam8bit]', "
                          "or leave it out for adamw") from None  # fmt: skip
    return AdamW8bit


def make_schedule(optimizer: torch.optim.Optimizer, total_steps: int, *, warmup: float, shape: str) -> torch.optim.lr_scheduler.LambdaLR:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, total_steps, warmup, shape))


def rate(step: int, total: int, warmup: float, shape: str = "linear") -> float:
    """Share of the peak learning rate: linearly up over the first `warmup` share of the steps, then down to zero after
    the last."""
    rising = max(1, round(warmup * total))
    if step < rising:
        return (step + 1) / rising
    left = (total - step) / max(1, total - rising + 1)
    return {"linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2, "constant": 1.0}[shape]
