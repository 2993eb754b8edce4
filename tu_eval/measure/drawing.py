"""Answers drawn at a temperature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.engines.interface import ignore
from shared.weighting.weights import seeded

if TYPE_CHECKING:
    from shared.engines.torch import TorchEngine


@dataclass(frozen=True)
class ToDraw:
    """A prompt whose answers are drawn."""

    name: str
    """what its draws depend on beside the seed"""
    prompt: list[int]
    room: int
    """tokens that an answer may take"""


def draws(
    engine: TorchEngine, asked: Sequence[ToDraw], count: int, temperature: float, stop_ids: Sequence[int], seed: int,
    advance: Callable[[int], None] = ignore,
) -> list[list[list[int]]]:  # fmt: skip
    """`count` answers to each prompt, from softmax(logits / temperature) over the whole vocabulary, without the stop
    token; `advance(answers)` as they end.

    Answer k to a prompt depends on the model, the prompt, its name, k and the seed alone: not on how many are drawn, on
    the other prompts or on the batches. All of them write at once, so that the weights are read for many rows a time.
    """
    from shared.engines.choosing import Drawn

    each = [(one, k) for one in asked for k in range(count)]
    choose = Drawn(temperature, [seeded(seed, f"draw {k} {one.name}") for one, k in each])
    made = engine.generate([one.prompt for one, _ in each], max_new_tokens=[one.room for one, _ in each], stop_ids=stop_ids,
                           advance=advance, choose=choose)  # fmt: skip
    return [made[at : at + count] for at in range(0, len(made), count)] if count else [[] for _ in asked]
