"""The training loop, whole: forward passes of packed rows, log-probabilities at weighted tokens, a loss, a step.

    for each step:      a few passes (one, unless the step holds more than a batch, or the batch more than batch_tokens)
      for each pass:    hidden states of its forget, partner and retain rows, in one forward
                        gamma · forget loss / the step's denominator + alpha · retain term / the step's retain tokens;
                        backward
      then:             stop if anything is not finite; clip; AdamW; schedule; the method's own state; evaluation;
                        checkpoint

Denominators are those of the whole step, so the number of passes changes no result. The head runs only at tokens that a
loss sees. Reference log-probabilities come with the rows; see reference.py for the methods that need more of the model
before training.

Of several forget corpora each step has rows of one: its options, gamma, alpha and method state count then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shared.console import progress
from shared.errors import ModelError
from shared.lm.models import choose_dtype
from shared.lm.packed import PackedModel
from tu_train.config import LoopConfig
from tu_train.data.batches import Item, PassRows
from tu_train.forward import Needs, PassTokens, checkpoint_activations, forward_pass
from tu_train.methods.retain_terms import RETAIN_TERMS, RetainTerm
from tu_train.methods.table import Method
from tu_train.methods.tokens import Options, State
from tu_train.model.optimizer import make_optimizer, make_schedule
from tu_train.model.reference import Reference
from tu_train.padded import padded_pass, positions_of
from tu_train.saving.checkpoint import Moving
from tu_train.saving.logs import Log, Tracker
from tu_train.saving.working_folder import Checkpoints
from tu_train.stopping.evaluating import Evaluation

NAMED = 8
"""examples of a bad batch that an error names"""


@dataclass(frozen=True)
class Objective:
    """What is minimised: gamma · forget + alpha · retain. Fine-tuning is a retain loss alone."""

    method: Method | None
    options: Options = field(default_factory=dict)
    gamma: float = 1.0
    alpha: float = 1.0
    retain: RetainTerm | None = RETAIN_TERMS["nll"]
    corpora: tuple[Objective, ...] = ()
    """of each of several forget corpora; empty: there is one"""
    pad_id: int | None = None
    """losses are means over every position of batches that are padded on the left with this token; None: over target
    tokens"""

    def of(self, corpus: int) -> Objective:
        """That of a forget corpus."""
        return self.corpora[corpus] if self.corpora else self

    @property
    def needs(self) -> tuple[Needs, Needs]:
        """Of forget and of retain rows."""
        forget, retain = (part.needs if part else frozenset() for part in (self.method, self.retain))
        layer = int(self.options["layer"]) if "layer" in forget | retain else None
        return (
            # A layer of the model before training is read of retain rows alone: no forget loss compares with it.
            Needs(bool(forget & {"logits", "reference logits"}), "reference logits" in forget, layer if "layer" in forget else None),
            Needs("logits" in retain, bool(retain & {"reference logits", "reference layer"}), layer if "layer" in retain else None),
        )

    @property
    def reads_start(self) -> bool:
        """Whether a loss reads the model before training."""
        return any(needs.reference for one in self.corpora or (self,) for needs in one.needs)

    def state_of(self, corpus: int, state: State) -> State:
        """What the method keeps for a forget corpus: tensors of `state` itself."""
        if not self.corpora:
            return state
        own = f"{corpus}/"
        return {name.removeprefix(own): value for name, value in state.items() if name.startswith(own)}

    def put_back(self, corpus: int, own: State, state: State) -> None:
        """What a method has put in the place of a tensor of `state_of`."""
        if self.corpora:
            state.update({f"{corpus}/{name}": value for name, value in own.items()})


SHOWN = {"forget_loss": "forget loss", "forget_nll": "forget NLL", "retain_nll": "retain NLL"}
"""what the progress line says of a step: the method's own loss, and log-likelihoods, nats a token"""


