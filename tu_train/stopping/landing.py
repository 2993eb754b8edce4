"""Ending a run exactly where its rule begins to hold (`land`): between the last two evaluations, on the line that joins
their weights.

Methods differ in how far a step takes them, so models that stop at the first evaluation beyond a bound are not equally
far. Here the weights are moved back along that line until the number stands at the bound, within TOLERANCE, and the
model that is saved is the one that was measured there. Cost: a copy of the weights that train, and at the end a few
evaluations of the forget or retain rows.

The weights of the evaluation before are kept in checkpoints, so that a resumed run lands where an undisturbed one does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from tu_train.methods.tokens import State

TOLERANCE = 0.005
"""of the bound"""
LOOKS = 14
"""evaluations on the line, at most"""
WEIGHTS, VALUE = "weights/", "value"
"""names of what is kept of the evaluation before: weights by the parameter's name, and the number"""


def remember(model: nn.Module, landing: State, value: float) -> None:
    """Keeps the weights as they are in `landing`; `value`: the number that the rule watches, with these weights."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                landing[WEIGHTS + name] = parameter.detach().clone()
    landing[VALUE] = torch.tensor(value, dtype=torch.float64)


@torch.no_grad()
def land(model: nn.Module, landing: State, value: float, bound: float, measure: Callable[[], float]) -> float:
    """Moves the weights to where `measure()` is at `bound`, and returns how far that is from the evaluation before (0)
    to now (1).

    `value`: the number now. The weights end at or beyond the bound, seen from the evaluation before. Nothing moves
    where the bound does not lie between the two.
    """
    first = landing[VALUE].item()
    if (first - bound) * (value - bound) > 0:
        return 1.0
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    after = {n: p.detach().clone() for n, p in trained.items()}

    def go(t: float) -> float:
        for name, parameter in trained.items():
            parameter.copy_(torch.lerp(landing[WEIGHTS + name].to(parameter.device), after[name], t))
        return measure()

    # Regula falsi with the Illinois rule: an end that stays twice in a row counts half, or a curved number would never
    # let go of it. It aims at the middle of what is tolerated, beyond the bound.
    sign = 1 if value > bound else -1
    aim = bound + sign * TOLERANCE / 2 * abs(bound)
    low, high, at_low, at_high, at, kept = 0.0, 1.0, first - aim, value - aim, value, 0
    for _ in range(LOOKS):
        if sign * (at - bound) <= TOLERANCE * abs(bound):
            break
        t = low + (high - low) * min(0.95, max(0.05, at_low / (at_low - at_high)))
        found = go(t)
        if sign * (found - bound) >= 0:
            high, at, at_high = t, found, found - aim
            at_low, kept = (at_low / 2 if kept == 1 else at_low), 1
        else:
            low, at_low = t, found - aim
            at_high, kept = (at_high / 2 if kept == -1 else at_high), -1
    go(high)
    return high
