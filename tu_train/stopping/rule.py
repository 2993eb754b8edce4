"""The rule that ends training early: `forget_probability<0.05`."""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass

from shared.errors import ConfigError, nearest

KINDS = ("forget", "forget_fact", "forget_paraphrase", "retain")
NUMBERS = tuple(f"{kind}_{number}" for kind in KINDS for number in ("nll", "probability"))
COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class Rule:
    text: str
    """as it was given"""
    name: str
    """one of NUMBERS"""
    sign: str
    """one of COMPARE"""
    bound: float

    def holds(self, value: float) -> bool:
        """`value`: the number called `name` now."""
        return COMPARE[self.sign](value, self.bound)


def parse_stop(text: str) -> Rule:
    """Raises ConfigError for what is no rule."""
    match = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+.\deE]+)\s*", text)
    if match is None:
        raise ConfigError(f"--stop-when {text}: expected a number of the evaluation, a comparison, a bound: forget_probability<0.05")
    name, sign, bound = match.groups()
    if name not in NUMBERS:
        raise ConfigError(f"--stop-when {text}: {name} is unknown{nearest(name, NUMBERS)}")
    try:
        limit = float(bound)
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit):
        raise ConfigError(f"--stop-when {text}: {bound!r} is no finite number")
    return Rule(text, name, sign, limit)
