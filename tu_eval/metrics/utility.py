"""Model utility: what the model still knows and can do, in one number. Source: TOFU (arXiv 2401.06121), section
2.2.1."""

from __future__ import annotations

import math
from collections.abc import Mapping


def model_utility(parts: Mapping[str, float]) -> float:
    """Harmonic mean of the parts (each 0 to 1, not empty), so that one lost ability cannot be made up for; 0 if any
    part is 0."""
    if not parts:
        raise ValueError("model utility needs at least one part")
    if any(value <= 0 for value in parts.values()):
        return 0.0
    return len(parts) / math.fsum(1 / value for value in parts.values())
