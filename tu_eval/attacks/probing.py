"""What an attack is measured by: the probability of the forgotten answers, and of their facts, under the attacked
model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared.data.examples import Example
from shared.engines.interface import Request
from shared.errors import ModelError
from tu_eval.metrics.probability import probability
from tu_eval.results.folder import ResultRow

if TYPE_CHECKING:
    import torch

    from shared.engines.torch import TorchEngine

Numbers = dict[tuple[str, str], float | None]
"""(setting, measure) -> number, in the order in which they are shown"""


@dataclass(frozen=True)
class Probe:
    """One answer to look for."""

    example: Example
    facts: list[int]
    """token positions of the fact in the answer; empty where rows do not mark it"""


def measure(engine: TorchEngine, probes: Sequence[Probe], setting: str) -> list[ResultRow]:
    """-> a row a probe: probability exp(mean log-probability) of the answer, and of the tokens of its fact (null
    without any)."""
    scores = engine.score([Request(p.example.input_ids, p.example.targets) for p in probes])
    rows: list[ResultRow] = []
    for probe, scored in zip(probes, scores, strict=True):
        logprob = scored.logprob.tolist()
        if any(math.isnan(x) for x in logprob):
            raise ModelError(f"the model gives no number for {probe.example.id} (NaN) under the attack {setting!r}; try --dtype float32")
        at = dict(zip(probe.example.targets, logprob, strict=True))
        fact = probability([at[i] for i in probe.facts]) if probe.facts else None
        found = {"probability": probability(logprob), "fact_probability": fact}
        rows.append({"setting": setting, "set": "forget", "example_id": probe.example.id, **found})
    return rows


def means(rows: Iterable[Mapping[str, Any]]) -> Numbers:
    """Mean over the rows of each setting and set; settings in their order. A set's name stands behind the measure, but
    for `forget`."""
    held: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        for column in ("probability", "fact_probability"):
            if row[column] is not None:
                name = column if row["set"] == "forget" else f"{column} ({row['set']})"
                held.setdefault((row["setting"], name), []).append(row[column])
    return {key: math.fsum(values) / len(values) for key, values in held.items()}


@contextmanager
def restored(parameters: Sequence[torch.Tensor]) -> Iterator[None]:
    """Whatever happens to these weights inside, they hold the same values afterwards. Costs a copy of them in
    memory."""
    import torch

    kept = [p.detach().clone() for p in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
