"""Truth ratio: how likely wrong answers are next to the right one. Source: TOFU (arXiv 2401.06121), section 2.2.1, as
coded by its authors.

Everything is kept as log R, because R itself can leave the range of a float.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def log_truth_ratio(right: float, wrong: Sequence[float]) -> float:
    """log R = mean_i log P(wrong_i) − log P(right), from mean log-probabilities; `wrong`: [options], not empty.

    R is the geometric mean of the wrong answers' probabilities over the right answer's. +inf when the right answer
    alone is impossible; 0 (R = 1) when both sides are, since neither is then preferred.
    """
    mean_wrong = math.fsum(wrong) / len(wrong)
    return 0.0 if right == mean_wrong else mean_wrong - right


def truth_ratio(log_ratio: float) -> float:
    """R = exp(log R); inf beyond the range of a float."""
    try:
        return math.exp(log_ratio)
    except OverflowError:
        return math.inf


def forget_truth_ratio(log_ratios: Sequence[float]) -> float:
    """mean of min(R, 1/R), 0 to 1: 1 where the model cannot tell right from wrong. `log_ratios`: [rows]."""
    return math.fsum(math.exp(-abs(x)) for x in log_ratios) / len(log_ratios)


def utility_truth_ratio(log_ratios: Sequence[float]) -> float:
    """mean of max(0, 1 − R), 0 to 1: 1 where wrong answers are impossible. `log_ratios`: [rows]."""
    return math.fsum(-math.expm1(min(x, 0.0)) for x in log_ratios) / len(log_ratios)


def truth_ratio_share(log_ratios: Sequence[float]) -> float:
    """mean of p_right / (p_right + p_wrong) = 1 / (1 + R), 0 to 1, p_wrong the geometric mean of the wrong answers:
    0.5 where the model cannot tell, 1 where it knows. `log_ratios`: [rows]."""
    return math.fsum(math.exp(-x) / (1 + math.exp(-x)) if x >= 0 else 1 / (1 + math.exp(x)) for x in log_ratios) / len(log_ratios)
