"""What runs a model, as its callers see it: an `Engine` scores, a `Generator` writes.

Scoring: token ids and wanted positions in, log-probability and entropy out. `Request.wanted` names token positions
i >= 1; the answer for i speaks of token i given the tokens before it. Writing: token ids of prompts in, token ids of
greedy answers out. The torch engine does both with one model in memory; vLLM is opened for one of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True)
class Request:
    ids: list[int]
    wanted: list[int]
    """token positions, each at least 1"""
    extras: bool = False
    """also what the engine's HeadOptions name: tempered entropy, top tokens, second moment"""


@dataclass(frozen=True)
class TokenScores:
    """Nats, float32; the last four for requests with extras, where the engine's HeadOptions ask for them. W =
    len(wanted)."""

    logprob: np.ndarray
    """[W]"""
    entropy: np.ndarray
    """[W]"""
    tempered: np.ndarray | None = None
    """[W], entropy of softmax(logits / temperature)"""
    top_ids: np.ndarray | None = None
    """[W, k] int32, likeliest first"""
    top_logprobs: np.ndarray | None = None
    """[W, k]"""
    second: np.ndarray | None = None
    """[W], Σ p · (log p)² of the whole distribution"""


@runtime_checkable
class Engine(Protocol):
    """Scores token sequences."""

    def describe(self) -> dict[str, Any]:
        """Name, version, dtype and flags, for the manifest."""
        ...

    def score(self, requests: Sequence[Request], advance: Callable[[int], None] = ...) -> list[TokenScores]:
        """Answers in the order of the requests; `advance(tokens)` is called as requests are done, with the tokens of
        those."""
        ...

    def close(self) -> None:
        """Gives memory back, so that another model can be loaded."""
        ...


@runtime_checkable
class Generator(Protocol):
    """Writes greedy answers."""

    def describe(self) -> dict[str, Any]:
        """Name, version, dtype and flags, to stand beside the answers."""
        ...

    def generate(
        self,
        prompts: Sequence[list[int]],
        *,
        max_new_tokens: int | Sequence[int],
        stop_ids: Sequence[int],
        advance: Callable[[int], None] = ...,
    ) -> list[list[int]]:
        """For each prompt the tokens that follow it, the likeliest each time, without the prompt and without the one of
        `stop_ids` that ended it.

        `max_new_tokens`: one number, or one a prompt. `advance(prompts)` is called as prompts are done, with how many
        of them. Raises ModelError for an id that the model has no row for, or where prompt and answer do not fit.
        """
        ...

    def close(self) -> None:
        """Gives memory back, so that another model can be loaded."""
        ...


def limits_of(max_new_tokens: int | Sequence[int], prompts: Sequence[list[int]]) -> list[int]:
    """Tokens that the answer to each prompt may take."""
    return [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)


def ignore(tokens: int) -> None:
    """An `advance` for callers without a progress display."""
