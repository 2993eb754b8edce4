"""Rows -> the variants of an answer that are scored together: the answer, the right answer of the truth ratio, the
wrong answers.

All variants of a row share its question, so the engine computes that prefix once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shared.data.datasets import Row, load_rows
from shared.data.examples import Example, answer_span_tokens, make_examples, special_ids
from shared.errors import DataError
from shared.secret import without_secrets
from shared.store.scored import row_spans
from tu_eval.suites.sets import EvalSet


@dataclass(frozen=True)
class Variants:
    """The examples of one row of a set."""

    answer: Example
    right: Example
    """of the truth ratio: the paraphrase, or `answer` itself"""
    wrong: list[Example]
    fact_tokens: list[int]
    """token positions of the fact in `answer`; empty where the set has no spans or truncation cut them off"""

    @property
    def examples(self) -> list[Example]:
        return [self.answer, *([] if self.right is self.answer else [self.right]), *self.wrong]


def load_holdout(spec: str, tokenizer: Any, *, context: int | None, limit: int | None) -> list[Example]:
    """Rows beside the suite's own sets. Those beyond the model's context are left out, as nothing else depends on
    them."""
    return make_examples(load_rows(spec, limit=limit), tokenizer, context=context, long="skip")


def answer_length(example: Example, tokenizer: Any) -> int:
    """Target tokens of an answer without the one that ends the turn; at least 1. A truncated answer has no such
    token."""
    targets = example.targets
    return len(targets) - (len(targets) > 1 and example.input_ids[targets[-1]] in special_ids(tokenizer))


def load_variants(part: EvalSet, tokenizer: Any, *, context: int | None, long: str, limit: int | None) -> tuple[list[Variants], int]:
    """-> the rows of a set in order, and how many `long="skip"` left out. Raises DataError naming the row that cannot
    be used."""
    rows = load_rows(part.data, limit=limit)
    forms = [_forms(row, part) for row in rows]
    made = {e.id: e for e in make_examples([f for form in forms for f in form], tokenizer, context=context, long=long)}
    kept = [form for form in forms if all(f.id in made for f in form)]
    if not kept:
        raise DataError(
            f"data {without_secrets(part.data)}: no row is left: every one was skipped as longer than the model's context (see --long)"
        )
    out = []
    for answer, *others in kept:
        example = made[answer.id]
        right, wrong = (made[others[0].id], others[1:]) if part.paraphrase else (example, others)
        facts = answer_span_tokens(example, tokenizer, fact_spans(answer)) if part.facts else []
        out.append(Variants(example, right, [made[f.id] for f in wrong], facts))
    return out, len(rows) - len(kept)


def fact_spans(row: Row) -> list[tuple[int, int]]:
    """The marked facts of a row of a set with `facts`: [start, end) characters of the answer. Raises DataError naming
    the row."""
    return row_spans(row, "fact_spans", missing="add it, or take `facts = true` out of the suite's set")


def _forms(row: Row, part: EvalSet) -> list[Row]:
    """The row with each of its answers: gold, paraphrase (if the set uses it), wrong ones."""
    wrong = _column(row, "perturbed_answer", part)
    if not isinstance(wrong, Sequence) or isinstance(wrong, str) or not wrong:
        raise DataError(f"{row.id}: its perturbed_answer is not a list of wrong answers")
    right = [_column(row, "paraphrased_answer", part)] if part.paraphrase else []
    return [row, *_renamed(row, "right", right), *_renamed(row, "wrong", wrong)]


def _renamed(row: Row, kind: str, answers: Sequence[Any]) -> Iterator[Row]:
    extra = {"system": row.extra["system"]} if "system" in row.extra else {}  # the same question is asked in the same way
    for number, answer in enumerate(answers):
        name = f"{row.id}+{kind}{number}"
        if not isinstance(answer, str):
            raise DataError(f"{name}: expected text, got {type(answer).__name__}")
        yield replace(row, id=name, answer=answer, extra=extra)


def _column(row: Row, name: str, part: EvalSet) -> Any:
    if name not in row.extra:
        raise DataError(f"{row.id}: no {name}; the suite needs the set {without_secrets(part.data)} with paraphrased and wrong answers")
    return row.extra[name]
