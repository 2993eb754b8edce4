"""`tu-train run --dry-run`: steps, tokens and memory of a run, said before it begins, of one process or of several
ranks.

It gathers and plans as the run does, and takes the largest pass of the first epoch through the training code on shapes
alone (footprint.py): no weight is read, nothing is written, and no other rank is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from shared.console import readable_bytes
from tu_train.config import UnlearnConfig
from tu_train.data.batches import Item, PassRows, tokens_of
from tu_train.data.dealing import dealt_to_all
from tu_train.data.sources import with_partners
from tu_train.footprint import Memory, footprint
from tu_train.gather import gather_unlearning
from tu_train.plan import Plan, check_ranks, plan_unlearning
from tu_train.ranks import ALONE, Several


@dataclass(frozen=True)
class TrainingEstimate:
    steps: int
    rows: dict[str, int]
    tokens: int
    """read in all steps, before sharing"""
    largest: int
    """tokens of the largest pass"""
    memory: Memory
    """of a process, or of the rank with the largest pass"""
    trained: int
    """parameters"""
    device: str
    ranks: int = 1
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        rows = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in self.rows.items())
        parts = {name: count for name, count in vars(self.memory).items() if name != "gathered" or self.ranks > 1}
        where = self.device if self.ranks == 1 else f"each of {self.ranks} ranks ({self.device})"
        return [
            f"rows             {rows}",
            f"steps            {self.steps:,}",
            f"tokens           about {self.tokens:,} in all steps, {self.largest:,} in the largest pass, before sharing",
            f"trained          {self.trained:,} parameters",
            f"peak memory      about {readable_bytes(self.memory.peak)} of tensors on {where}, of which",
            *(f"  {name:<15}{readable_bytes(count)}" for name, count in parts.items()),
            "more is resident than tensors fill: docs/methods.md says how much",
            *self.notes,
        ]


def estimate(config: UnlearnConfig, ranks: int = 1) -> TrainingEstimate:
    """Raises what the run itself would raise before it loads the model."""
    config = config.filled()
    plan = _with_known_answers(plan_unlearning(config, gather_unlearning(config)))
    check_ranks(plan, ranks)
    device = (ALONE if ranks == 1 else Several(0, ranks, 0, None)).device(config.device)
    epoch = plan.order.steps_an_epoch
    steps = list(islice(plan.stream(0), min(plan.steps, sum(epoch(corpus.forget.count) for corpus in plan.corpora))))
    tokens = sum(map(pass_tokens, (rows for step in steps for rows in step)))
    size = {"batch_size": config.batch_size, "batch_tokens": config.batch_tokens}
    step, share = max(((s, own) for s in steps for own in dealt_to_all(s, ranks, **size)), key=lambda pair: _largest(pair[1]))
    found = footprint(plan, step, share, device, ranks)
    return TrainingEstimate(plan.steps, plan.rows, round(tokens / len(steps) * plan.steps), _largest(share), found.memory, found.trained,
                            str(device) if ranks == 1 else device.type, ranks, tuple(_notes(plan, device, ranks, found.model)))  # fmt: skip


def pass_tokens(rows: PassRows) -> int:
    return sum(map(tokens_of, [*rows.forget, *rows.retain]))


def _largest(share: list[PassRows]) -> int:
    return max(map(pass_tokens, share))


def _notes(plan: Plan, device: torch.device, ranks: int, model: int) -> list[str]:
    notes = [] if device.type == "cpu" else [f"of a CPU's attention; that of {device.type} holds less"]
    if any(c.answers is not None and c.answers.given is None for c in plan.corpora):
        notes.append("without the answers that the model is yet to write")
    if ranks > 1:
        notes.append(f"beside that, host memory holds the whole model, {readable_bytes(model)}, once a machine while ranks load it, and on "
                     "rank 0 while it is written")  # fmt: skip
    return notes


def _with_known_answers(plan: Plan) -> Plan:
    """With the other answers that stand in the data."""

    def known(corpus: Any) -> Any:
        if corpus.answers is None or corpus.answers.given is None:
            return corpus
        items = {name: _with_reference(item) for name, item in corpus.answers.given.items()}
        return replace(corpus, forget=with_partners(corpus.forget, items))

    return replace(plan, corpora=tuple(map(known, plan.corpora)))


def _with_reference(item: Item) -> Item:
    return replace(item, ref_logp=np.zeros(len(item.positions), dtype=np.float32))
