"""The run's own test of its engine: the values of a row must not depend on what was scored beside it."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from shared.engines.interface import Engine
from shared.errors import StoreError
from shared.secret import without_secrets
from shared.store.writer import Writer
from tu_score.config import ScoreConfig
from tu_score.signals import score_examples
from tu_score.source import Cut, Source
from tu_score.spans import plan_masking

SELF_CHECK_ROWS = 4
SELF_CHECK_BOUND = {"float32": 2e-4, "bfloat16": 1.0, "float16": 0.25}
"""nats; single log-probabilities in bfloat16 move by half a nat with the order of sums alone"""


COMPARED = ("logprob", "entropy", "delta_mean")
BESIDE = 3
"""examples of the same part that one is scored beside"""

Finding = dict[str, Any]
"""of one example: part, place, id, and of its differences the largest (`largest`), the sum and the number"""


def self_check(source: Source, cut: Cut, writer: Writer, engine: Engine, config: ScoreConfig) -> list[Finding]:
    """Scores a few random examples again, each alone and in another order and company of its part, and compares with
    what the part holds; those of the parts that this run has. What is found of an example depends on its part alone."""
    found: list[Finding] = []
    drawn = {index: count for index, count in draws(len(cut.ranges), config.seed).items() if index in writer.parts}
    for index, rows in source.parts(cut, drawn):
        examples, stored = source.examples(rows), writer.read_part(index, list(COMPARED)).to_pylist()
        masking = plan_masking(config, source.tokenizer, examples, source.context)
        for place in _places(index, drawn[index], len(examples), config.seed):
            company = examples[max(0, place - BESIDE) : place + BESIDE + 1][::-1]
            alone = score_examples([examples[place]], engine, config, masking, lambda tokens: None)[0]
            turned = score_examples(company, engine, config, masking, lambda tokens: None)[company.index(examples[place])]
            gaps = _gaps(stored[place], [alone, turned])
            found.append({"part": index, "place": place, "id": examples[place].id, "largest": float(gaps.max()), "sum": float(gaps.sum()),
                          "number": len(gaps)})  # fmt: skip
    return found


def draws(parts: int, seed: int) -> dict[int, int]:
    """-> part -> how many of the SELF_CHECK_ROWS fall to it."""
    generator = random.Random(seed)
    return dict(Counter(generator.randrange(parts) for _ in range(SELF_CHECK_ROWS)))


def _places(part: int, count: int, examples: int, seed: int) -> list[int]:
    return sorted(random.Random(f"{seed} {part}").sample(range(examples), min(count, examples)))


def _gaps(stored: dict[str, Any], again: Sequence[dict[str, Any]]) -> np.ndarray:
    gaps = [np.abs(np.array(stored[name], dtype=np.float64) - columns[name]) for columns in again for name in COMPARED]
    flat = np.concatenate(gaps)
    return flat[~np.isnan(flat)]


def check_of(found: Sequence[Finding], where: str, dtype: str) -> dict[str, Any]:
    """For the manifest, whoever found what. Raises StoreError where the engine is not reliable."""
    found = sorted(found, key=lambda one: (one["part"], one["place"]))
    bound, largest = SELF_CHECK_BOUND[dtype], max((one["largest"] for one in found), default=0.0)
    if not largest <= bound:
        worst = max(found, key=lambda one: one["largest"])
        raise StoreError(
            f"{without_secrets(where)}: the self-check failed: {worst['id']} scored again differs by up to "
            f"{largest:.3g} nats, expected at most {bound}; the engine is not reliable here, try --engine torch --dtype float32"
        )
    mean = math.fsum(one["sum"] for one in found) / max(1, sum(one["number"] for one in found))
    return {"rows": [one["id"] for one in found], "largest_nats": largest, "mean_nats": mean, "bound_nats": bound}