def train(
    packed: PackedModel, steps: Callable[[int], Iterable[list[PassRows]]], total_steps: int, objective: Objective, config: LoopConfig,
    log: Path, *, state: State | None = None, reference: Reference | None = None, evaluation: Evaluation | None = None,
    checkpoints: Checkpoints | None = None, trackers: Sequence[Tracker] = (),
) -> str | None:  # fmt: skip
    """Trains in place; one JSON line a step in `log`. `steps(n)` gives the passes of step n and all after it; `state`,
    changed in place, is what the method keeps beside the model (`start_state`).

    Returns why it ended early, if it did. Raises ModelError before an update that is not finite.
    """
    model = packed.model
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(parameters, config.optimizer, learning_rate=config.peak, weight_decay=config.weight_decay)
    schedule = make_schedule(optimizer, total_steps, warmup=config.warmup, shape=config.schedule)
    autocast = prepare(packed, config, packs=objective.pad_id is None)
    state = start_state(packed, objective) if state is None else state
    moving = Moving(model, optimizer, schedule, state)
    first = checkpoints.restore(moving, total_steps) if checkpoints else 0
    if checkpoints and checkpoints.over:
        return checkpoints.ended
    if evaluation and not first:
        evaluation.begin(packed, autocast, moving.landing)
    entry, stop = None, None
    with Log(log, trackers) as lines, progress("training", total_steps, "steps") as bar:
        bar.done = first
        for number, passes in enumerate(steps(first), first):
            corpus = passes[0].corpus
            mine, own = objective.of(corpus), objective.state_of(corpus, state)
            entry = {"step": number, "learning_rate": float(schedule.get_last_lr()[0]), "loss": 0.0}
            if objective.corpora:
                entry["corpus"] = corpus
            backward(packed, passes, mine, own, reference, autocast, entry)
            entry["gradient_norm"] = torch.nn.utils.clip_grad_norm_(parameters, config.clip or math.inf).item()
            require_finite(entry, "gradient_norm", passes)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            if mine.method and mine.method.after:
                mine.method.after(own, entry, mine.options)
            objective.put_back(corpus, own, state)
            stop = evaluation.after(number, packed, autocast, entry, moving.landing) if evaluation else None
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
    packed: PackedModel, passes: list[PassRows], objective: Objective, state: State, reference: Reference | None,
    autocast: torch.autocast, entry: dict[str, float],
) -> None:  # fmt: skip
    """The gradient of a step; its losses go into `entry`. Raises ModelError where one is not finite."""
    totals, method = Totals.of(passes, objective.method, padded=objective.pad_id is not None), objective.method
    alpha = objective.alpha * (method.retain_weight(state) if method and method.retain_weight else 1.0)
    for rows in passes:
        with autocast:
            if objective.pad_id is None:
                pass_tokens = forward_pass(packed, rows, *objective.needs, reference)
            else:
                pass_tokens = padded_pass(packed, rows, *objective.needs, reference, objective.pad_id)
            forget, retain = losses_of(pass_tokens, objective, state, totals)
            loss = objective.gamma * forget + alpha * retain
        if loss.requires_grad:
            loss.backward()
        note(entry, pass_tokens, loss, forget, retain, totals)
        require_finite(entry, "loss", [rows])


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


@dataclass(frozen=True)
class Totals:
    """Denominators of a whole step; 1 where there is nothing."""

    forget: float
    """of the forget loss: rows, the sum of weights, or positions"""
    retain: float
    """of the retain term: target tokens, or positions"""
    weights: float
    """of forget tokens"""
    retain_tokens: float

    @classmethod
    def of(cls, passes: list[PassRows], method: Method | None, *, padded: bool = False) -> Totals:
        """`padded`: losses are means over every position of padded batches."""
        forget = [item for rows in passes for item in rows.forget]
        weights = sum_of_weights(forget)
        tokens = sum_of_weights([item for rows in passes for item in rows.retain])
        if padded:
            over, retain = (float(sum(map(positions_of, group))) for group in ([p.forget for p in passes], [p.retain for p in passes]))
        else:
            over, retain = float(len(forget)) if method and method.per == "row" else weights, tokens
        return cls(over or 1.0, retain or 1.0, weights or 1.0, tokens or 1.0)


def sum_of_weights(items: list[Item]) -> float:
    return float(sum(item.weights.sum(dtype=np.float64) for item in items))


def losses_of(pass_tokens: PassTokens, objective: Objective, state: State, totals: Totals) -> tuple[Tensor, Tensor]:
    """Forget loss and retain term of one pass, each its share of the whole step's."""
    nothing = pass_tokens.retain.logp_N.new_zeros(())
    forget = retain = nothing
    if objective.method is not None and pass_tokens.forget.rows:
        forget = objective.method.loss(pass_tokens.forget, pass_tokens.partner, objective.options, state) / totals.forget
    if objective.retain is not None and pass_tokens.retain.rows:
        retain = objective.retain.loss(pass_tokens.retain, objective.options) / totals.retain
    return forget, retain


def note(entry: dict[str, float], pass_tokens: PassTokens, loss: Tensor, forget: Tensor, retain: Tensor, totals: Totals) -> None:
    """Adds a pass to the entry of its step. NLL: nats a token, weighted."""

    def add(name: str, value: float) -> None:
        entry[name] = entry.get(name, 0.0) + value

    add("loss", loss.item())
    for kind, tokens, part, total in (
        ("forget", pass_tokens.forget, forget, totals.weights),
        ("retain", pass_tokens.retain, retain, totals.retain_tokens),
    ):
        if tokens.rows:
            add(f"{kind}_loss", part.item())
            add(f"{kind}_nll", -(tokens.weight_N * tokens.logp_N.detach().where(tokens.weight_N > 0, 0)).sum().item() / total)


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
