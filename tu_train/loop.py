"""The training loop, whole: forward passes of packed rows, log-probabilities at weighted tokens, a loss, a step.

    for each step:      a few passes (one, unless the step holds more than a batch, or the batch more than batch_tokens)
      for each pass:    hidden states of its forget, partner and retain rows, in one forward
                        gamma · forget loss / the step's denominator + alpha · retain term / the step's retain tokens;
                        backward
      then:             stop if anything is not finite; clip; AdamW; schedule; the method's own state; evaluation;
                        checkpoint

Numbers stay on the device until the step's gradient is whole, and are read together.

Denominators are those of the whole step, so the number of passes changes no result. The head runs only at tokens that a
loss sees. Reference log-probabilities come with the rows; see reference.py for the methods that need more of the model
before training.

Of several forget corpora each step has rows of one: its options, gamma, alpha and method state count then.

Several processes (ranks.py) run this same loop, each on its share of a step's rows and with its shard of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shared.console import progress
from shared.errors import ModelError
from shared.lm.models import choose_dtype
from shared.lm.packed import PackedModel
from tu_train.config import LoopConfig
from tu_train.data.batches import PassRows
from tu_train.data.dealing import dealt
from tu_train.forward import Before, PassTokens, before_training, checkpoint_activations, forward_pass
from tu_train.methods.tokens import State
from tu_train.model.optimizer import make_optimizer, make_schedule
from tu_train.model.reference import Reference
from tu_train.objective import Objective, Totals
from tu_train.padded import padded_pass
from tu_train.ranks import ALONE, Ranks
from tu_train.saving.logs import Log, Tracker
from tu_train.saving.snapshot import Moving
from tu_train.saving.working_folder import Checkpoints
from tu_train.stopping.evaluating import Evaluation

NAMED = 8
"""examples of a bad batch that an error names"""


SHOWN = {"forget_loss": "forget loss", "forget_nll": "forget NLL", "retain_nll": "retain NLL"}
"""what the progress line says of a step: the method's own loss, and log-likelihoods, nats a token"""
NOTED = ("loss", "forget_loss", "forget_nll", "retain_loss", "retain_nll")
"""sums over the passes of a step"""
Noted = tuple[PassRows, dict[str, Tensor]]
"""a pass, and numbers of it that nobody has waited for"""


def train(
    packed: PackedModel, steps: Callable[[int], Iterable[list[PassRows]]], total_steps: int, objective: Objective, config: LoopConfig,
    log: Path | None, *, state: State | None = None, reference: Reference | None = None, evaluation: Evaluation | None = None,
    checkpoints: Checkpoints | None = None, trackers: Sequence[Tracker] = (), ranks: Ranks = ALONE,
) -> str | None:  # fmt: skip
    """Trains in place; one JSON line a step in `log`. `steps(n)` gives the passes of step n and all after it; `state`,
    changed in place, is what the method keeps beside the model (`start_state`).

    Returns why it ended early, if it did. Raises ModelError before an update that is not finite.
    """
    model = packed.model
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(parameters, config.optimizer, learning_rate=config.peak, weight_decay=config.weight_decay,
                               moments=config.moments, moments_on=config.moments_on, rounding=config.rounding,
                               seed=config.seed)  # fmt: skip
    schedule = make_schedule(optimizer, total_steps, warmup=config.warmup, shape=config.schedule)
    autocast = prepare(packed, config, packs=objective.pad_id is None)
    state = start_state(packed, objective) if state is None else state
    moving = Moving(model, optimizer, schedule, state)
    first = checkpoints.restore(moving, total_steps) if checkpoints else 0
    if checkpoints and checkpoints.over:
        return checkpoints.ended
    if evaluation:
        evaluation.begin(first, packed, autocast, moving.landing, ranks)
    entry, stop = None, None
    with Log(log, trackers) as lines, progress("training", total_steps, "steps") as bar:
        bar.done = first
        for number, passes in enumerate(steps(first), first):
            corpus = passes[0].corpus
            mine, own = objective.of(corpus), objective.state_of(corpus, state)
            entry = {"step": number, "learning_rate": float(schedule.get_last_lr()[0]), "loss": 0.0}
            if objective.corpora:
                entry["corpus"] = corpus
            share = dealt(passes, ranks.number, ranks.count, batch_size=config.batch_size, batch_tokens=config.batch_tokens)
            totals = Totals.of(passes, mine.method, padded=mine.pad_id is not None)
            noted = backward(packed, share, totals, mine, own, reference, autocast, ranks)
            norm = ranks.gradient_norm(parameters, config.clip or math.inf)
            read(entry, noted, norm, totals, ranks)  # the one time that the host waits for the device
            require_finite(entry, "gradient_norm", passes)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            if mine.method and mine.method.after:
                mine.method.after(own, entry, mine.options)
            objective.put_back(corpus, own, state)
            stop = evaluation.after(number, packed, autocast, entry, moving.landing, ranks) if evaluation else None
            require_finite_entry(entry)
            lines.write(entry)
            bar.advance(1, ", ".join(f"{shown} {entry[k]:.4g}" for k, shown in SHOWN.items() if k in entry))
            if stop is not None:
                break
            if checkpoints:
                checkpoints.after(number + 1, moving, lines)
        lines.sync()
    if checkpoints:
        checkpoints.end(first if entry is None else int(entry["step"]) + 1, stop)
    return stop


