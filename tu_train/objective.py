"""What a run minimises, and the denominators of a step."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tu_train.data.batches import Item, PassRows
from tu_train.forward import Needs
from tu_train.methods.retain_terms import RETAIN_TERMS, RetainTerm
from tu_train.methods.table import Method
from tu_train.methods.tokens import Options, State
from tu_train.padded import positions_of


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
