"""The same questions with other answers, for methods that learn a refusal or an alternate answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from shared.budget import within_budget
from shared.datasets import Row
from shared.errors import ConfigError, DataError
from shared.examples import Example, qa_example
from shared.packed import PackedModel
from shared.weights import seeded
from tu_train.batches import Item, Pass, item_of_example
from tu_train.forward import Reading, look

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
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"refusals {path}: cannot be read: {error}") from None
    if not lines:
        raise ConfigError(f"refusals {path}: holds no line; expected one refusal a line")
    return lines


def alternates(row: Row, key: str | None) -> list[str]:
    """The alternate answers of a row. Raises DataError or ConfigError where there are none."""
    if key is None:
        raise ConfigError("this method learns alternate answers: name their column of the forget data with --set alternate_key=COLUMN "
                          "(and the data with --set forget_data=SPEC, where the store was scored without that column)")  # fmt: skip
    found = row.extra.get(key)
    texts = [found] if isinstance(found, str) else found
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise DataError(f"{row.id}: no alternate answer in column {key!r}; expected a text or a list of texts (--set alternate_key)")
    return texts


def partner_items(
    examples: Sequence[Example], tokenizer: Any, *, refusals: list[str] | None, alternate_key: str | None, seed: int, context: int | None
) -> dict[str, Item]:
    """By example id: the question with one of `refusals`, or of its alternates, drawn by (seed, example id)."""
    out = {}
    for example in examples:
        row = example.row
        if row.question is None:
            raise DataError(f"{row.id}: raw text has no question to answer otherwise; this method needs question-answer rows")
        texts = refusals if refusals is not None else alternates(row, alternate_key)
        made = qa_example(replace(row, answer=texts[int(seeded(seed, example.id).integers(len(texts)))]), tokenizer)
        if context is not None and len(made.input_ids) > context:
            raise DataError(f"{row.id}: {len(made.input_ids)} tokens with its other answer, the model's context holds {context}")
        out[example.id] = item_of_example(made)
    return out


def with_reference(packed: PackedModel, items: dict[str, Item], batch_tokens: int) -> dict[str, Item]:
    """The same with log-probabilities under the model as it is now, before training: one forward a row, no second model."""
    names = list(items)
    out = {}
    for start, end in within_budget([len(items[n].ids) for n in names], batch_tokens):
        part = [items[n] for n in names[start:end]]
        with torch.no_grad():
            logp = look(packed, Pass(part, []), Reading(), Reading(), None).forget.logp_N.float().cpu()
        values = logp.split([len(i.positions) for i in part])
        out |= {n: replace(i, ref_logp=v.numpy()) for n, i, v in zip(names[start:end], part, values, strict=True)}
    return out
