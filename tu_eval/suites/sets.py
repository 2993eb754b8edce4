"""What a suite is: named sets of rows and what is measured on each, one of them the forget set; all others feed model
utility."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared.data.asides import is_aside

PARTS = ("probability", "rouge", "truth_ratio")
"""what each set other than forget adds to model utility"""


@dataclass(frozen=True, kw_only=True)
class EvalSet:
    name: str
    """first part of its metrics' names: forget, retain, ..."""
    data: str
    """data spec; rows have question, answer, perturbed_answer and, with `paraphrase`, paraphrased_answer"""
    options: bool = False
    """its probability is that of the right answer among the wrong ones; else that of the answer alone"""
    paraphrase: bool = False
    """truth ratios set the wrong answers against paraphrased_answer; else against answer"""
    facts: bool = False
    """rows have fact_spans, and the probability of the fact alone is reported"""
    generate: bool = True
    """greedy answers are written, for ROUGE"""


@dataclass(frozen=True)
class Suite:
    name: str
    sets: tuple[EvalSet, ...]
    holdout: str | None
    """data spec; only question and answer of its rows are used"""

    @property
    def utility_parts(self) -> list[str]:
        counted = [s for s in self.sets if s.name != "forget" and not is_aside(s.name, self.name)]
        return [f"{s.name}_{part}" for s in counted for part in PARTS if s.generate or part != "rouge"]


def lacks(sets: Sequence[EvalSet]) -> str | None:
    """What keeps sets from being a suite; None where they are one."""
    names = [s.name for s in sets]
    if names.count("forget") != 1 or len(set(names)) < len(names):
        return f"its sets are {', '.join(names)}; expected different names, one of them forget"
    if len(names) < 2:
        return "forget is its only set; add another, such as retain, that says what the model still can"
    return None
