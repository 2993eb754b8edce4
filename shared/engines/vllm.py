"""The vLLM engine: log-probability and entropy out of vLLM's pooling runner, through the plugin in vllm_pooler.py.

Only wanted positions go through the head: each request carries its wanted rows and their target tokens as pooling parameters, and the
tokens after the last wanted row are not computed at all. Prefix caching: a request reads its beginning from the cache only when
no other request of the same call agrees with it as far as its first wanted row (so a cache hit can never swallow a wanted row); in
practice masked variants read the cache, plain passes do not. The cache is emptied at the start of every `score`, so that earlier calls
change nothing. Give a plain pass before its masked variants: they find its blocks.

Nothing here is written for one device, but on a GPU we have never run it: seen on vLLM's CPU build only (docs/vllm.md).

Importing this module does not import vllm; the first engine does.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from shared.budget import within_budget
from shared.engines import Request, TokenScores, ignore
from shared.engines.vllm_pooler import columns, scores_from
from shared.engines.vllm_setup import (
    CACHE_SPACE,
    INSTALL,
    fitting_device,
    free,
    may_cache,
    prepare_environment,
    scorable_architecture,
    threads_for_each_rank,
    version,
)  # fmt: skip
from shared.errors import ConfigError, ModelError
from shared.forest import common_prefix
from shared.logprobs import HeadOptions
from shared.models import choose_dtype, context_length

BLOCK_SIZE = {"cpu": 32}
"""tokens in a block of the prefix cache; the CPU build takes multiples of 32 and its own default, 128, shares little. Elsewhere vLLM's."""
GPU_MEMORY = 0.9
"""share of a GPU's memory that vLLM may fill"""
MAX_SEQUENCES = 256
"""requests in one forward pass at most; fixed, because vLLM's own default depends on the machine and changes which rows share a step"""
LOAD_ERRORS = (
    ValueError, RuntimeError, NotImplementedError, KeyError, AttributeError, TypeError, AssertionError, ImportError, OSError,
)  # fmt: skip
"""what vLLM raises for a model or an option that it does not take; it has no error class of its own for it"""
_open: weakref.WeakSet[VllmEngine] = weakref.WeakSet()
"""the engine of this process: vLLM's process groups are global, and closing one engine would take them from another"""


