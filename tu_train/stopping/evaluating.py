"""Numbers taken during training, on fixed rows, and the rule that ends training early.

NLL: nats a target token, over all of them. Probability: of an answer exp(−its NLL / its tokens), the mean over answers,
as TOFU has it. `forget_fact_…` speak of the tokens that a column names (`eval_key`) alone; answers without such a token
are left out there. `forget_paraphrase_…` speak of the answers of another column (`paraphrase_key`): knowledge that
outlives the wording it was learned in.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from shared.budget import within_budget
from shared.lm.packed import PackedModel
from tu_train.data.batches import Item, PassRows
from tu_train.forward import Needs, forward_pass
from tu_train.methods.tokens import State
from tu_train.ranks import ALONE, Ranks
from tu_train.stopping.landing import land, remember
from tu_train.stopping.rule import KINDS, Rule

WHOLE, FACTS = KINDS[:2]


class Beside(Protocol):
    """What else is measured whenever we are."""

    def begin(self, done: int) -> None:
        """Before the first step of a process, `done` steps into the run."""

    def after(self, done: int, entry: dict[str, float], *, ends: bool) -> None:
        """Adds its numbers to the entry of the last of `done` steps. `ends`: training is over."""


@dataclass(frozen=True)
class Evaluation:
    forget: Sequence[Item]
    """whole rows: every target token with weight 1"""
    retain: Sequence[Item]
    every: int
    """steps"""
    batch_tokens: int
    rule: Rule | None = None
    """ends training"""
    facts: Sequence[Item] = ()
    """those of the forget rows that have tokens that carry the fact, with these tokens alone (`only`)"""
    paraphrases: Sequence[Item] = ()
    """the questions of the forget rows with another wording of their answers"""
    land: bool = False
    """end where the rule begins to hold, not at the evaluation after it (landing.py)"""
    beside: Beside | None = None

    def begin(
        self, done: int, packed: PackedModel, autocast: AbstractContextManager, landing: State, ranks: Ranks = ALONE
    ) -> None:  # fmt: skip
        """Before the first step of a process, `done` steps into the run; at its very beginning what landing between it
        and the first evaluation needs."""
        if self.beside is not None:
            self.beside.begin(done)
        if not done and self.land and self.rule is not None:
            remember(packed.model, landing, self._watched(packed, autocast, ranks, self.rule))

    def after(
        self, step: int, packed: PackedModel, autocast: AbstractContextManager, entry: dict[str, float], landing: State,
        ranks: Ranks = ALONE,
    ) -> str | None:  # fmt: skip
        """Adds `eval_…` to the entry where it is time; returns the text of the rule where it holds now and ends
        training."""
        if (step + 1) % self.every:
            return None
        found = self._measured(packed, autocast, ranks)
        rule = self.rule
        holds = rule is not None and rule.name in found and rule.holds(found[rule.name])
        if rule is not None and self.land:
            if holds:
                watched = partial(self._watched, packed, autocast, ranks, rule)
                entry["eval_landed"] = land(packed.model, landing, found[rule.name], rule.bound, watched)
                found = self._measured(packed, autocast, ranks)
            else:
                remember(packed.model, landing, found[rule.name])
        entry.update({f"eval_{name}": value for name, value in found.items()})
        if self.beside is not None:
            self.beside.after(step + 1, entry, ends=holds)
        return rule.text if rule is not None and holds else None

    def _measured(self, packed: PackedModel, autocast: AbstractContextManager, ranks: Ranks, only: str = "") -> dict[str, float]:
        groups = dict(zip(KINDS, (self.forget, self.facts, self.paraphrases, self.retain), strict=True))
        asked = {kind: items for kind, items in groups.items() if items and (not only or only.rpartition("_")[0] == kind)}
        found: dict[str, list[torch.Tensor]] = {}
        with autocast, torch.no_grad():
            for kind, items in asked.items():
                whole = found.get(WHOLE) if kind == FACTS else None
                found[kind] = within(self.forget, whole, items) if whole else self._logp(packed, ranks, items)
        return {name: value for kind, rows in found.items() for name, value in numbers(kind, rows).items()}

    def _watched(self, packed: PackedModel, autocast: AbstractContextManager, ranks: Ranks, rule: Rule) -> float:
        """The number that the rule is about."""
        return self._measured(packed, autocast, ranks, only=rule.name)[rule.name]

    def _logp(self, packed: PackedModel, ranks: Ranks, items: Sequence[Item]) -> list[torch.Tensor]:
        """[K] of each row, float64 on the CPU: what each rank finds goes to all."""

        def logp(part: Sequence[Item]) -> list[torch.Tensor]:
            run = partial(forward_pass, packed, PassRows(list(part), []), Needs(), Needs(), None)
            return list(packed.whole(run).forget.logp_N.double().cpu().split([len(i.positions) for i in part]))

        parts = [items[start:end] for start, end in within_budget([len(i.ids) for i in items], self.batch_tokens)]
        return [row for rows in ranks.each(parts, logp) for row in rows]


def within(rows: Sequence[Item], logp: Sequence[torch.Tensor], parts: Sequence[Item]) -> list[torch.Tensor]:
    """What `parts`, made of some of the rows by `only`, have of the rows' log-probabilities, so that no row runs
    twice."""
    known = {id(row.ids): dict(zip(row.positions, own.tolist(), strict=True)) for row, own in zip(rows, logp, strict=True)}
    return [torch.tensor([known[id(part.ids)][p] for p in part.positions], dtype=torch.float64) for part in parts]


def numbers(kind: str, rows: Sequence[torch.Tensor]) -> dict[str, float]:
    """[K] log-probabilities of each row -> NLL and probability."""
    nll, tokens = 0.0, 0
    for own in rows:
        nll, tokens = nll - own.sum().item(), tokens + len(own)
    return {f"{kind}_nll": nll / tokens, f"{kind}_probability": sum(own.mean().exp().item() for own in rows) / len(rows)}
