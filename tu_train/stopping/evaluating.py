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

import torch

from shared.budget import within_budget
from shared.lm.packed import PackedModel
from tu_train.data.batches import Item, Pass
from tu_train.forward import Reading, look
from tu_train.methods.tokens import State
from tu_train.stopping.landing import land, remember
from tu_train.stopping.rule import COMPARE, KINDS, parse_stop


@dataclass(frozen=True)
class Evaluation:
    forget: Sequence[Item]
    """whole rows: every target token with weight 1"""
    retain: Sequence[Item]
    every: int
    """steps"""
    batch_tokens: int
    stop_when: str | None = None
    facts: Sequence[Item] = ()
    """the forget rows once more, with the tokens that carry the fact"""
    paraphrases: Sequence[Item] = ()
    """the questions of the forget rows with another wording of their answers"""
    land: bool = False
    """end where the rule begins to hold, not at the evaluation after it (landing.py)"""

    def begin(self, packed: PackedModel, autocast: AbstractContextManager, state: State) -> None:
        """Before the first step of a run: what landing between it and the first evaluation needs."""
        if self.land and self.stop_when is not None:
            remember(packed.model, state, self._watched(packed, autocast))

    def after(self, step: int, packed: PackedModel, autocast: AbstractContextManager, record: dict[str, float], state: State) -> str | None:
        """Adds `eval_…` to the record where it is time; returns the rule that holds now and ends training."""
        if (step + 1) % self.every:
            return None
        found = self._measured(packed, autocast)
        rule = parse_stop(self.stop_when) if self.stop_when is not None else None
        holds = rule is not None and rule[0] in found and COMPARE[rule[1]](found[rule[0]], rule[2])
        if rule is not None and self.land:
            if holds:
                record["eval_landed"] = land(packed.model, state, found[rule[0]], rule[2], lambda: self._watched(packed, autocast))
                found = self._measured(packed, autocast)
            else:
                remember(packed.model, state, found[rule[0]])
        record.update({f"eval_{name}": value for name, value in found.items()})
        return self.stop_when if holds else None

    def _measured(self, packed: PackedModel, autocast: AbstractContextManager, only: str = "") -> dict[str, float]:
        groups = dict(zip(KINDS, (self.forget, self.facts, self.paraphrases, self.retain), strict=True))
        with autocast, torch.no_grad():
            kinds = [self._measure(packed, kind, items) for kind, items in groups.items() if not only or only.rpartition("_")[0] == kind]
        return {name: value for kind in kinds for name, value in kind.items()}

    def _watched(self, packed: PackedModel, autocast: AbstractContextManager) -> float:
        """The number that the rule is about."""
        name = parse_stop(str(self.stop_when))[0]
        return self._measured(packed, autocast, only=name)[name]

    def _measure(self, packed: PackedModel, kind: str, items: Sequence[Item]) -> dict[str, float]:
        nll, tokens, probabilities = 0.0, 0, []
        for start, end in within_budget([len(i.ids) for i in items], self.batch_tokens):
            part = items[start:end]
            logp = look(packed, Pass(list(part), []), Reading(), Reading(), None).forget.logp_N.double()
            for own in logp.split([len(i.positions) for i in part]):
                probabilities.append(own.mean().exp().item())
                nll, tokens = nll - own.sum().item(), tokens + len(own)
        return {f"{kind}_nll": nll / tokens, f"{kind}_probability": sum(probabilities) / len(items)} if items else {}
