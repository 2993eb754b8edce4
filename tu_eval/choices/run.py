"""Multiple-choice accuracy on any rows of {question, choices, answer}: each choice is scored as an answer to the
question.

The choice with the largest sum of log-probabilities is the model's (`accuracy`), and so is, with its length taken out,
the one with the largest sum divided by the number of its characters (`accuracy_norm`), as lm-eval's acc and acc_norm
do. The token that ends the turn counts in neither; of equal choices the first is taken. A question and all its choices
are one tree of the forest. Cost: one forward pass.

    choices.json    both accuracies with their standard errors, and what they belong to
    rows.parquet    log-probability and length of each choice, and the choices taken
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from shared.console import number_of, progress, say
from shared.data.datasets import Keys, Row, load_rows
from shared.data.examples import Example, data_fingerprint, make_examples
from shared.data.layout import say_layout
from shared.engines.interface import Request
from shared.engines.torch import TorchEngine
from shared.errors import DataError, ModelError, nearest
from shared.files.outputs import claims
from shared.files.shape import Count, Named
from shared.lm import models
from tu_eval.choices.config import ChoicesConfig
from tu_eval.measure.model_folder import find_model
from tu_eval.results.folder import ROWS, FolderKind, write_folder
from tu_eval.suites.variants import answer_length

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True)
class Question:
    """One row of the data."""

    id: str
    question: str
    choices: list[str]
    answer: int
    """place of the right choice"""
    extra: dict[str, Any] = field(default_factory=dict)
    """the row's other columns"""


@claims("the numbers of one evaluation")
def evaluate_choices(config: ChoicesConfig) -> dict[str, Any]:
    """Writes the folder and returns what choices.json holds. Raises UserError before the model is loaded for everything
    that cannot fit."""
    out = Path(config.out)
    folder = find_model(config.model)
    models.choose_device(config.device)
    tokenizer, context = models.load_laid_out(config.model, folder, config), models.context_length(folder)
    questions = read_questions(config)
    examples = tokenised(questions, tokenizer, context, config.long)
    kept = [q for q in questions if q.id in examples]
    if len(kept) < len(questions):
        left_out = number_of(len(questions) - len(kept), "question")
        say(f"{left_out} left out, longer than the model's context of {context} tokens (--long skip)")
    say_layout(tokenizer, config.model)
    say(f"asking {config.model} {number_of(len(kept), 'question')} with {number_of(sum(len(q.choices) for q in kept), 'choice')}")
    engine = TorchEngine.load(folder, dtype=config.dtype, device=config.device, batch_tokens=config.batch_tokens)
    rows = score_choices(engine, kept, examples, tokenizer)
    about = {
        "model": config.model,
        "model_fingerprint": models.model_fingerprint(folder),
        "tokenizer_fingerprint": models.tokenizer_fingerprint(tokenizer),
        "template_fingerprint": models.template_fingerprint(tokenizer),
        "data": config.data,
        "data_fingerprint": data_fingerprint(e for q in kept for e in examples[q.id]),
        "engine": engine.describe(),
        "questions": len(kept),
        "skipped": len(questions) - len(kept),
        "chance": math.fsum(1 / len(q.choices) for q in kept) / len(kept),
        "metrics": accuracies(rows),
    }
    engine.close()
    return write_folder(out, CHOICES_FOLDER, about, {ROWS: (schema(), rows)}, config)


def fingerprint(config: ChoicesConfig) -> str:
    """Of the questions that would be asked now, as `data_fingerprint` of choices.json."""
    folder = find_model(config.model)
    tokenizer, questions = models.load_laid_out(config.model, folder, config), read_questions(config)
    examples = tokenised(questions, tokenizer, models.context_length(folder), config.long)
    return data_fingerprint(e for q in questions if q.id in examples for e in examples[q.id])


def read_questions(config: ChoicesConfig) -> list[Question]:
    """Raises DataError naming the row and the column that is wrong."""
    # Read as rows of text, whose text is the question: what `answer` holds is checked here.
    try:
        rows = load_rows(config.data, keys=Keys(text=config.question_key), limit=config.limit)
    except DataError as error:
        raise DataError(str(error).replace("see --text-key", "see --set question_key")) from None
    return [_question(row, config) for row in rows]


