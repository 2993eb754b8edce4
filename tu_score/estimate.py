"""`tu-score run --dry-run`: what a run would cost, said before it begins.

It plans as the run does and scores a few rows; what it writes to see whether the output place can be written, it
removes again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from shared.console import duration, number_of, readable_bytes
from shared.data.examples import Example
from shared.store.parts import encode, schema
from tu_score.config import ScoreConfig
from tu_score.count import count
from tu_score.part import PartScorer, open_one
from tu_score.plan import Prepared, prepare
from tu_score.run import about, claimed, wanted_parts
from tu_score.signals import score_examples
from tu_score.spans import plan_masking
from tu_score.workers import crew_size

TIMED_ROWS = 8
"""evenly spaced; those whose duration and bytes stand for all"""


@dataclass(frozen=True)
class RunEstimate:
    """What a run holds (counted) and takes (from a few rows)."""

    rows: int
    of: str
    """which rows these are, where they are not all"""
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
            f"rows             {self.rows:,}{self.of}",
            f"tokens           {self.tokens:,}",
            f"masked variants  {self.variants:,} ({number_of(self.reads, 'token')} to read in all, before sharing{self.unmasked})",
            f"on disk          about {readable_bytes(self.disk_bytes)} in {self.parts:,} part{'s' if self.parts != 1 else ''}",
            f"duration         about {duration(self.seconds)} ({self.timed})",
        ]


def estimate(config: ScoreConfig, *, check_out: bool) -> RunEstimate:
    """Raises what the run itself would raise before its first part, or later for a row; `check_out`: for its output
    too."""
    if check_out:
        with claimed(config):
            pass
    ready = prepare(config)
    workers = crew_size(config)
    wanted = wanted_parts(config, len(ready.cut.ranges))
    counts = count(ready.source, ready.cut, ready.base, wanted)
    timed = _timed(config, ready)
    tokens, variants, parts = sum(counts.tokens), sum(counts.variants), len(wanted)
    reads = sum(counts.work) + (tokens if config.base_model is not None else 0)
    rate = f"{number_of(timed.rows, 'row')} timed: {timed.rate:,.0f} tokens/s, {timed.engine}{_shared(config, workers)}"
    return RunEstimate(
        rows=sum(counts.examples), of="" if config.shard is None else f" in shard {config.shard}", tokens=tokens, variants=variants,
        reads=reads, parts=parts, disk_bytes=parts * timed.part_bytes + timed.token_bytes * tokens,
        seconds=reads / timed.rate / max(1, min(workers, parts)), unmasked=_would_add(config, ready, wanted, sum(counts.work)),
        timed=f"{rate}; loading the model not counted",
    )  # fmt: skip


def _shared(config: ScoreConfig, workers: int) -> str:
    """By whom the work is done, which was timed here."""
    if config.ray is not None:
        return f" of this machine, shared by {workers} worker{'s' if workers > 1 else ''} of the cluster"
    return f", shared by {workers} workers" if workers > 1 else ""


@dataclass(frozen=True)
class Timed:
    """What a few rows took."""

    rows: int
    rate: float
    """tokens a second, before sharing"""
    engine: str
    part_bytes: int
    """of a part without rows"""
    token_bytes: float


def _timed(config: ScoreConfig, ready: Prepared) -> Timed:
    source = ready.source
    examples = _spread(ready)
    masking = plan_masking(config, source.tokenizer, examples, source.context)
    with closing(open_one(config, ready.folder)) as engine:
        score_examples(examples[:1], engine, config, masking, lambda tokens: None)  # the first pass pays for much that no other does
        start = time.perf_counter()
        scored = score_examples(examples, engine, config, masking, lambda tokens: None)
        seconds, engine_about = time.perf_counter() - start, about(engine)
    has_base = config.base_model is not None
    base = [(e.id, c["logprob"], c["entropy"]) for e, c in zip(examples, scored, strict=True)] if has_base else None
    table, columns = PartScorer(config, source).table(examples, scored, base), schema(config.optional)
    empty, tokens = len(encode(columns.empty_table(), columns)), sum(len(e.input_ids) for e in examples)
    return Timed(
        len(examples), sum(map(masking.work, examples)) / seconds, engine_about, empty, (len(encode(table, columns)) - empty) / tokens
    )


def _spread(ready: Prepared) -> list[Example]:
    """The first example of evenly spaced rows."""
    wanted = sorted({int(i) for i in np.linspace(0, ready.cut.rows - 1, TIMED_ROWS)})
    rows, found, at = ready.source.rows(), [], 0
    for place in wanted:
        (row,) = islice(rows, place - at, place - at + 1)
        at = place + 1
        found += ready.source.examples([row])[:1]
    return found or next(examples[:1] for row in ready.source.rows() if (examples := ready.source.examples([row])))


def _would_add(config: ScoreConfig, ready: Prepared, wanted: Sequence[int], work: int) -> str:
    if config.spans != "none":
        return ""
    masked = count(replace(ready.source, config=replace(config, spans=config.useful_spans)), ready.cut, None, wanted)
    variants, more = sum(masked.variants), sum(masked.work) - work
    return f"; --spans {config.useful_spans} would add {variants:,} and {more:,} tokens"
