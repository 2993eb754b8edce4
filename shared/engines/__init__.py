"""One interface, two engines: token sequences and wanted positions in, log-probability and entropy out.

`Request.wanted` names token positions i >= 1; the answer for i speaks of token i given the tokens before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from shared.errors import ConfigError, nearest

if TYPE_CHECKING:
    from shared.logprobs import HeadOptions

ENGINES = ("auto", "torch", "vllm")


@dataclass(frozen=True)
class Request:
    ids: list[int]
    wanted: list[int]
    """token positions, each at least 1"""
    extras: bool = False
    """also what the engine's HeadOptions name: tempered entropy, top tokens, second moment"""


@dataclass(frozen=True)
class TokenScores:
    """Nats, float32; the last four for requests with extras, where the engine's HeadOptions ask for them. W = len(wanted)."""

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
        """Answers in the order of the requests; `advance(tokens)` is called as requests are done, with the tokens of those."""
        ...

    def close(self) -> None:
        """Gives memory back, so that another model can be loaded."""
        ...


def ignore(tokens: int) -> None:
    """An `advance` for callers without a progress display."""


def open_engine(
    name: str,
    folder: Path,
    *,
    dtype: str,
    device: str | None,
    batch_tokens: int,
    head: HeadOptions | None = None,
    tensor_parallel: int = 1,
) -> Engine:
    """`auto` takes vLLM where it is installed and a CUDA device is there, else torch."""
    if choose_engine(name, device) == "vllm":
        from shared.engines.vllm import VllmEngine

        return VllmEngine(folder, dtype=dtype, device=device, batch_tokens=batch_tokens, head=head, tensor_parallel=tensor_parallel)
    if tensor_parallel != 1:
        raise ConfigError(f"tensor_parallel is {tensor_parallel}, but the torch engine runs a model on one device; use --engine vllm")
    from shared.engines.torch import TorchEngine

    return TorchEngine.load(folder, dtype=dtype, device=device, batch_tokens=batch_tokens, head=head)


def choose_engine(name: str, device: str | None) -> str:
    """torch or vllm. Raises ConfigError for an unknown name, and for vllm where it is not installed."""
    if name not in ENGINES:
        raise ConfigError(f"--engine {name}: unknown{nearest(name, ENGINES)}")
    if name != "vllm":
        return "vllm" if name == "auto" and device is None and _vllm_fits() else "torch"
    from shared.engines.vllm_setup import require_vllm

    require_vllm()
    return "vllm"


def _vllm_fits() -> bool:
    import importlib.util

    import torch

    return torch.cuda.is_available() and importlib.util.find_spec("vllm") is not None
