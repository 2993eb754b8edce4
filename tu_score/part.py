"""One part: rows -> the columns of the store. Its bytes depend on its rows and the run's settings alone, so anybody may
make it, in any order."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shared.data.datasets import Row
from shared.data.examples import Example, Memo
from shared.engines.interface import Engine
from shared.engines.open import open_engine
from shared.errors import ConfigError
from shared.extensions import identity, load
from shared.lm.logprobs import HeadOptions
from shared.store.parts import schema
from tu_score.config import PLANS, SPAN_PLAN, ScoreConfig
from tu_score.count import BaseLimits, noticed
from tu_score.signals import add_importance, add_words, nullable, optional_columns, score_examples
from tu_score.source import Source
from tu_score.spans import plan_masking

Advance = Callable[[int], None]
BaseSignals = Sequence[tuple[str, np.ndarray, np.ndarray]]
"""example id, log-probability and entropy under the base model, [T] each, for the examples of a part in order"""


Task = tuple[int, Sequence[Row], BaseSignals | None]
"""index, rows, and what the base model says of their examples"""


Scored = tuple[pa.Table, dict[str, int]]
"""the part, and what was left out of it or cut"""


def codes_of(config: ScoreConfig) -> dict[str, str | None]:
    """Where span plan and signals come from that are not the package's own, or are its learned numbers."""
    return {"spans": identity(SPAN_PLAN, config.spans), **config.recipe.codes()}


def open_one(config: ScoreConfig, folder: Path) -> Engine:
    head = HeadOptions(config.head_mib, temperature=config.temperature, top_k=config.topk)
    return open_engine(
        config.engine, folder, dtype=config.dtype, device=config.device, batch_tokens=config.batch_tokens, head=head,
        tensor_parallel=config.tensor_parallel,
    )  # fmt: skip


@dataclass(frozen=True)
class PartScorer:
    """What is the same for all parts; can be sent to another process."""

    config: ScoreConfig
    source: Source
    base: BaseLimits | None = None
    """checked where the rows were not counted before"""
    codes: Mapping[str, str | None] = field(default_factory=dict)
    """where span plan and signals of others come from, in the driver"""

    def load(self) -> None:
        """In another process: imports the span plan and the signals that the settings name. Raises ConfigError where
        they are not there, or are other code."""
        if self.config.spans not in PLANS:
            load(SPAN_PLAN, self.config.spans, PLANS)
        self.config.imported()
        found = codes_of(self.config)
        for name, code in self.codes.items():
            if found.get(name) != code:
                raise ConfigError(f"{platform.node()}: {name} is {found.get(name)} there, {code} for the driver; "
                                  "have the same code on all nodes")  # fmt: skip

    def __call__(self, rows: Sequence[Row], base: BaseSignals | None, engine: Engine, advance: Advance) -> Scored:
        """Raises DataError, ConfigError and ModelError naming the row."""
        config, tokenizer = self.config, self.source.tokenizer
        memo: Memo = {}
        examples = self.source.examples(rows, memo)
        if self.base is not None:
            self.base.check(examples)
        masking = plan_masking(config, tokenizer, examples, self.source.context)
        table = self.table(examples, score_examples(examples, engine, config, masking, advance), base, memo)
        return table, noticed(self.source, rows, examples, masking)

    def table(
        self, examples: Sequence[Example], scored: list[dict[str, Any]], base: BaseSignals | None, memo: Memo | None = None
    ) -> pa.Table:
        """The part of what an engine said of these examples, which come in the order of their rows."""
        config, tokenizer = self.config, self.source.tokenizer
        add_words(scored, examples, tokenizer, copies=config.text_copies, memo=memo)
        for k, (example, columns) in enumerate(zip(examples, scored, strict=True)):
            add_base(columns, example, None if base is None else base[k])
            add_importance(columns, example, config)
        return part_table(examples, scored, config)


def add_base(columns: dict[str, Any], example: Example, base: tuple[str, np.ndarray, np.ndarray] | None) -> None:
    """Adds the base model's two signals, null where there is no base model."""
    assert base is None or base[0] == example.id, "both runs cut the same rows into the same examples"
    columns["base_logprob"], columns["base_entropy"] = (np.full(len(example.input_ids), np.nan),) * 2 if base is None else base[1:]


def part_table(group: Sequence[Example], scored: list[dict[str, Any]], config: ScoreConfig) -> pa.Table:
    """A part from the columns of its examples."""
    table: dict[str, list] = {
        "example_id": [e.id for e in group],
        "input_ids": [e.input_ids for e in group],
        "tokens": [c["tokens"] for c in scored],
        "is_target": [e.is_target for e in group],
        "spans": [c["spans"] for c in scored],
    }
    for name in ("logprob", "entropy", "delta", "delta_mean", "masked_entropy", "base_logprob", "base_entropy", "delta_span", "importance"):
        table[name] = [nullable(c[name]) for c in scored]
    return pa.table(table | optional_columns(scored, config.optional), schema=schema(config.optional))
