"""Numbers taken during training, on fixed rows, and the rule that ends training early.

NLL: nats a target token, over all of them. Probability: of an answer exp(−its NLL / its tokens), the mean over answers, as TOFU has it.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from shared.budget import within_budget
from shared.errors import ConfigError, nearest
from shared.packed import PackedModel
from tu_train.batches import Item, Pass
from tu_train.forward import Reading, look

NUMBERS = ("forget_nll", "retain_nll", "forget_probability", "retain_probability")
COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


def parse_stop(text: str) -> tuple[str, str, float]:
    """`forget_probability<0.05` -> name, comparison, bound. Raises ConfigError."""
    match = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+.\deE]+)\s*", text)
    if match is None:
        raise ConfigError(f"--stop-when {text}: expected a number of the evaluation, a comparison, a bound: forget_probability<0.05")
    name, sign, bound = match.groups()
    if name not in NUMBERS:
        raise ConfigError(f"--stop-when {text}: {name} is unknown{nearest(name, NUMBERS)}")
    try:
        return name, sign, float(bound)
    except ValueError:
        raise ConfigError(f"--stop-when {text}: {bound!r} is no number") from None


@dataclass(frozen=True)
class Evaluation:
    forget: Sequence[Item]
    """whole rows: every target token with weight 1"""
    retain: Sequence[Item]
    every: int
    """steps"""
    batch_tokens: int
    stop_when: str | None = None

    def after(self, step: int, packed: PackedModel, autocast: AbstractContextManager, record: dict[str, float]) -> str | None:
        """Adds `eval_…` to the record where it is time; returns the rule that holds now and ends training."""
        if (step + 1) % self.every:
            return None
        with autocast, torch.no_grad():
            found = {**self._measure(packed, "forget", self.forget), **self._measure(packed, "retain", self.retain)}
        record.update({f"eval_{name}": value for name, value in found.items()})
        if self.stop_when is None:
            return None
        name, sign, bound = parse_stop(self.stop_when)
        return self.stop_when if name in found and COMPARE[sign](found[name], bound) else None

    def _measure(self, packed: PackedModel, kind: str, items: Sequence[Item]) -> dict[str, float]:
        nll, tokens, probabilities = 0.0, 0, []
        for start, end in within_budget([len(i.ids) for i in items], self.batch_tokens):
            part = items[start:end]
            logp = look(packed, Pass(list(part), []), Reading(), Reading(), None).forget.logp_N.double()
            for own in logp.split([len(i.positions) for i in part]):
                probabilities.append(own.mean().exp().item())
                nll, tokens = nll - own.sum().item(), tokens + len(own)
        return {f"{kind}_nll": nll / tokens, f"{kind}_probability": sum(probabilities) / len(items)} if items else {}
