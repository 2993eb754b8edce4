"""The training loop, whole: forward passes of packed rows, log-probabilities at weighted tokens, a loss, a step.

    for each step:      a few passes (one, unless the step holds more than batch_tokens)
      for each pass:    hidden states of its forget and retain rows, in one forward
                        gamma · forget loss / the step's denominator + alpha · retain NLL / the step's retain tokens; backward
      then:             stop if anything is not finite; clip; AdamW; schedule

Denominators are those of the whole step, so the number of passes changes no result. The head runs only at tokens with a weight. No
reference model is loaded: reference log-probabilities come with the rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shared.console import progress
from shared.errors import ModelError
from shared.logprobs import target_logprobs
from shared.models import choose_dtype
from shared.packed import PackedModel
from tu_train.batches import Item, Pass
from tu_train.config import LoopConfig
from tu_train.methods import Method


@dataclass(frozen=True)
class Objective:
    """What is minimised: gamma · forget + alpha · retain. Fine-tuning is a retain loss alone."""

    method: Method | None
    gamma: float = 1.0
    alpha: float = 1.0
    beta: float = 0.1


@dataclass
class Flat:
    """The weighted tokens of several rows, one after another: N tokens, B rows."""

    logp_N: Tensor
    ref_logp_N: Tensor
    weight_N: Tensor
    row_N: Tensor
    rows: int


def train(packed: PackedModel, steps: Iterable[list[Pass]], total_steps: int, objective: Objective, config: LoopConfig, log: Path) -> None:
    """Trains in place; one JSON line a step in `log`. Raises ModelError before an update that is not finite."""
    parameters = [p for p in packed.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, total_steps, config.warmup))
    autocast = torch.autocast(packed.model.device.type, dtype=choose_dtype(config.dtype), enabled=config.dtype != "float32")
    packed.model.eval()  # dropout off: the loss of a row must not depend on the rows it shares a pass with
    with open(log, "w", encoding="utf-8") as lines, progress("training", total_steps, "steps") as bar:
        for number, passes in enumerate(steps):
            forget_total = denominator(objective.method, [i for p in passes for i in p.forget])
            retain_total = float(sum(i.weights.sum() for p in passes for i in p.retain))
            record = {"step": number, "learning_rate": schedule.get_last_lr()[0], "loss": 0.0, "forget_nll": 0.0, "retain_nll": 0.0}
            for one in passes:
                with autocast:
                    forget, retain = flatten(packed, one)
                    loss = logprob_loss(forget, retain, objective, forget_total, retain_total)
                loss.backward()
                record["loss"] += loss.item()
                record["forget_nll"] += weighted_nll(forget) / max(sum(float(i.weights.sum()) for p in passes for i in p.forget), 1e-9)
                record["retain_nll"] += weighted_nll(retain) / max(retain_total, 1e-9)
            norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip).item()
            if not np.isfinite(record["loss"]) or not np.isfinite(norm):
                raise ModelError(f"step {number}: loss {record['loss']}, gradient norm {norm}: not finite, stopped before the update; "
                                 "lower learning_rate, or train in float32")  # fmt: skip
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            lines.write(json.dumps({**record, "gradient_norm": norm}) + "\n")
            lines.flush()
            bar.advance(
                1,
                f"forget NLL {record['forget_nll']:.3f}, retain NLL {record['retain_nll']:.3f}"
                if objective.method
                else f"NLL {record['retain_nll']:.3f}",
            )
    packed.model.eval()


def rate(step: int, total: int, warmup: float) -> float:
    """Share of the peak learning rate: linearly up over the first `warmup` share of the steps, then down to zero after the last."""
    rising = max(1, round(warmup * total))
    return min((step + 1) / rising, (total - step) / max(1, total - rising + 1), 1.0)


def denominator(method: Method | None, items: list[Item]) -> float:
    """Of the forget loss over a whole step: rows, or the sum of token weights."""
    if method is None:
        return 1.0
    return float(len(items)) if method.per == "row" else float(sum(i.weights.sum() for i in items))


def flatten(packed: PackedModel, one: Pass) -> tuple[Flat, Flat]:
    """One forward over all rows of a pass, then the head at the weighted tokens of forget and retain rows."""
    items = one.forget + one.retain
    hidden, slots = packed.hidden([i.ids for i in items])
    device = hidden.device
    rows = torch.tensor([slots[k][p - 1] for k, i in enumerate(items) for p in i.positions], device=device)
    targets = torch.tensor([i.ids[p] for i in items for p in i.positions], device=device)
    logp = target_logprobs(hidden[rows], targets, packed.head)
    count = sum(len(i.positions) for i in one.forget)
    return flat_of(one.forget, logp[:count]), flat_of(one.retain, logp[count:])


def flat_of(items: list[Item], logp_N: Tensor) -> Flat:
    device = logp_N.device
    weight = np.concatenate([i.weights for i in items]) if items else np.zeros(0, dtype=np.float32)
    reference = np.concatenate([np.zeros_like(i.weights) if i.ref_logp is None else i.ref_logp for i in items]) if items else weight
    row = [k for k, i in enumerate(items) for _ in i.positions]
    return Flat(logp_N, torch.tensor(reference, device=device), torch.tensor(weight, device=device),
                torch.tensor(row, dtype=torch.long, device=device), len(items))  # fmt: skip


def logprob_loss(forget: Flat, retain: Flat, objective: Objective, forget_total: float, retain_total: float) -> Tensor:
    """gamma · forget loss / forget_total + alpha · retain NLL / retain_total, for one pass of a step."""
    loss = forget.logp_N.sum() * 0
    if objective.method is not None and forget.rows:
        summed = objective.method.loss(forget.logp_N, forget.ref_logp_N, forget.weight_N, forget.row_N, forget.rows, objective.beta)
        loss = loss + objective.gamma * summed / forget_total
    if retain.rows:
        loss = loss - objective.alpha * (retain.weight_N * retain.logp_N).sum() / retain_total
    return loss


def weighted_nll(flat: Flat) -> float:
    return -(flat.weight_N * flat.logp_N.detach()).sum().item()
