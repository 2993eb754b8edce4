"""Answers drawn at a temperature."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.engines.interface import ignore
from shared.weighting.weights import seeded

if TYPE_CHECKING:
    from shared.engines.torch import TorchEngine

AT_ONCE = 4096
"""answers that are handed over at a time: each has random numbers of its own until it ends"""


@dataclass(frozen=True)
class ToDraw:
    """A prompt whose answers are drawn."""

    name: str
    """what its draws depend on beside the seed"""
    prompt: list[int]
    room: int
    """tokens that an answer may take"""


def draws(
    engine: TorchEngine, wanted: Sequence[ToDraw], count: int, temperature: float, stop_ids: Sequence[int], seed: int,
    advance: Callable[[int], None] = ignore,
) -> Iterator[list[list[int]]]:  # fmt: skip
    """Of each prompt `count` answers from softmax(logits / temperature) over the whole vocabulary, without the stop
    token; `advance(answers)` as they end.

    Answer k to a prompt depends on the model, the prompt, its name, k and the seed alone: not on how many are drawn,
    on the other prompts or on the batches. (In bfloat16 and float16 logits are rounded otherwise in other company, and
    with them some answers; the same command gives the same ones.) Many write at once, so that the weights are read for
    many rows a time; memory does not grow with the prompts.
    """
    from shared.engines.choosing import Drawn

    together = max(1, AT_ONCE // max(1, count))
    for at in range(0, len(wanted), together):
        each = [(one, k) for one in wanted[at : at + together] for k in range(count)]
        choose = Drawn(temperature, [seeded(seed, f"draw {k} {one.name}") for one, k in each])
        rooms = [one.room for one, _ in each]
        made = engine.generate([one.prompt for one, _ in each], max_new_tokens=rooms, stop_ids=stop_ids, advance=advance, choose=choose)
        yield from (made[k * count : (k + 1) * count] for k in range(len(wanted[at : at + together])))
