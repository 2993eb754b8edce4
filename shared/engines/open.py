"""Which engine runs a model, and opening it to score or to write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from shared.engines.interface import Engine, Generator
from shared.errors import ConfigError, nearest

if TYPE_CHECKING:
    from shared.lm.logprobs import HeadOptions

ENGINES = ("auto", "torch", "vllm")


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
    """A model that scores. `auto` takes vLLM where it is installed and a CUDA device is there, else torch."""
    if choose_engine(name, device) == "vllm":
        from shared.engines.vllm import VllmEngine

        return VllmEngine(folder, dtype=dtype, device=device, batch_tokens=batch_tokens, head=head, tensor_parallel=tensor_parallel)
    if tensor_parallel != 1:
        raise ConfigError(f"tensor_parallel is {tensor_parallel}, but the torch engine runs a model on one device; use --engine vllm")
    from shared.engines.torch import TorchEngine

    return TorchEngine.load(folder, dtype=dtype, device=device, batch_tokens=batch_tokens, head=head)


def open_generator(
    name: str, folder: Path, *, dtype: str, device: str | None, batch_tokens: int, head: HeadOptions | None = None
) -> Generator:
    """A model that writes, chosen in the same way. `head`: for a caller that scores with it as well, which torch
    does."""
    if choose_engine(name, device) == "vllm":
        from shared.engines.vllm_generate import VllmGenerator

        return VllmGenerator(folder, dtype=dtype, device=device, batch_tokens=batch_tokens)
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
