"""Which metric can be trusted? The meta-evaluation of OpenUnlearning (arXiv 2506.12618).

A metric m says how much a model knows, larger for more. Faithful is one that tells models that have the knowledge from
models that never had it; robust is one that neither relearning nor quantisation brings up again where unlearning had
brought it down:

    faithfulness    AUC: share of pairs (with, without) in which m is larger for the model with the knowledge; ties half
    R               min((m_ret after − m_ret before) / (m_unl after − m_unl before), 1), by relearning
    Q               min(m_unl before / m_unl after, 1), by quantisation
    robustness      harmonic mean of R and Q
    overall         harmonic mean of faithfulness and robustness
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tu_eval.metrics.separation import auc

TINY = 1e-12
"""a change smaller than this is none"""


def faithfulness(known: Sequence[float], unknown: Sequence[float]) -> float:
    """0 to 1 from the values of [models with the knowledge] and [models without]; 0.5 is chance, 0 the wrong way
    round."""
    return auc([-x for x in known], [-x for x in unknown])


def relearning(retain: tuple[float, float], unlearned: tuple[float, float]) -> float:
    """R, 0 to 1, from (before, after) of the retain and the unlearned model. 1: the unlearned model gains no more than
    one that never knew; also where it gains nothing. Where it gains and the retain model does not: 0."""
    gain, theirs = unlearned[1] - unlearned[0], retain[1] - retain[0]
    if gain <= TINY:
        return 1.0
    return min(max(theirs, 0.0) / gain, 1.0)


def quantisation(before: float, after: float) -> float:
    """Q, 0 to 1, from m ≥ 0 of the unlearned model. 1: rounding brings nothing back; also where both are 0."""
    return 1.0 if after <= before + TINY else max(before, 0.0) / after


def harmonic(values: Sequence[float]) -> float:
    """0 as soon as one of them (each 0 to 1, not empty) is 0."""
    return 0.0 if min(values) <= 0 else len(values) / math.fsum(1 / v for v in values)