def _question(row: Row, config: ChoicesConfig) -> Question:
    for key in (config.choices_key, config.answer_key):
        if key not in row.extra:
            raise DataError(f"{row.id}: no key {key!r}{nearest(key, row.extra)}; see --set choices_key and --set answer_key")
    choices, answer = row.extra[config.choices_key], row.extra[config.answer_key]
    if not isinstance(choices, Sequence) or isinstance(choices, str) or len(choices) < 2:
        raise DataError(f"{row.id}: its {config.choices_key} is not a list of at least two texts")
    for number, choice in enumerate(choices):
        if not isinstance(choice, str) or not choice.strip():
            raise DataError(f"{row.id}: choice {number} is empty or not text")
    texts = [choice.strip() for choice in choices]
    if len(set(texts)) < len(texts):
        raise DataError(f"{row.id}: two of its choices are the same, so that its answer cannot be told")
    return Question(row.id, row.answer, texts, _place(row.id, answer, texts), row.extra)


def _place(name: str, answer: Any, choices: Sequence[str]) -> int:
    """A place, a choice's own text, or a letter; in this order, for a text may be a letter."""
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    if isinstance(answer, str):
        text = answer.strip()
        if text in choices:
            return choices.index(text)
        # The same text may be written with composed letters or with marks; a letter may be a wide one, as East Asian
        # data has them.
        composed = [normalize("NFC", choice) for choice in choices]
        if normalize("NFC", text) in composed:
            return composed.index(normalize("NFC", text))
        letter = normalize("NFKC", text).upper()
        if len(letter) == 1 and 0 <= ord(letter) - ord("A") < len(choices):
            return ord(letter) - ord("A")
    raise DataError(f"{name}: its answer is none of its {len(choices)} choices; expected a place from 0, a letter from A, or a text")


def tokenised(questions: Sequence[Question], tokenizer: Any, context: int | None, long: str) -> dict[str, list[Example]]:
    """By question id: an example a choice, in order. A question of which one is too long is left out, or refused."""
    rows = [Row(f"{q.id}+choice{k}", q.question, choice, q.extra) for q in questions for k, choice in enumerate(q.choices)]
    made = {e.id: e for e in make_examples(rows, tokenizer, context=context, long=long)}
    out = {q.id: [made.get(f"{q.id}+choice{k}") for k in range(len(q.choices))] for q in questions}
    whole = {name: [e for e in examples if e is not None] for name, examples in out.items() if None not in examples}
    if not whole:
        raise DataError("no question is left: every one was skipped as longer than the model's context (see --long)")
    return whole


def score_choices(
    engine: TorchEngine, questions: Sequence[Question], examples: dict[str, list[Example]], tokenizer: Any
) -> list[dict[str, Any]]:
    """A row a question. Raises ModelError where the model gives no number."""
    flat = [e for q in questions for e in examples[q.id]]
    requests = [Request(e.input_ids, e.targets[: answer_length(e, tokenizer)]) for e in flat]
    with progress("scoring choices", sum(len(e.input_ids) for e in flat), "tokens") as bar:
        scores = iter(engine.score(requests, bar.advance))
    rows = []
    for q in questions:
        logprobs = [math.fsum(next(scores).logprob.tolist()) for _ in q.choices]
        if any(math.isnan(x) for x in logprobs):
            raise ModelError(f"the model gives no number for {q.id} (NaN): its weights are damaged, or --dtype is too narrow")
        lengths = [len(choice) for choice in q.choices]
        norms = [x / n for x, n in zip(logprobs, lengths, strict=True)]
        taken = {"picked": logprobs.index(max(logprobs)), "picked_norm": norms.index(max(norms))}
        rows.append({"example_id": q.id, "logprobs": logprobs, "characters": lengths, "answer": q.answer, **taken})
    return rows


def accuracies(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Share of questions answered rightly, by each rule, and its standard error √(p(1−p)/(n−1)); none for one
    question."""
    out, n = {}, len(rows)
    for name, column in (("accuracy", "picked"), ("accuracy_norm", "picked_norm")):
        p = sum(row[column] == row["answer"] for row in rows) / n
        out |= {name: p, f"{name}_stderr": math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else None}
    return out


def schema() -> pyarrow.Schema:
    """`logprobs` of each choice in nats, `characters` its length; `answer`, `picked` and `picked_norm` are places from
    0."""
    import pyarrow as pa

    count = pa.int32()
    columns = [("example_id", pa.string()), ("logprobs", pa.list_(pa.float64())), ("characters", pa.list_(count))]
    return pa.schema([*columns, ("answer", count), ("picked", count), ("picked_norm", count)])


CHOICES_FOLDER = FolderKind("choices.json", "tu-eval choices", {"metrics": Named((float, None)), "questions": Count()}, columns=schema)
