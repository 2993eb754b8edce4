"""Answers drawn at a temperature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.engines.interface import ignore
from shared.weighting.weights import seeded

if TYPE_CHECKING:
    from shared.engines.torch import TorchEngine


AT_ONCE = 4096
"""answers that are handed over at a time: each has random numbers of its own while it waits"""


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
    made: list[list[int]] = []
    for at in range(0, len(each), AT_ONCE):
        some = each[at : at + AT_ONCE]
        choose = Drawn(temperature, [seeded(seed, f"draw {k} {one.name}") for one, k in some])
        rooms = [one.room for one, _ in some]
        made += engine.generate([one.prompt for one, _ in some], max_new_tokens=rooms, stop_ids=stop_ids, advance=advance, choose=choose)
    return [made[k * count : (k + 1) * count] for k in range(len(asked))]
