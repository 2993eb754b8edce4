"""`tu-eval ask`: greedy and drawn answers of one or two models. The question is laid out as a row of data is: by the
chat template, with its system prompt. One model is in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.data.datasets import Row
from shared.data.examples import qa_example
from shared.data.layout import say_layout
from shared.engines.torch import TorchEngine
from shared.errors import ConfigError, DataError, printable
from shared.lm import models
from tu_eval.measure.ask_config import AskConfig
from tu_eval.measure.drawing import ToDraw, draws
from tu_eval.measure.finish import default_label
from tu_eval.measure.model_folder import find_model
from tu_eval.measure.pieces import stop_ids


@dataclass(frozen=True)
class ModelAnswers:
    """What one model says."""

    label: str
    texts: list[str]
    """the greedy answer, then those drawn"""


@dataclass(frozen=True)
class Put:
    """A question as one model reads it."""

    folder: Path
    tokenizer: Any
    prompt: list[int]
    room: int
    """tokens that an answer may take"""
    stop: list[int]

    def answers(self, config: AskConfig) -> list[str]:
        engine = TorchEngine.load(self.folder, dtype=config.dtype, device=config.device)
        made = engine.generate([self.prompt], max_new_tokens=[self.room], stop_ids=self.stop)
        wanted = [ToDraw("ask", self.prompt, self.room)]
        made += next(draws(engine, wanted, config.samples, config.temperature, self.stop, config.seed))
        engine.close()
        return [self.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in made]


def ask(model: str, question: str, config: AskConfig) -> list[ModelAnswers]:
    """Raises UserError for every model before the first one is loaded."""
    if not question.strip():
        raise ConfigError('ask: the question is empty; expected tu-eval ask MODEL "QUESTION"')
    names = [model, *([config.beside] if config.beside is not None else [])]
    prepared = [_prepare(name, question, config) for name in names]
    labels = [default_label(name) for name in names]
    labels = names if len(set(labels)) < len(labels) else labels
    for name, one in zip(names, prepared, strict=True):
        say_layout(one.tokenizer, name)
    return [ModelAnswers(label, one.answers(config)) for label, one in zip(labels, prepared, strict=True)]


def _prepare(name: str, question: str, config: AskConfig) -> Put:
    folder = find_model(name)
    tokenizer = models.load_laid_out(name, folder, config)
    example = qa_example(Row("the question", question, "x"), tokenizer)  # the answer is not read
    prompt, context = example.input_ids[: example.targets[0]], models.context_length(folder)
    models.check_readable(folder, [prompt], what="the question")
    if context is not None and len(prompt) >= context:
        raise DataError(f"{name}: the question has {len(prompt)} tokens as it is put, but the model's context holds {context}")
    room = config.max_new_tokens if context is None else min(config.max_new_tokens, context - len(prompt))
    return Put(folder, tokenizer, prompt, room, stop_ids(tokenizer, [example]))


def shown(answers: Sequence[ModelAnswers]) -> list[list[str]]:
    """One line a way of answering, and the answer of each model."""
    ways = ["greedy", *(f"drawn {number}" for number in range(1, len(answers[0].texts)))]
    return [[way, *(one.texts[k] for one in answers)] for k, way in enumerate(ways)]


def print_answers(answers: Sequence[ModelAnswers]) -> None:
    """On stdout: a table on a terminal, elsewhere a line an answer, with the model and the way before it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        for way, *texts in shown(answers):
            for one, text in zip(answers, texts, strict=True):
                print(f"{printable(one.label)}\t{way}\t{printable(text)}")
        return
    table = Table("", show_lines=True)
    for one in answers:
        table.add_column(Text(printable(one.label)))
    for way, *texts in shown(answers):
        table.add_row(way, *(Text("\n".join(map(printable, text.split("\n")))) for text in texts))
    console.print(table)
