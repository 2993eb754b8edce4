"""What numbers a setting may have: checked before any work, so that no library below has to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.errors import ConfigError

MANY = 2**31 - 1
"""of what is counted: rows, steps, tokens; products of two are below 2^63"""
SEED = 2**63 - 1
"""torch takes seeds below 2^64, TOML numbers below 2^63"""


@dataclass(frozen=True)
class Range:
    least: float = 0
    most: float | None = None
    above: bool = False
    """`least` itself is refused too"""
    expected: str = ""
    """in place of the bounds"""

    def lacks(self, value: float) -> str | None:
        """What was expected, for a value outside; None for one inside."""
        if isinstance(value, float) and not math.isfinite(value):
            return self.expected or "a finite number"
        if value < self.least or (self.above and value == self.least):
            lowest = f"at least {self.least:g}" if self.least else "0 or more"
            return self.expected or (f"more than {self.least:g}" if self.above else lowest)
        if self.most is not None and value > self.most:
            return self.expected or f"at most {self.most}"
        return None


COUNT, NONE_OR_MORE, ABOVE = Range(1, MANY), Range(0, MANY), Range(0, above=True)


def check_ranges(config: Any, ranges: Mapping[str, Range], flags: Mapping[str, str] | None = None) -> None:
    """Raises ConfigError for the first field outside of its range; None is no value. `flags`: how a field is called to the user."""
    for name, one in ranges.items():
        value = getattr(config, name)
        expected = None if value is None else one.lacks(value)
        if expected is not None:
            shown = f"a number of {value.bit_length()} bits" if isinstance(value, int) and abs(value) > SEED else value
            given = f"{flags[name]} {shown}:" if flags and name in flags else f"{name} is {shown},"
            raise ConfigError(f"{given} expected {expected}")
