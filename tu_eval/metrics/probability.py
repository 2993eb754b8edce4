"""Probability of an answer, alone and against wrong options. Source: TOFU (arXiv 2401.06121), section 2.2.1."""

from __future__ import annotations

import math
from collections.abc import Sequence


def probability(logprob: Sequence[float]) -> float:
    """P = exp(mean of the target tokens' log-probabilities), 0 to 1. `logprob`: [tokens], nats, not empty."""
    return math.exp(mean_logprob(logprob))


def mean_logprob(logprob: Sequence[float]) -> float:
    """Mean of [tokens] log-probabilities, summed without rounding (fsum)."""
    return math.fsum(logprob) / len(logprob)


def probability_with_options(right: float, wrong: Sequence[float]) -> float:
    """P(right) / (P(right) + Σ P(wrong)), 0 to 1, from mean log-probabilities `right` and `wrong` [options].

    A softmax over the options: the largest is taken out before exponentials, so that nothing underflows. If every
    option is impossible (−inf), they are equally likely.
    """
    top = max(right, *wrong)
    if top == -math.inf:
        return 1 / (1 + len(wrong))
    return math.exp(right - top) / math.fsum(math.exp(x - top) for x in (right, *wrong))
