"""A model in vLLM as our two engines open it: for scores (the pooling runner, with our pooler) or for greedy text."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.engines.vllm_open import MAX_SEQUENCES, close_vllm, prepare_vllm, start_vllm
from shared.engines.vllm_setup import CACHE_SPACE, known_architecture, may_cache, version
from shared.errors import ModelError
from shared.lm.models import check_readable, choose_dtype, context_length

BLOCK_SIZE = {"cpu": 32}
"""tokens in a block of the prefix cache; the CPU build takes multiples of 32 and its own default, 128, shares little.
Elsewhere vLLM's."""
GPU_MEMORY = 0.9
"""share of a GPU's memory that vLLM may fill"""


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
        self.opening, self.device = opening, prepare_vllm(opening.device, scoring=opening.scoring)
        architecture = known_architecture(opening.folder, opening.verb, self.device)
        self.llm = start_vllm(
            self._start, try_out, refusal=f"model {opening.folder}: vLLM cannot {opening.verb} {architecture}",
            ranks=opening.tensor_parallel if self.device == "cpu" else 1,
        )  # fmt: skip

    def _start(self) -> Any:
        from vllm import LLM

        return LLM(**self.opening.options(self.device))

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
        close_vllm(self, "llm")
