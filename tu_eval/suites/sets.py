"""What a suite is: named sets of rows and what is measured on each, one of them the forget set; all others feed model
utility."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared.asides import is_aside
from shared.data.datasets import Row
from shared.errors import DataError

PARTS = ("probability", "rouge", "truth_ratio")
"""what each set other than forget adds to model utility"""


@dataclass(frozen=True, kw_only=True)
class EvalSet:
    """A set of rows of a suite, and what is measured on it."""

    name: str
    """first part of its metrics' names: forget, retain, ..."""
    data: str
    """data spec; rows have question, answer, perturbed_answer (`wrong`) and, with `paraphrase`, paraphrased_answer"""
    options: bool = False
    """its probability is that of the right answer among the wrong ones; else that of the answer alone"""
    paraphrase: bool = False
    """truth ratios set the wrong answers against paraphrased_answer; else against answer"""
    facts: bool = False
    """rows have fact_spans, and the probability of the fact alone is reported"""
    generate: bool = True
    """greedy answers are written, for ROUGE"""
    wrong: bool = True
    """rows have perturbed_answer; without wrong answers there is no truth ratio"""
    text: str | None = None
    """column of raw text, instead of question and answer: each piece is asked for its second half after its first"""

    @property
    def parts(self) -> list[str]:
        """What can be measured on it of PARTS."""
        there = {"rouge": self.generate, "truth_ratio": self.wrong}
        return [f"{self.name}_{part}" for part in PARTS if there.get(part, True)]

    cluster: str | None = None
    """column that says which rows are not independent of each other, such as that of an author; intervals are drawn
    over its values"""
    cluster_rows: int | None = None
    """or: so many rows in a row are about one thing"""

    def cluster_of(self, row: Row) -> str | None:
        """None: the row is on its own. Raises DataError naming a row without the column."""
        if self.cluster is not None:
            if self.cluster not in row.extra:
                raise DataError(f"{row.id}: no column {self.cluster!r} (--cluster); --cluster rows takes each row for itself")
            return str(value) if (value := row.extra[self.cluster]) not in (None, "") else None
        return str(int(row.id.rpartition("/")[2]) // self.cluster_rows) if self.cluster_rows is not None else None


@dataclass(frozen=True)
class Suite:
    """Named sets of rows, one of them `forget`."""

    name: str
    sets: tuple[EvalSet, ...]
    holdout: str | None
    """data spec; only question and answer of its rows are used, or their `text` where the forget set has one"""

    @property
    def forget(self) -> EvalSet:
        """The set that should be forgotten."""
        return next(s for s in self.sets if s.name == "forget")

    @property
    def utility_parts(self) -> list[str]:
        """Names of the numbers of which model utility is the harmonic mean, as in retain_rouge."""
        return [part for s in self.sets if s.name != "forget" and not is_aside(s.name, self.name) for part in s.parts]


def wrong_form(part: EvalSet) -> str | None:
    """What does not go together in the description of a set; None where all does."""
    if part.options and not part.wrong:
        return f"set {part.name}: options sets the right answer against wrong ones, so it cannot be without them (wrong = false)"
    if part.text is not None and (part.wrong or part.options or part.paraphrase or part.facts):
        return f"set {part.name}: raw text has no wrong answers, paraphrases or facts; write wrong = false, and none of the others"
    return None


def lacks(sets: Sequence[EvalSet]) -> str | None:
    """What keeps sets from being a suite; None where they are one."""
    names = [s.name for s in sets]
    if names.count("forget") != 1 or len(set(names)) < len(names):
        return f"its sets are {', '.join(names)}; expected different names, one of them forget"
    if len(names) < 2:
        return "forget is its only set; add another, such as retain, that says what the model still can"
    if wrong := next(filter(None, map(wrong_form, sets)), None):
        return wrong
    return None
