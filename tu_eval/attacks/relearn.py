"""Relearning: fine-tune for a few steps on a few of the forgotten rows, or on related text, and look at all the others.

Hu et al. 2024 (arXiv 2406.13356), Lynch et al. 2024 (arXiv 2402.16835). What the attacker shows says nothing of the
other rows, so that what comes back on those was still in the weights. The retain model sets the scale: what it learns
in as many steps was not remembered.

Mean negative log-probability of a batch's target tokens, AdamW with a constant learning rate, all weights. Cost:
`steps` training steps and a forward pass over the forget rows each time it is measured; three copies of the weights
beside the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from shared.data.examples import Example
from shared.errors import ModelError
from shared.lm.logprobs import target_logprobs
from shared.lm.models import FUSED
from shared.lm.packed import PackedModel
from shared.weighting.weights import seeded
from tu_eval.attacks.probing import Numbers, Probe, means, measure, restored
from tu_eval.results.folder import ResultRow

if TYPE_CHECKING:
    from shared.engines.torch import TorchEngine

REST, SHOWN = "rest", "shown"


def choose(ids: Sequence[str], count: int, seed: int) -> set[str]:
    """The rows that the attacker shows the model."""
    return {ids[int(i)] for i in seeded(seed, "relearn rows").permutation(len(ids))[:count]}


def relearn(
    engine: TorchEngine, probes: Sequence[Probe], texts: Sequence[Example], *, steps: int, every: int, batch: int, rate: float, seed: int
) -> list[ResultRow]:
    """Rows before the first step and after every `every` steps, with `step`; `set` says whether an example is one of
    `texts`."""
    packed, shown = engine.packed, {e.id for e in texts}
    parameters = list(packed.model.parameters())

    def look(step: int) -> list[ResultRow]:
        rows = measure(engine, probes, f"step {step}")
        return [{**row, "step": step, "set": SHOWN if row["example_id"] in shown else REST} for row in rows]

    with restored(parameters):
        rows = look(0)
        for step in trained(packed, texts, steps=steps, batch=batch, rate=rate, seed=seed, setting="learning_rate"):
            if step % every == 0 or step == steps:
                rows += look(step)
    return rows


def trained(
    packed: PackedModel, texts: Sequence[Example], *, steps: int, batch: int, rate: float, seed: int, setting: str
) -> Iterator[int]:
    """Trains all weights in place; -> the number of each step, from 1, when it is done. Raises ModelError, which names
    the `setting` of the rate, where a loss is no number."""
    parameters = list(packed.model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0, fused=parameters[0].device.type in FUSED)
    for step, chosen in enumerate(islice(batches(texts, batch, seed), steps), 1):
        loss = batch_loss(packed, chosen)
        if not torch.isfinite(loss):
            raise ModelError(f"training at the rate {rate:g}: the loss of step {step} is no number; use a smaller --set {setting}")
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield step


def batch_loss(packed: PackedModel, examples: Sequence[Example]) -> torch.Tensor:
    """Mean negative log-probability over all target tokens of the batch, nats, differentiable."""
    hidden_LD, slots = packed.hidden([e.input_ids for e in examples])
    rows = [slot[i - 1] for e, slot in zip(examples, slots, strict=True) for i in e.targets]
    targets = torch.tensor([e.input_ids[i] for e in examples for i in e.targets], device=hidden_LD.device)
    return -target_logprobs(hidden_LD[rows], targets, packed.head).mean()


def batches(texts: Sequence[Example], size: int, seed: int) -> Iterator[list[Example]]:
    """Without end; each epoch in an order of its own. The last batch of an epoch may be smaller."""
    epoch = 0
    while True:
        order = seeded(seed, f"relearn epoch {epoch}").permutation(len(texts))
        for at in range(0, len(order), size):
            yield [texts[i] for i in order[at : at + size]]
        epoch += 1


def summarise(rows: Iterable[Mapping[str, Any]], level: float | None) -> Numbers:
    """Means by step, and the first measured step at which the rest has come to `level`; null if it has not."""
    numbers = means(rows)
    if level is not None:
        curve = {int(setting.split()[1]): value for (setting, measure), value in numbers.items() if measure == f"probability ({REST})"}
        numbers["all steps", "steps_to_half"] = next((step for step, value in sorted(curve.items()) if value and value >= level), None)
    return numbers
