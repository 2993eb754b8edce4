"""One interface, two engines: token sequences and wanted positions in, log-probability and entropy out.

`Request.wanted` names token positions i >= 1; the answer for i speaks of token i given the tokens before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from shared.errors import ConfigError, nearest

ENGINES = ("auto", "torch", "vllm")


@dataclass(frozen=True)
class Request:
    ids: list[int]
    wanted: list[int]
    """token positions, each at least 1"""


@dataclass(frozen=True)
class TokenScores:
    """Both [len(wanted)], float32, nats."""

    logprob: np.ndarray
    entropy: np.ndarray


class Engine(Protocol):
    def describe(self) -> dict[str, Any]:
        """Name, version, dtype and flags, for the manifest."""
        ...

    def score(self, requests: Sequence[Request], advance: Callable[[int], None] = ...) -> list[TokenScores]:
        """Answers in the order of the requests; `advance(tokens)` is called as requests are done, with the tokens of those."""
        ...

    def close(self) -> None:
        """Gives memory back, so that another model can be loaded."""
        ...


def ignore(tokens: int) -> None:
    """An `advance` for callers without a progress display."""


def open_engine(name: str, folder: Path, *, dtype: str, device: str | None, batch_tokens: int) -> Engine:
    """`auto` takes vLLM where it is installed and a CUDA device is there, else torch."""
    if name not in ENGINES:
        raise ConfigError(f"--engine {name}: unknown{nearest(name, ENGINES)}")
    if name == "vllm" or (name == "auto" and device is None and _vllm_fits()):
        from shared.engines.vllm import VllmEngine

        return VllmEngine(folder, dtype=dtype, device=device, batch_tokens=batch_tokens)
    from shared.engines.torch import TorchEngine

    return TorchEngine.load(folder, dtype=dtype, device=device, batch_tokens=batch_tokens)


def _vllm_fits() -> bool:
    import importlib.util

    import torch

    return torch.cuda.is_available() and importlib.util.find_spec("vllm") is not None