def backward(
    packed: PackedModel, share: list[PassRows], totals: Totals, objective: Objective, state: State, reference: Reference | None,
    autocast: torch.autocast, ranks: Ranks = ALONE,
) -> list[Noted]:  # fmt: skip
    """The gradient of this process's share of a step -> what its passes came to."""
    method, noted = objective.method, []
    alpha = objective.alpha * (method.retain_weight(state) if method and method.retain_weight else 1.0)
    with ranks.adding_to(state):
        for rows in share:
            own = state if rows.counts else {name: value.clone() for name, value in state.items()}
            with autocast:
                before = before_training(packed, rows, *objective.needs, reference) if objective.pad_id is None else None
                run = partial(_losses, packed, rows, objective, reference, before, own, totals, alpha)
                loss, seen = packed.whole(run)
            loss = loss if rows.counts else 0 * loss
            if loss.requires_grad:
                loss.backward()
            if rows.counts:
                noted.append((rows, note(seen, loss)))
    return noted


def _losses(
    packed: PackedModel, rows: PassRows, objective: Objective, reference: Reference | None, before: tuple[Before, Before] | None,
    state: State, totals: Totals, alpha: float,
) -> tuple[Tensor, PassLosses]:  # fmt: skip
    """What is minimised, and what it is made of."""
    if objective.pad_id is None:
        pass_tokens = forward_pass(packed, rows, *objective.needs, reference, before)
    else:
        pass_tokens = padded_pass(packed, rows, *objective.needs, reference, objective.pad_id)
    forget, retain = losses_of(pass_tokens, objective, state, totals)
    return objective.gamma * forget + alpha * retain, PassLosses(pass_tokens, forget, retain)


@dataclass(frozen=True)
class PassLosses:
    """Of a pass: tokens, forget loss and retain term."""

    tokens: PassTokens
    forget: Tensor
    retain: Tensor


def prepare(packed: PackedModel, config: LoopConfig, *, packs: bool = True) -> torch.autocast:
    """Sets the model up to be trained, and gives what its forward passes run in. `packs`: they are packed rows."""
    packed.model.eval()  # dropout off: the loss of a row must not depend on the rows it shares a pass with
    if config.checkpointing or (config.checkpointing is None and not config.lora):
        checkpoint_activations(packed, required=config.checkpointing is True, packs=packs)
    return torch.autocast(packed.model.device.type, dtype=choose_dtype(config.dtype), enabled=config.dtype != "float32")


def start_state(packed: PackedModel, objective: Objective) -> State:
    if objective.method is None or objective.method.start is None:
        return {}
    width, device, start = packed.head.weight.shape[1], packed.model.device, objective.method.start
    if not objective.corpora:
        return {name: value.to(device) for name, value in start(width, objective.options).items()}
    each = [start(width, one.options) for one in objective.corpora]
    return {f"{corpus}/{name}": value.to(device) for corpus, own in enumerate(each) for name, value in own.items()}


def losses_of(pass_tokens: PassTokens, objective: Objective, state: State, totals: Totals) -> tuple[Tensor, Tensor]:
    """Forget loss and retain term of one pass, each its share of the whole step's."""
    nothing = pass_tokens.retain.logp_N.new_zeros(())
    forget = retain = nothing
    if objective.method is not None and pass_tokens.forget.rows:
        forget = objective.method.loss(pass_tokens.forget, pass_tokens.partner, objective.options, state) / totals.forget
    if objective.retain is not None and pass_tokens.retain.rows:
        retain = objective.retain.loss(pass_tokens.retain, objective.options) / totals.retain
    return forget, retain


def note(seen: PassLosses, loss: Tensor) -> dict[str, Tensor]:
    """What a pass came to, still on the device. NLL: nats, weighted, summed over its tokens."""
    out = {"loss": loss.detach()}
    for kind, tokens, part in (("forget", seen.tokens.forget, seen.forget), ("retain", seen.tokens.retain, seen.retain)):
        if tokens.rows:
            out[f"{kind}_loss"] = part.detach()
            out[f"{kind}_nll"] = -(tokens.weight_N * tokens.logp_N.detach().where(tokens.weight_N > 0, 0)).sum()
    return out


def read(entry: dict[str, float], noted: list[Noted], norm: Tensor, totals: Totals, ranks: Ranks = ALONE) -> None:
    """Puts losses of the whole step, NLL a token, and the gradient's norm into its entry. Raises ModelError for a loss
    that is not finite."""
    values = iter(torch.stack([*(value for _, own in noted for value in own.values()), norm]).tolist())
    over, broken = {"forget_nll": totals.weights, "retain_nll": totals.retain_tokens}, []
    for rows, own in noted:
        for name in own:
            entry[name] = entry.get(name, 0.0) + next(values) / over.get(name, 1.0)
        if not np.isfinite(entry["loss"]):
            broken.append(rows)
    ranks.add(entry, NOTED)
    entry["gradient_norm"] = next(values)
    if not np.isfinite(entry["loss"]):
        require_finite(entry, "loss", [rows for each in ranks.gather(broken) for rows in each[:1]])


def require_finite(entry: dict[str, float], name: str, passes: list[PassRows]) -> None:
    """Raises ModelError with the step and its examples; nothing has been updated."""
    if np.isfinite(entry[name]):
        return
    names = [item.name for rows in passes for item in rows.forget + rows.retain]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    raise ModelError(
        f"step {entry['step']}: {name.replace('_', ' ')} {entry[name]}, not finite, stopped before the update; the batch: "
        f"{', '.join(names[:NAMED])}{more}; lower learning_rate, or train in float32"
    )


def require_finite_entry(entry: dict[str, float]) -> None:
    """Raises ModelError for a number of the log that is none: an evaluation after an update that broke the weights."""
    for name, value in entry.items():
        if not np.isfinite(value):
            raise ModelError(f"step {entry['step']}: {name.replace('_', ' ')} is {value} after the update; lower learning_rate or "
                             "weight_decay, or train in float32")  # fmt: skip
