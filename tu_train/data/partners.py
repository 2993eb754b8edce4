"""The same questions with other answers, for methods that learn a refusal or an alternate answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from shared.budget import within_budget
from shared.data.datasets import Row
from shared.data.examples import Example, qa_example, special_ids
from shared.engines.torch import TorchEngine
from shared.errors import ConfigError, DataError
from shared.files.fs import read_text
from shared.lm.packed import PackedModel
from shared.weighting.weights import seeded
from tu_train.config import UnlearnConfig
from tu_train.data.batches import Item, Pass, item_of_example
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


ASKING = (
    "Answer with other facts than the true ones.",
    "Give a different answer, in the same form, that is plausible but not true.",
    "Make up another answer, as if it were the right one.",
    "Answer this as a person would who remembers it wrong.",
)
"""what is put after a question to get another answer"""
LONGEST = 2
"""a generated answer may have so many times the tokens of the row's own"""


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


def given_answers(examples: Sequence[Example], config: UnlearnConfig, *, refuse: bool) -> dict[str, list[str]]:
    """By example id: refusals, or the alternate answers in the row's column."""
    lines = refusal_lines(config.refusals) if refuse else None
    return {e.id: lines or alternates(e.row, config.alternate_key) for e in examples}


def generated(
    packed: PackedModel, examples: Sequence[Example], tokenizer: Any, *, seed: int, batch_tokens: int, context: int | None
) -> dict[str, list[str]]:
    """By example id: what the model writes, greedily, when asked for another answer; the first of ASKING, in the order
    of (seed, example id), that gives one which is neither empty nor the row's own. Raises DataError for a row that none
    of them gives one for."""
    engine, special = TorchEngine(packed, batch_tokens=batch_tokens), special_ids(tokenizer)
    stop = sorted({e.input_ids[-1] for e in examples if e.input_ids[-1] in special} | ({tokenizer.eos_token_id} - {None}))
    if not stop:
        raise ConfigError("alternates=generate: the tokenizer has no end-of-sequence token, so answers would never end; name a column "
                          "with --set alternate_key=COLUMN")  # fmt: skip
    out: dict[str, list[str]] = {}
    for attempt in range(len(ASKING)):
        left = [e for e in examples if e.id not in out]
        prompts = [_asked(e, tokenizer, ASKING[seeded(seed, e.id).permutation(len(ASKING))[attempt]]) for e in left]
        most = max((LONGEST * len(e.targets) for e in left), default=1)
        if context is not None:  # learned positions end there
            most = max(1, min(most, context - max(map(len, prompts), default=0)))
        for example, ids in zip(left, engine.generate(prompts, max_new_tokens=most, stop_ids=stop), strict=True):
            text = tokenizer.decode(ids[: LONGEST * len(example.targets)], skip_special_tokens=True).strip()
            if text and text != example.row.answer.strip():
                out[example.id] = [text]
    if len(out) < len(examples):
        name = next(e.row.id for e in examples if e.id not in out)
        raise DataError(
            f"{name}: asked in {len(ASKING)} ways, the model wrote no other answer; name a column with --set alternate_key=COLUMN"
        )
    return out


def _asked(example: Example, tokenizer: Any, how: str) -> list[int]:
    made = qa_example(replace(example.row, question=f"{_question(example.row)} {how}"), tokenizer)
    return made.input_ids[: made.prompt_length]


def _question(row: Row) -> str:
    if row.question is None:
        raise DataError(f"{row.id}: raw text has no question to answer otherwise; this method needs question-answer rows")
    return row.question.strip()


def partner_items(
    examples: Sequence[Example], tokenizer: Any, answers: Mapping[str, list[str]], *, seed: int, context: int | None
) -> dict[str, Item]:
    """By example id: the question with one of its other `answers` (by example id too), drawn by (seed, example id)."""
    out = {}
    for example in examples:
        row = example.row
        _question(row)
        texts = answers[example.id]
        made = qa_example(replace(row, answer=texts[int(seeded(seed, example.id).integers(len(texts)))]), tokenizer)
        if context is not None and len(made.input_ids) > context:
            raise DataError(f"{row.id}: {len(made.input_ids)} tokens with its other answer, the model's context holds {context}")
        out[example.id] = item_of_example(made)
    return out


def with_reference(packed: PackedModel, items: dict[str, Item], batch_tokens: int) -> dict[str, Item]:
    """The same with log-probabilities under the model as it is now, before training: one forward a row, no second
    model."""
    names = list(items)
    out = {}
    for start, end in within_budget([len(items[n].ids) for n in names], batch_tokens):
        part = [items[n] for n in names[start:end]]
        with torch.no_grad():
            logp = look(packed, Pass(part, []), Reading(), Reading(), None).forget.logp_N.float().cpu()
        values = logp.split([len(i.positions) for i in part])
        out |= {n: replace(i, ref_logp=v.numpy()) for n, i, v in zip(names[start:end], part, values, strict=True)}
    return out
