"""Opening and closing the one vLLM that a process may hold: for scores (the pooling runner, with our pooler) or for
greedy text."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.engines.vllm_setup import (
    CACHE_SPACE,
    fitting_device,
    free,
    known_architecture,
    may_cache,
    prepare_environment,
    require_vllm,
    threads_for_each_rank,
    version,
)  # fmt: skip
from shared.errors import ModelError
from shared.lm.models import check_readable, choose_dtype, context_length

BLOCK_SIZE = {"cpu": 32}
"""tokens in a block of the prefix cache; the CPU build takes multiples of 32 and its own default, 128, shares little.
Elsewhere vLLM's."""
GPU_MEMORY = 0.9
"""share of a GPU's memory that vLLM may fill"""
MAX_SEQUENCES = 256
"""requests in one forward pass at most; fixed, because vLLM's own default depends on the machine and changes which rows
share a step"""
LOAD_ERRORS = (
    ValueError, RuntimeError, NotImplementedError, KeyError, AttributeError, TypeError, AssertionError, ImportError, OSError,
)  # fmt: skip
"""what vLLM raises for a model or an option that it does not take; it has no error class of its own for it"""
_open: weakref.WeakSet[Any] = weakref.WeakSet()
"""the vLLM of this process: its process groups are global, and closing one would take them from another"""


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What a vLLM is opened with. Raises ConfigError without vLLM or the device, ModelError for a model that it cannot
    run."""

    folder: Path
    scoring: bool
    """our pooler in place of generation; else vLLM as it is"""
    dtype: str
    device: str | None
    batch_tokens: int
    tensor_parallel: int = 1

    @property
    def runner(self) -> str:
        return "pooling" if self.scoring else "generate"

    @property
    def verb(self) -> str:
        return "score" if self.scoring else "write with"

    def options(self, device: str) -> dict[str, Any]:
        options: dict[str, Any] = {"block_size": BLOCK_SIZE[device]} if device in BLOCK_SIZE else {}
        return options | {
            "model": str(self.folder),
            "runner": self.runner,
            "skip_tokenizer_init": True,
            "dtype": self.dtype,
            "seed": 0,
            "trust_remote_code": False,
            "load_format": "safetensors",
            "use_tqdm_on_load": False,
            "generation_config": "vllm",  # not the folder's, which may ask for anything but greedy
            # As much of the model's context as the cache can hold: a model with a long one must not need a cache of its
            # length.
            "max_model_len": -1,
            "max_num_batched_tokens": self.batch_tokens,
            "max_num_seqs": min(MAX_SEQUENCES, self.batch_tokens),
            "enable_chunked_prefill": True,
            "enable_prefix_caching": may_cache(self.folder),
            "enforce_eager": device == "cpu",
            "gpu_memory_utilization": GPU_MEMORY,
            "tensor_parallel_size": self.tensor_parallel,
        }


class Vllm:
    """A running vLLM. `llm` is its own object."""

    def __init__(self, opening: Opening, try_out: Callable[[Any], None]):
        """`try_out(llm)` runs a first forward pass: kernels that lack a case (the CPU build: heads of 16) say so only
        there."""
        choose_dtype(opening.dtype)
        if _open:
            raise RuntimeError("a vLLM engine is open in this process; close it first")
        require_vllm()
        prepare_environment(scoring=opening.scoring)
        self.opening, self.device = opening, fitting_device(opening.device)
        architecture = known_architecture(opening.folder, opening.verb)
        self.llm = _load(opening, self.device, architecture, try_out)
        _open.add(self)

    def describe(self) -> dict[str, Any]:
        cache = self.llm.llm_engine.vllm_config.cache_config
        flags = {
            "enforce_eager": self.device == "cpu",
            "prefix_caching": bool(cache.enable_prefix_caching),
            "chunked_prefill": True,
            "max_num_seqs": min(MAX_SEQUENCES, self.opening.batch_tokens),
        }
        # How much is cached decides which requests share a step.
        memory = {"cpu_kvcache_gib": int(os.environ[CACHE_SPACE])} if self.device == "cpu" else {"gpu_memory_utilization": GPU_MEMORY}
        return {
            "name": "vllm",
            "version": version(),
            "dtype": self.opening.dtype,
            "device": self.device,
            "block_size": cache.block_size,
            "tensor_parallel": self.opening.tensor_parallel,
            "flags": flags | memory,
            "batch_tokens": self.opening.batch_tokens,
        }

    def check_ids(self, prompts: Iterable[Sequence[int]]) -> None:
        """Raises ModelError for an id that the model has no row for."""
        check_readable(self.opening.folder, prompts, what=f"model {self.opening.folder}")

    def check_length(self, length: int, what: str) -> None:
        """Raises ModelError when it is longer than vLLM's cache or the model's context."""
        limit = self.llm.llm_engine.model_config.max_model_len
        if length <= limit:
            return
        folder = self.opening.folder
        context = context_length(folder)
        hint = f"the model's context is {context}" if context and length > context else f"raise {CACHE_SPACE} (GiB)"
        if self.device != "cpu" and not (context and length > context):
            hint = "a GPU with more memory or --engine torch is needed"
        raise ModelError(f"model {folder}: {what}, but vLLM holds {limit} here; {hint}")

    def close(self) -> None:
        """Shuts it down and frees weights and cache: a second one can follow in the same process."""
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        _open.discard(self)
        free()


def _load(opening: Opening, device: str, architecture: str, try_out: Callable[[Any], None]) -> Any:
    import torch
    from vllm import LLM

    set_num_threads = torch.set_num_threads  # the CPU worker replaces it with a function that refuses
    llm = None
    try:
        with threads_for_each_rank(opening.tensor_parallel if device == "cpu" else 1):
            llm = LLM(**opening.options(device))
        try_out(llm)
        return llm
    except Exception as error:
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()
        if not isinstance(error, LOAD_ERRORS) and type(error) is not Exception:  # bare: a worker process of vLLM failed
            raise
        reason = _reason(error)
    finally:
        torch.set_num_threads = set_num_threads
    del llm
    free()
    raise ModelError(f"model {opening.folder}: vLLM cannot {opening.verb} {architecture}: {reason}; use --engine torch")


def _reason(error: Exception) -> str:
    """The last line that says something; pydantic closes with a link and the type of the value."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "errors.pydantic.dev" not in line]
    return lines[-1].split(" [type=")[0].removeprefix("Value error, ")[:300] if lines else type(error).__name__
