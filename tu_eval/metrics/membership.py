"""Membership scores of one answer: the lower, the more the model treats it as text that it was trained on.

The gradient norm needs the model itself and is computed where the model is (tu_eval/measure/pieces.py). `logprob` is
that of the answer's target tokens, natural logarithms; loss, zlib and reference take the end-of-turn token along, the
two Min-K scores leave it out (OpenUnlearning).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

from tu_eval.metrics.probability import mean_logprob

K = 0.4
"""share of the positions that the Min-K scores look at"""
LEAST_VARIANCE = 1e-6
"""a position that is all but certain would divide by zero"""


def loss(logprob: Sequence[float]) -> float:
    """Mean negative log-probability, nats a token (Yeom et al. 2018)."""
    return -mean_logprob(logprob)


def zlib_ratio(logprob: Sequence[float], text: str) -> float:
    """Loss over the bytes of the compressed answer (Carlini et al. 2021, arXiv 2012.07805): what is simple anyway
    proves little."""
    return loss(logprob) / len(zlib.compress(text.encode("utf-8")))


def reference_difference(own: float, reference: float) -> float:
    """Loss less that of a model which never saw the text (Carlini et al. 2021)."""
    return own - reference


def min_k(logprob: Sequence[float], k: float = K) -> float:
    """Negative mean of the lowest k of the log-probabilities (Shi et al. 2023, arXiv 2310.16789); at least one of
    them."""
    return -_lowest(logprob, k)


def min_k_plus(logprob: Sequence[float], entropy: Sequence[float], second: Sequence[float], k: float = K) -> float:
    """The same of z-scores (log p(token) − μ) / σ, with mean and deviation of log p under p itself (Zhang et al. 2024,
    arXiv 2404.02936).

    `entropy` = −μ and `second` = Σ p · (log p)², both [positions].
    """
    scores = []
    for own, h, moment in zip(logprob, entropy, second, strict=True):
        scores.append((own + h) / math.sqrt(max(moment - h * h, LEAST_VARIANCE)))
    return -_lowest(scores, k)


def _lowest(values: Sequence[float], k: float) -> float:
    chosen = sorted(values)[: max(1, int(k * len(values)))]
    return math.fsum(chosen) / len(chosen)
