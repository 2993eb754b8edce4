"""The run's own test of its engine: the values of a row must not depend on what was scored beside it."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np

from shared.engines.interface import Engine
from shared.errors import StoreError
from shared.store.writer import Writer
from tu_score.config import ScoreConfig
from tu_score.signals import score_examples
from tu_score.spans import Masking

SELF_CHECK_ROWS = 4
SELF_CHECK_BOUND = {"float32": 2e-4, "bfloat16": 1.0, "float16": 0.25}
"""nats; single log-probabilities in bfloat16 move by half a nat with the order of sums alone"""


def self_check(examples, parts, writer: Writer, engine: Engine, config: ScoreConfig, masking: Masking) -> dict[str, Any]:
    """Scores a few random rows again, each alone and all in another order and company, and compares with what the parts
    hold."""
    chosen = random.Random(config.seed).sample(range(len(examples)), min(SELF_CHECK_ROWS, len(examples)))
    bound, differences = SELF_CHECK_BOUND[config.dtype], []
    alone = [score_examples([examples[index]], engine, config, masking, lambda tokens: None)[0] for index in chosen]
    turned = score_examples([examples[index] for index in reversed(chosen)], engine, config, masking, lambda tokens: None)[::-1]
    for index, *again in zip(chosen, alone, turned, strict=True):
        part = next(k for k, (start, end) in enumerate(parts) if start <= index < end)
        stored = writer.read_part(part).slice(index - parts[part][0], 1).to_pylist()[0]
        for columns, name in itertools.product(again, ("logprob", "entropy", "delta_mean")):
            gap = np.abs(np.array(stored[name], dtype=np.float64) - columns[name])
            differences.append(gap[~np.isnan(gap)])
    gaps = np.concatenate(differences)
    result = {
        "rows": [examples[i].id for i in chosen],
        "largest_nats": float(gaps.max()),
        "mean_nats": float(gaps.mean()),
        "bound_nats": bound,
    }
    if not result["largest_nats"] <= bound:
        raise StoreError(
            f"{writer.folder}: the self-check failed: {examples[chosen[0]].id} and others scored again differ by up to "
            f"{gaps.max():.3g} nats, expected at most {bound}; the engine is not reliable here, try --engine torch --dtype float32"
        )
    return result