class VllmEngine:
    """Scores with vLLM, one engine at a time in a process.

    Raises ConfigError without vLLM or the device, ModelError for a model that it cannot score.
    """

    def __init__(
        self,
        folder: Path,
        *,
        dtype: str = "float32",
        device: str | None = None,
        batch_tokens: int = 2048,
        head: HeadOptions | None = None,
        tensor_parallel: int = 1,
    ):
        choose_dtype(dtype)
        if _open:
            raise RuntimeError("a vLLM engine is open in this process; close it first")
        if importlib.util.find_spec("vllm") is None:
            raise ConfigError(f"--engine vllm: vLLM is not installed; {INSTALL}")
        self.folder, self.dtype, self.batch_tokens = folder, dtype, batch_tokens
        self.head, self.tensor_parallel = head or HeadOptions(), tensor_parallel
        prepare_environment()
        self.device = fitting_device(device)
        architecture = scorable_architecture(folder)
        self.llm = self._load(architecture)
        _open.add(self)
        cache = self.llm.llm_engine.vllm_config.cache_config
        self.block_size, self.prefix_caching = cache.block_size, bool(cache.enable_prefix_caching)

    def _load(self, architecture: str) -> Any:
        import torch
        from vllm import LLM

        set_num_threads = torch.set_num_threads  # the CPU worker replaces it with a function that refuses
        llm = None
        try:
            with threads_for_each_rank(self.tensor_parallel if self.device == "cpu" else 1):
                llm = LLM(**self._options())
            # Kernels that lack a case (the CPU build: heads of 16) say so in the first forward pass only: have it now.
            params = [_params([0], [0], self.head.plain)]
            llm.encode([{"prompt_token_ids": [0]}], pooling_params=params, pooling_task="token_classify", use_tqdm=False)
            self.head.check(llm.llm_engine.model_config.get_vocab_size())
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
        raise ModelError(f"model {self.folder}: vLLM cannot score {architecture}: {reason}; use --engine torch")

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"block_size": BLOCK_SIZE[self.device]} if self.device in BLOCK_SIZE else {}
        return options | {
            "model": str(self.folder),
            "runner": "pooling",
            "skip_tokenizer_init": True,
            "dtype": self.dtype,
            "seed": 0,
            "trust_remote_code": False,
            "load_format": "safetensors",
            "use_tqdm_on_load": False,
            # As much of the model's context as the cache can hold: a model with a long one must not need a cache of its length.
            "max_model_len": -1,
            "max_num_batched_tokens": self.batch_tokens,
            "max_num_seqs": min(MAX_SEQUENCES, self.batch_tokens),
            "enable_chunked_prefill": True,
            "enable_prefix_caching": may_cache(self.folder),
            "enforce_eager": self.device == "cpu",
            "gpu_memory_utilization": GPU_MEMORY,
            "tensor_parallel_size": self.tensor_parallel,
        }

    def describe(self) -> dict[str, Any]:
        flags = {
            "enforce_eager": self.device == "cpu",
            "prefix_caching": self.prefix_caching,
            "chunked_prefill": True,
            "max_num_seqs": min(MAX_SEQUENCES, self.batch_tokens),
        }
        # How much is cached decides which requests share a step.
        memory = {"cpu_kvcache_gib": int(os.environ[CACHE_SPACE])} if self.device == "cpu" else {"gpu_memory_utilization": GPU_MEMORY}
        return {
            "name": "vllm",
            "version": version(),
            "dtype": self.dtype,
            "device": self.device,
            "block_size": self.block_size,
            "tensor_parallel": self.tensor_parallel,
            "flags": flags | memory,
            "batch_tokens": self.batch_tokens,
        }

    def score(self, requests: Sequence[Request], advance: Callable[[int], None] = ignore) -> list[TokenScores]:
        """Answers in the order of the requests. Raises ModelError when one is longer than vLLM's cache or the model's context."""
        self.llm.reset_prefix_cache()
        out = [scores_from(np.zeros((0, columns(o)), np.float32), o) for o in map(self._options_of, requests)]
        asked = [i for i, r in enumerate(requests) if r.wanted]
        shared = longest_shared([requests[i].ids for i in asked])
        rows = {i: sorted({p - 1 for p in requests[i].wanted}) for i in asked}
        for i in asked:
            self._check_length(requests[i], rows[i][-1] + 1)
        # The last wanted token is a target only, so the prompt ends before it.
        prompts = [{"prompt_token_ids": list(requests[i].ids[: rows[i][-1] + 1])} for i in asked]
        params = [self._params(requests[i], rows[i], skip_cache=overlap > rows[i][0]) for i, overlap in zip(asked, shared, strict=True)]
        advance(sum(len(r.ids) for r in requests if not r.wanted))
        # In pieces, so that `advance` is called while the work goes on; the pieces depend on the requests alone, like everything else here.
        for start, end in within_budget([len(p["prompt_token_ids"]) for p in prompts], 8 * self.batch_tokens):
            piece = slice(start, end)
            answers = self.llm.encode(prompts[piece], pooling_params=params[piece], pooling_task="token_classify", use_tqdm=False)
            for i, answer in zip(asked[piece], answers, strict=True):
                values = answer.outputs.data.numpy().astype(np.float32, copy=False)
                at = np.searchsorted(rows[i], np.array(requests[i].wanted) - 1)
                out[i] = scores_from(values[at], self._options_of(requests[i]))
            advance(sum(len(requests[i].ids) for i in asked[piece]))
        return out

    def _options_of(self, request: Request) -> HeadOptions:
        return self.head if request.extras else self.head.plain

    def _params(self, request: Request, rows: list[int], *, skip_cache: bool) -> Any:
        return _params(rows, [request.ids[row + 1] for row in rows], self._options_of(request), skip_cache=skip_cache)

    def _check_length(self, request: Request, length: int) -> None:
        limit = self.llm.llm_engine.model_config.max_model_len
        if length <= limit:
            return
        context = context_length(self.folder)
        hint = f"the model's context is {context}" if context and length > context else f"raise {CACHE_SPACE} (GiB)"
        if self.device != "cpu" and not (context and length > context):
            hint = "a GPU with more memory or --engine torch is needed"
        raise ModelError(f"model {self.folder}: a request of {len(request.ids)} tokens, but vLLM holds {limit} here; {hint}")

    def close(self) -> None:
        """Shuts the engine down and frees weights and cache: a second one can follow in the same process."""
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        _open.discard(self)
        free()


def _reason(error: Exception) -> str:
    """The last line that says something; pydantic closes with a link and the type of the value."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "errors.pydantic.dev" not in line]
    return lines[-1].split(" [type=")[0].removeprefix("Value error, ")[:300] if lines else type(error).__name__


def _params(rows: list[int], targets: list[int], options: HeadOptions, *, skip_cache: bool = True) -> Any:
    from vllm import PoolingParams

    wish = {"rows": rows, "targets": targets, "head": list(astuple(options))}
    return PoolingParams(task="token_classify", skip_reading_prefix_cache=skip_cache, extra_kwargs=wish)


def longest_shared(sequences: Sequence[list[int]]) -> list[int]:
    """For each sequence the length of the longest prefix that it shares with any other. Neighbours in sorted order show it."""
    order = sorted(range(len(sequences)), key=lambda i: sequences[i])
    out = [0] * len(sequences)
    for a, b in itertools.pairwise(order):
        overlap = common_prefix(sequences[a], sequences[b])
        out[a], out[b] = max(out[a], overlap), max(out[b], overlap)
    return out
