"""What every engine takes and gives: token sequences and wanted positions in, log-probability and entropy out.

`Request.wanted` names token positions i >= 1; the answer for i speaks of token i given the tokens before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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


class Engine(Protocol):
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


def ignore(tokens: int) -> None:
    """An `advance` for callers without a progress display."""
