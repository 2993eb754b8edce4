"""The run's own test of its engine: the values of a row must not depend on what was scored beside it."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np

from shared.data.examples import Example
from shared.engines.interface import Engine
from shared.errors import StoreError
from shared.store.writer import Writer
from tu_score.config import ScoreConfig
from tu_score.signals import score_examples
from tu_score.source import Cut, Source
from tu_score.spans import plan_masking

SELF_CHECK_ROWS = 4
SELF_CHECK_BOUND = {"float32": 2e-4, "bfloat16": 1.0, "float16": 0.25}
"""nats; single log-probabilities in bfloat16 move by half a nat with the order of sums alone"""


COMPARED = ("logprob", "entropy", "delta_mean")


def self_check(source: Source, cut: Cut, writer: Writer, engine: Engine, config: ScoreConfig) -> dict[str, Any]:
    """Scores a few random rows again, each alone and all in another order and company, and compares with what the parts
    hold."""
    chosen = _drawn(source, cut, writer, config)
    examples, bound, differences = [example for example, _ in chosen], SELF_CHECK_BOUND[config.dtype], []
    masking = plan_masking(config, source.tokenizer, examples, source.context)
    alone = [score_examples([example], engine, config, masking, lambda tokens: None)[0] for example in examples]
    turned = score_examples(examples[::-1], engine, config, masking, lambda tokens: None)[::-1]
    for (_, stored), *again in zip(chosen, alone, turned, strict=True):
        for columns, name in itertools.product(again, COMPARED):
            gap = np.abs(np.array(stored[name], dtype=np.float64) - columns[name])
            differences.append(gap[~np.isnan(gap)])
    gaps = np.concatenate(differences)
    result = {
        "rows": [example.id for example in examples],
        "largest_nats": float(gaps.max()),
        "mean_nats": float(gaps.mean()),
        "bound_nats": bound,
    }
    if not result["largest_nats"] <= bound:
        raise StoreError(
            f"{writer.folder}: the self-check failed: {examples[0].id} and others scored again differ by up to "
            f"{gaps.max():.3g} nats, expected at most {bound}; the engine is not reliable here, try --engine torch --dtype float32"
        )
    return result


def _drawn(source: Source, cut: Cut, writer: Writer, config: ScoreConfig) -> list[tuple[Example, dict[str, Any]]]:
    """Random examples by the seed, in the order they were drawn, and what the parts say of them. Only the parts that
    hold one are read."""
    starts = np.cumsum([0, *(writer.parts[index]["rows"] for index in sorted(writer.parts))])
    chosen = random.Random(config.seed).sample(range(int(starts[-1])), min(SELF_CHECK_ROWS, int(starts[-1])))
    parts = {int(np.searchsorted(starts, index, side="right")) - 1 for index in chosen}
    found = {}
    for part, rows in source.parts(cut, parts):
        examples, stored = source.examples(rows), writer.read_part(part, list(COMPARED)).to_pylist()
        found |= {int(starts[part]) + k: pair for k, pair in enumerate(zip(examples, stored, strict=True))}
    return [found[index] for index in chosen]
