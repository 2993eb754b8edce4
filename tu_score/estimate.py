"""`tu-score run --dry-run`: what a run would cost, said before it begins.

It plans as the run does and scores a few rows; it writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from shared.budget import within_budget
from shared.console import duration, readable_bytes
from shared.data.examples import Example
from shared.files.storage import open_place
from shared.lm.models import context_length
from shared.store.parts import encode, schema
from shared.store.writer import refuse_foreign
from tu_score.config import ScoreConfig
from tu_score.run import about, add_base, part_table, prepare
from tu_score.signals import add_importance, add_words, score_examples
from tu_score.spans import Masking, plan_masking
from tu_score.workers import open_one

TIMED_ROWS = 8
"""evenly spaced; those whose duration and bytes stand for all"""


@dataclass(frozen=True)
class RunEstimate:
    """What a run holds (counted) and takes (from a few rows)."""

    rows: int
    tokens: int
    variants: int
    reads: int
    """tokens of all requests, before sharing: examples, masked variants, and the base model's pass"""
    parts: int
    disk_bytes: float
    seconds: float
    timed: str
    unmasked: str = ""
    """what masking would add, where the recipe reads none of it"""

    def lines(self) -> list[str]:
        return [
            f"rows             {self.rows:,}",
            f"tokens           {self.tokens:,}",
            f"masked variants  {self.variants:,} ({self.reads:,} tokens to read in all, before sharing{self.unmasked})",
            f"on disk          about {readable_bytes(self.disk_bytes)} in {self.parts:,} part{'s' if self.parts > 1 else ''}",
            f"duration         about {duration(self.seconds)} ({self.timed})",
        ]


def estimate(config: ScoreConfig, *, check_out: bool) -> RunEstimate:
    """Raises what the run itself would raise before its first part; `check_out`: for its output too."""
    if check_out:
        refuse_foreign(open_place(config.out))
    folder, tokenizer, examples = prepare(config)
    masking = plan_masking(config, tokenizer, examples, context_length(folder))
    chosen = [examples[i] for i in sorted({int(i) for i in np.linspace(0, len(examples) - 1, TIMED_ROWS)})]
    with closing(open_one(config, folder)) as engine:
        score_examples(chosen[:1], engine, config, masking, lambda tokens: None)  # the first pass pays for much that no other does
        start = time.perf_counter()
        scored = score_examples(chosen, engine, config, masking, lambda tokens: None)
        seconds, engine_about = time.perf_counter() - start, about(engine)
    add_words(scored, chosen, tokenizer)
    for example, columns in zip(chosen, scored, strict=True):
        add_base(
            columns, example, None if config.base_model is None else {e.id: (columns["logprob"], columns["entropy"]) for e in [example]}
        )
        add_importance(columns, example, config)
    table, columns = part_table(chosen, scored, config.optional), schema(config.optional)
    empty = len(encode(columns.empty_table(), columns))
    per_token = (len(encode(table, columns)) - empty) / tokens_of(chosen)
    base = config.base_model is not None
    reads, parts = work(examples, masking, base=base), len(within_budget([len(e.input_ids) for e in examples], config.part_tokens))
    rate = work(chosen, masking, base=False) / seconds
    shared = f", shared by {config.workers} workers" if config.workers > 1 else ""
    return RunEstimate(
        rows=len(examples), tokens=tokens_of(examples), variants=sum(map(len, masking.spans.values())), reads=reads, parts=parts,
        disk_bytes=parts * empty + per_token * tokens_of(examples), seconds=reads / rate / config.workers,
        unmasked=_would_add(config, tokenizer, examples, context_length(folder)),
        timed=f"{len(chosen)} rows timed: {rate:,.0f} tokens/s, {engine_about}{shared}; loading the model not counted",
    )  # fmt: skip


def _would_add(config: ScoreConfig, tokenizer: Any, examples: Sequence[Example], context: int | None) -> str:
    if config.spans != "none":
        return ""
    masking = plan_masking(replace(config, spans=config.useful_spans), tokenizer, examples, context)
    variants, more = sum(map(len, masking.spans.values())), work(examples, masking, base=False) - tokens_of(examples)
    return f"; --spans {config.useful_spans} would add {variants:,} and {more:,} tokens"


def tokens_of(examples: Sequence[Example]) -> int:
    return sum(len(e.input_ids) for e in examples)


def work(examples: Sequence[Example], masking: Masking, *, base: bool) -> int:
    return sum(map(masking.work, examples)) + (tokens_of(examples) if base else 0)
