"""AdamW, in 32 bits or fewer, and the schedule of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from shared.errors import ConfigError
from shared.lm.models import FUSED
from tu_train.model.thrifty import ThriftyAdamW


def make_optimizer(
    parameters: Sequence[Tensor], kind: str, *, learning_rate: float, weight_decay: float, moments: str = "float32",
    rounding: str = "stochastic", moments_on: str = "device", seed: int = 0,
) -> torch.optim.Optimizer:  # fmt: skip
    """`kind`: adamw, adamw8bit or adamw_transformers; the rest as in LoopConfig. Raises ConfigError where the 8-bit
    optimizer is not installed."""
    options: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    if moments != "float32" or moments_on == "cpu" or any(p.dtype == torch.bfloat16 for p in parameters):
        return ThriftyAdamW(
            parameters, moments=moments, stochastic=rounding == "stochastic", on_cpu=moments_on == "cpu", seed=seed, **options
        )
    if kind == "adamw8bit":
        return adamw8bit()(parameters, **options)
    fused = parameters[0].device.type in FUSED
    if kind == "adamw_transformers":
        return TransformersAdamW(list(parameters), fused=fused, eps=TransformersAdamW.EPSILON, **options)
    return torch.optim.AdamW(list(parameters), fused=fused, **options)


class TransformersAdamW(torch.optim.AdamW):
    """The step of the AdamW that transformers had until version 4: epsilon is added to the root of the second moment
    before that is corrected for its start at zero, √v + ε instead of √v/√(1 − β₂ᵗ) + ε.

    The same as torch's with ε/√(1 − β₂ᵗ): 32 times as large in the first step, so that small gradients move little.
    Weight decay is subtracted before the step, as torch does, not after it.
    """

    EPSILON = 1e-6

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            done = next((int(self.state[p]["step"]) for p in group["params"] if self.state.get(p)), 0)
            group["eps"] = self.EPSILON / math.sqrt(1 - group["betas"][1] ** (done + 1))
        try:
            return super().step(closure)
        finally:
            for group in self.param_groups:
                group["eps"] = self.EPSILON  # what a checkpoint holds does not depend on the step


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
