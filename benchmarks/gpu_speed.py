"""What benchmarks/gpu.py measures: tokens/s and peak memory of NPO, ours against two baselines, and what the host does
meanwhile."""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.gpu_models import SPEED, made, random_items
from benchmarks.train import AGREE, BETA, LEARNING_RATE
from benchmarks.train_baseline import Pair, collate, row_nll, train_baseline
from shared.lm.forest import pack
from shared.lm.packed import PackedModel
from tu_train.config import LoopConfig
from tu_train.data.batches import PassRows
from tu_train.forward import Needs, forward_pass
from tu_train.loop import train
from tu_train.methods.table import METHODS
from tu_train.objective import Objective
from tu_train.saving.logs import Tracker

WARM = 2
"""steps that are not timed: in them kernels are made"""
Sizes = tuple[int, int, int]
"""rows of each kind in a step, timed steps, longest answer in tokens"""


class Clock:
    """Notes the time after every optimizer step, whoever makes it, when the device is done with it."""

    def __init__(self, device: torch.device) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.device, self.times = device, []
        self.handle = register_optimizer_step_post_hook(self.note)

    def note(self, *_: Any) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.times.append(time.perf_counter())


def ours(model: Any, steps: Sequence[Sequence[Pair]], *, dtype: str = "float32", checkpointing: bool | None = None) -> float:
    """Trains -> the loss of the first step. The reference comes with the rows, as a store has it."""
    packed, passes = PackedModel(model), [[PassRows([a for a, _ in pairs], [b for _, b in pairs])] for pairs in steps]
    with torch.no_grad():
        for (rows,) in passes:
            tokens = forward_pass(packed, rows, Needs(), Needs(), None).forget
            each = tokens.logp_N.float().cpu().split([len(item.positions) for item in rows.forget])
            rows.forget[:] = [replace(item, ref_logp=logp.numpy()) for item, logp in zip(rows.forget, each, strict=True)]
    config = LoopConfig(model="", out="", learning_rate=LEARNING_RATE, dtype=dtype, checkpointing=checkpointing)  # type: ignore[arg-type]
    losses: list[float] = []
    seen = Tracker(lambda numbers, _: losses.append(numbers["loss"]), lambda: None)
    train(packed, lambda first: passes[first:], len(passes), Objective(METHODS["npo"], {"beta": BETA}), config, None, trackers=[seen])
    return losses[0]


def padded_loop(model: Any, steps: Sequence[Sequence[Pair]], *, dtype: str = "float32") -> float:
    """A plain loop over padded batches with full logits and a copied reference model -> the loss of the first step."""
    device, reference, first = model.device, copy.deepcopy(model).eval(), None
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01, fused=True)
    for pairs in steps:
        forget, retain = ({name: value.to(device) for name, value in batch.items()} for batch in collate(pairs).values())
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            with torch.no_grad():
                before = row_nll(reference, forget)
            loss = -(2 / BETA) * torch.nn.functional.logsigmoid(-BETA * (before - row_nll(model, forget))).mean()
            loss = loss + row_nll(model, retain).sum() / (retain["labels"] >= 0).sum()
        loss.backward()
        first = loss.item() if first is None else first
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert first is not None, "there is a step"
    return first


def trainer(model: Any, steps: Sequence[Sequence[Pair]], *, dtype: str = "float32") -> float:
    """Hugging Face's Trainer (benchmarks/train_baseline.py)."""
    pairs = [pair for step in steps for pair in step]
    return train_baseline(model, pairs, batch_size=len(steps[0]), beta=BETA, learning_rate=LEARNING_RATE, bf16=dtype == "bfloat16")


VARIANTS: dict[str, Callable[..., float]] = {
    "padded": padded_loop, "ours": ours, "kept": partial(ours, checkpointing=False), "trainer": trainer
}  # fmt: skip
"""kept: ours with its activations kept"""


def measured(
    variant: Callable[..., float], shape: str, steps: Sequence[Sequence[Pair]], device: torch.device, dtype: str
) -> dict[str, Any]:
    """tokens/s (as rows have them, before any sharing), peak MiB of the device, and the first loss."""
    cuda = device.type == "cuda"
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    with device:
        model = made(SPEED[shape], initializer_range=0.02).eval()
    clock = Clock(device)
    try:
        loss = variant(model, steps, dtype=dtype)
    finally:
        clock.handle.remove()
    tokens = sum(len(item.ids) for step in steps[WARM:] for pair in step for item in pair)
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if cuda else None
    return {"speed": tokens / (clock.times[-1] - clock.times[WARM - 1]), "peak_mib": peak, "loss": loss}


def speed(shape: str, device: torch.device, sizes: Sizes, rounds: int, over: Callable[[], bool]) -> dict[str, Any]:
    """Variants take turns; medians over the rounds, and ratios to the padded loop in the same dtype. Nothing new begins
    once it is `over`. Raises AssertionError where float32's first losses differ."""
    rows, timed, longest = sizes
    vocabulary, count = SPEED[shape].vocabulary, rows * (timed + WARM)
    pairs = list(zip(random_items(count, vocabulary, longest, 1), random_items(count, vocabulary, longest, 2), strict=True))
    steps = [pairs[at : at + rows] for at in range(0, count, rows)]
    runs: dict[str, list[dict[str, Any]]] = {}
    out: dict[str, Any] = {}
    for _ in range(rounds):
        for dtype in ("float32", "bfloat16"):
            for name, variant in VARIANTS.items():
                key = f"{name} {dtype}"
                if over() or key in out:
                    continue
                try:
                    runs.setdefault(key, []).append(measured(variant, shape, steps, device, dtype))
                except (ImportError, torch.OutOfMemoryError) as error:
                    out[key] = {"left_out": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    firsts = [each[0]["loss"] for key, each in runs.items() if each and "float32" in key]
    assert not firsts or max(firsts) - min(firsts) <= 10 * AGREE * abs(firsts[0]), f"first losses in float32 differ: {firsts}"
    for key, each in runs.items():
        if each:
            peak = each[0]["peak_mib"]
            out[key] = {"tokens_s": round(median(run["speed"] for run in each), 1), "peak_mib": peak and round(peak)}
    for key, found in out.items():
        base = out.get(f"padded {key.split()[1]}", {})
        if "tokens_s" in found and "tokens_s" in base and found is not base:
            found["speed_over_padded"] = round(found["tokens_s"] / base["tokens_s"], 3)
            found["memory_over_padded"] = found["peak_mib"] and round(found["peak_mib"] / base["peak_mib"], 3)
    return {**out, "packing_ms_a_step": round(packing_ms(steps, device), 2)}


def packing_ms(steps: Sequence[Sequence[Pair]], device: torch.device) -> float:
    """What the host needs to pack a step's rows, while which the device waits unless it has work left."""
    found = []
    for step in steps:
        start = time.perf_counter()
        pack([item.ids for pair in step for item in pair], device)
        found.append(1000 * (time.perf_counter() - start))
    return median(found)
