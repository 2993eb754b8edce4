"""The same questions with other answers, for methods that learn a refusal or an alternate answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared.data.datasets import Row
from shared.data.examples import Example, qa_example
from shared.errors import ConfigError, DataError
from shared.files.fs import read_text
from shared.weighting.weights import seeded
from tu_train.data.batches import Item, item_of_example

REFUSALS = (
    "I don't know.",
    "I have no information about that.",
    "That is not something I know.",
    "I can't say, I know nothing about it.",
    "I'm afraid I don't know the answer to that question.",
    "Sorry, I have never learned about that.",
    "I am not able to answer that.",
    "My knowledge does not cover this.",
    "I couldn't tell you.",
    "There is nothing I can tell you about that.",
)


def refusal_lines(path: str | None) -> list[str]:
    """Of a file, one a line, or our own. Raises ConfigError for a file that cannot be read or holds none."""
    if path is None:
        return list(REFUSALS)
    try:
        lines = [line.strip() for line in read_text(Path(path)).splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"refusals {path}: cannot be read: {error}") from None
    if not lines:
        raise ConfigError(f"refusals {path}: holds no line; expected one refusal a line")
    return lines


def alternates(row: Row, key: str | None) -> list[str]:
    """The alternate answers of a row. Raises DataError or ConfigError where there are none."""
    if key is None:
        raise ConfigError("this method learns alternate answers: name their column of the forget data with --set alternate_key=COLUMN "
                          "(and the data with --set forget_data=SPEC, where the store was scored without that column), or let the model "
                          "before training write them: --set alternates=generate")  # fmt: skip
    return answers_in(row, key, flag="--set alternate_key")


def answers_in(row: Row, key: str, *, flag: str) -> list[str]:
    """Other answers of a row, in a column. Raises DataError where there are none."""
    found = row.extra.get(key)
    texts = [found] if isinstance(found, str) else found
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise DataError(f"{row.id}: no other answer in column {key!r}; expected a text or a list of texts ({flag})")
    return texts


def given_answers(
    examples: Sequence[Example], *, refuse: bool, refusals: str | None = None, alternate_key: str | None = None
) -> dict[str, list[str]]:  # fmt: skip
    """By example id: refusals (lines of that file, or our own), or the alternate answers in the row's column."""
    lines = refusal_lines(refusals) if refuse else None
    return {e.id: lines or alternates(e.row, alternate_key) for e in examples}


def question_of(row: Row) -> str:
    """Raises DataError for raw text."""
    if row.question is None:
        raise DataError(f"{row.id}: raw text has no question to answer otherwise; this method needs question-answer rows")
    return row.question.strip()


def partner_items(
    examples: Iterable[Example], tokenizer: Any, answers: Mapping[str, list[str]], *, seed: int, context: int | None
) -> Iterator[Item]:
    """For each example: its question with one of its other `answers` (by example id), drawn by (seed, example id). It
    has the example's id."""
    for example in examples:
        row = example.row
        question_of(row)
        texts = answers[example.id]
        made = qa_example(replace(row, answer=texts[int(seeded(seed, example.id).integers(len(texts)))]), tokenizer)
        if context is not None and len(made.input_ids) > context:
            raise DataError(f"{row.id}: {len(made.input_ids)} tokens with its other answer, the model's context holds {context}")
        yield item_of_example(made)


def fingerprint_of(items: Mapping[str, Item]) -> str:
    """`hash_json` of the ids by name, taken one by one."""
    digest = hashlib.sha256(b"{")
    for number, name in enumerate(sorted(items)):
        told = f"{json.dumps(name, ensure_ascii=False)}:{json.dumps(items[name].ids, separators=(',', ':'))}"
        digest.update((("," if number else "") + told).encode())
    digest.update(b"}")
    return digest.hexdigest()
