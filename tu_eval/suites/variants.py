"""Rows -> the variants of an answer that are scored together: the answer, the right answer of the truth ratio, the
wrong answers.

All variants of a row share its question, so the engine computes that prefix once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shared.data.datasets import Keys, Row, load_rows
from shared.data.examples import Example, answer_offsets, answer_span_tokens, make_examples, offsets_of, special_ids, text_examples
from shared.data.placed import place
from shared.errors import DataError
from shared.secret import without_secrets
from shared.store.scored import row_spans
from tu_eval.suites.sets import EvalSet

TEXT_LENGTH = 256
"""tokens of a piece of raw text: MUSE's 128 of a continuation, after as many"""
LEAST_TEXT = 8
"""tokens of a piece that has anything to continue"""


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


def load_holdout(spec: str, tokenizer: Any, *, context: int | None, limit: int | None, text: str | None = None) -> list[Example]:
    """Rows beside the suite's own sets, raw text in the column `text` as in its forget set. Those beyond the model's
    context are left out, as nothing else depends on them."""
    if text is not None:
        return load_halves(spec, text, tokenizer, context=context, limit=limit)
    return make_examples(load_rows(spec, limit=limit), tokenizer, context=context, long="skip")


def answer_length(example: Example, tokenizer: Any) -> int:
    """Target tokens of an answer without the one that ends the turn; at least 1. A truncated answer has no such
    token."""
    targets = example.targets
    return len(targets) - (len(targets) > 1 and example.input_ids[targets[-1]] in special_ids(tokenizer))


def load_variants(part: EvalSet, tokenizer: Any, *, context: int | None, long: str, limit: int | None) -> tuple[list[Variants], int]:
    """-> the rows of a set in order, and how many `long="skip"` left out. Raises DataError naming the row that cannot
    be used."""
    if part.text is not None:
        halves = load_halves(part.data, part.text, tokenizer, context=context, limit=limit)
        return [Variants(e, e, [], []) for e in halves], 0
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


def load_halves(spec: str, column: str, tokenizer: Any, *, context: int | None, limit: int | None) -> list[Example]:
    """Raw text in pieces of TEXT_LENGTH tokens, or as many as the context holds: the first half is the question, and
    the tokens of the second are the targets. A rest of fewer than LEAST_TEXT tokens is left out."""
    length, out = min(TEXT_LENGTH, context or TEXT_LENGTH), []
    for row in load_rows(spec, keys=Keys(text=column), limit=limit):
        placed = place(row, tokenizer)
        pieces = list(text_examples(row, tokenizer, length))
        for piece in [p for p in pieces if len(p.input_ids) >= LEAST_TEXT] or pieces[:1]:
            half = _between_letters(offsets_of(piece, placed), len(piece.input_ids) // 2)
            first = replace(piece, is_target=[t and i < half for i, t in enumerate(piece.is_target)])
            rest = replace(piece, is_target=[t and i >= half for i, t in enumerate(piece.is_target)])
            begin, end = (answer_offsets(e, placed)[0] for e in (first, rest))
            out.append(replace(rest, row=replace(row, id=piece.id, question=begin, answer=end)))
    if not any(e.row.answer.strip() for e in out):
        raise DataError(f"data {without_secrets(spec)}: no text is long enough to be cut into a beginning and a rest")
    return [e for e in out if e.row.answer.strip()]


def _between_letters(offsets: Sequence[tuple[int, int]], half: int) -> int:
    """The first token from `half` on that begins no earlier than the one before it ends: a letter may be over several
    tokens."""
    return next((i for i in range(half, len(offsets)) if offsets[i][0] >= offsets[i - 1][1]), half)


def fact_spans(row: Row) -> list[tuple[int, int]]:
    """The marked facts of a row of a set with `facts`: [start, end) characters of the answer. Raises DataError naming
    the row."""
    return row_spans(row, "fact_spans", missing="add it, or take `facts = true` out of the suite's set")


def _forms(row: Row, part: EvalSet) -> list[Row]:
    """The row with each of its answers: gold, paraphrase (if the set uses it), wrong ones."""
    wrong = _column(row, "perturbed_answer", part) if part.wrong else []
    if part.wrong and (not isinstance(wrong, Sequence) or isinstance(wrong, str) or not wrong):
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
