"""A vLLM plugin: exact log-probability and entropy at wanted positions, computed in the worker where the hidden states
are.

vLLM's own `prompt_logprobs` gives only the top k (so no exact entropy) and changes with prefix caching. Its pooling
runner hands the hidden states of a prompt to a pooler instead; the one here puts the wanted rows through the model's
own head. Chunked prefill calls it once a chunk, so it keeps the small results between calls, never the hidden states or
the logits of a whole prompt.

Request and pooler speak through `PoolingParams.extra_kwargs`: `rows` (0-based positions of hidden states, ascending),
`targets` (the token each row should predict) and `head` (the fields of shared.lm.logprobs.HeadOptions); the answer is a
float32 tensor [len(rows), `columns`]: log-probability and entropy in nats, then what else the options name.

Cost a row: one head product, the same as in generation; memory: logits of as many rows as fill the bound in the
options.

Imported by vLLM in each of its processes through the entry point, hence no import of vllm at the top: `register` must
stay cheap.
"""

from __future__ import annotations

import importlib
import os
from bisect import bisect_left
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from shared.engines.interface import TokenScores
from shared.lm.logprobs import CACHE_MIB, HeadOptions, PositionScores, scores_of
from shared.lm.memory import keep_freed_memory

ACTIVATE = "TU_SCORING"
PLUGIN = "token_unlearn"
"""the name of the entry point in pyproject.toml"""


def register() -> None:
    """Entry point `vllm.general_plugins`. In a scoring process every text architecture comes with the pooler, under its
    own name.

    Does nothing where TU_SCORING is not 1: the plugin is loaded in every vLLM process of the environment, whoever
    started it.
    """
    if os.environ.get(ACTIVATE) != "1":
        return
    from vllm import ModelRegistry

    for architecture, (module, name) in text_architectures().items():
        ModelRegistry.register_model(architecture, f"{__name__}:{module}__{name}")


def restore() -> None:
    """Undoes `register` in a process that asks for scores no more: every text architecture is vLLM's own again."""
    if os.environ.get(ACTIVATE) == "1":
        return
    from vllm import ModelRegistry

    for architecture, (module, name) in text_architectures().items():
        ModelRegistry.register_model(architecture, f"vllm.model_executor.models.{module}:{name}")


def text_architectures() -> dict[str, tuple[str, str]]:
    """Architecture (as in config.json) -> module and class, for everything that vLLM can generate text with."""
    from vllm.model_executor.models.registry import _TEXT_GENERATION_MODELS

    return dict(_TEXT_GENERATION_MODELS)


def __getattr__(name: str) -> type:
    """Builds `module__Class` on first use, so that no architecture is imported before it is needed."""
    if name.startswith("__") or "__" not in name:
        raise AttributeError(name)
    module, cls = name.split("__", 1)
    variant = scoring_variant(getattr(importlib.import_module(f"vllm.model_executor.models.{module}"), cls))
    globals()[name] = variant
    return variant


def scoring_variant(base: type) -> type:
    """The same vLLM architecture, with the pooler below in place of generation."""
    from vllm.model_executor.models.interfaces_base import VllmModelForPooling

    class Scoring(base, VllmModelForPooling):
        is_pooling_model = True

        def __init__(self, *, vllm_config, prefix="", **kwargs):
            super().__init__(vllm_config=vllm_config, prefix=prefix, **kwargs)
            self.pooler = _pooler_class()(self, vllm_config.model_config.get_vocab_size())

    Scoring.__name__ = Scoring.__qualname__ = "Scoring" + base.__name__
    return Scoring


def _pooler_class() -> type:
    from vllm.model_executor.layers.pooler.abstract import Pooler
    from vllm.model_executor.layers.pooler.common import PoolingParamsUpdate

    class LogprobPooler(Pooler):
        def __init__(self, model, vocabulary: int):
            super().__init__()
            keep_freed_memory()  # this is the process that holds the model
            self.vocabulary = vocabulary
            self.logits_of = model.compute_logits  # a bound method is no submodule: the weights load once, as the model's own

        def get_supported_tasks(self):
            return {"token_classify"}

        def get_pooling_updates(self, task):
            return PoolingParamsUpdate()

        def forward(self, hidden_states, pooling_metadata):
            return pool(hidden_states, pooling_metadata, self.logits_of, self.vocabulary)

    return LogprobPooler


def pool(hidden_TD: torch.Tensor, metadata: Any, compute_logits, vocabulary: int) -> list[torch.Tensor | None]:
    """One answer a request of this step, None for those whose prompt goes on in a later step. T scheduled tokens, D
    width."""
    cursor = metadata.get_pooling_cursor()
    scheduled, ends = cursor.num_scheduled_tokens_cpu.tolist(), cursor.seq_lens_cpu.tolist()
    reads, offset = [], 0
    for params, count, end in zip(metadata.pooling_params, scheduled, ends, strict=True):
        reads.append(_Read(params.extra_kwargs or {}, offset, end - count, end))
        offset += count
    answers: list[torch.Tensor | None] = []
    parts = _parts(hidden_TD, reads, compute_logits, vocabulary)
    for state, read, part, finished in zip(metadata.pooling_states, reads, parts, cursor.get_finished_mask(), strict=True):
        state.hidden_states_cache.append((read.low, part))
        answers.append(_assemble(state.hidden_states_cache, read.total) if finished else None)
        if finished:
            state.clean()
    return answers


class _Read:
    """What one request wants of this step, whose chunk holds positions start … end-1 of its prompt from `offset` on."""

    def __init__(self, wish: dict[str, Any], offset: int, start: int, end: int):
        rows, targets = wish.get("rows", []), wish.get("targets", [])
        self.options, self.total = HeadOptions(*wish.get("head", ())), len(rows)
        self.low, high = bisect_left(rows, start), bisect_left(rows, end)
        self.picked = [offset + row - start for row in rows[self.low : high]]
        self.targets = targets[self.low : high]


def _parts(hidden_TD: torch.Tensor, reads: list[_Read], compute_logits, vocabulary: int) -> list[torch.Tensor]:
    """For each request what this step adds to its answer. Requests that want the same go through the head together."""
    parts: dict[int, torch.Tensor] = {}
    for options in dict.fromkeys(read.options for read in reads):
        group = [i for i, read in enumerate(reads) if read.options == options]
        picked, targets = ([v for i in group for v in getattr(reads[i], name)] for name in ("picked", "targets"))
        scores = _scores(hidden_TD, picked, targets, options, compute_logits, vocabulary)
        parts |= dict(zip(group, scores.split([len(reads[i].picked) for i in group]), strict=True))
    return [parts[i] for i in range(len(reads))]


def _scores(hidden_TD, picked: list[int], targets: list[int], options: HeadOptions, compute_logits, vocabulary: int) -> torch.Tensor:
    """[len(picked), `columns`] float32 on the CPU."""
    index = torch.tensor(picked, dtype=torch.long, device=hidden_TD.device)
    target = torch.tensor(targets, dtype=torch.long, device=hidden_TD.device)
    chunk, block = _rows_at_once(hidden_TD, options.chunk_mib << 20, vocabulary)
    out = [torch.zeros(0, columns(options))]
    for rows, wanted in zip(index.split(chunk), target.split(chunk), strict=True):
        if not len(rows):
            break
        z = compute_logits(hidden_TD[rows])
        if z is None:  # tensor parallel: the logits are gathered on rank 0, whose answers are the ones that vLLM takes
            out.append(torch.zeros(len(rows), columns(options)))
            continue
        for z_part, part in zip(z.split(block), wanted.split(block), strict=True):
            out.append(_flat(scores_of(z_part.float(), part, options)).cpu())
    return torch.cat(out)


def _rows_at_once(hidden_TD, bound: int, vocabulary: int) -> tuple[int, int]:
    """Rows whose logits are made at once, and rows of those that go through the sums.

    A logit is there twice where vLLM caps, scales or gathers; in the sums it has a float32 copy, an exponential, and a
    mask of ties.
    """
    logit, summed = 2 * hidden_TD.element_size() * vocabulary, 9 * vocabulary
    if hidden_TD.device.type != "cpu":
        rows = max(1, bound // (logit + summed))
        return rows, rows
    block = max(1, min(CACHE_MIB * torch.get_num_threads() << 20, bound // 4) // summed)
    chunk = max(1, (bound - block * summed) // logit)
    return chunk, min(block, chunk)


def columns(options: HeadOptions) -> int:
    """Width of an answer: log-probability, entropy; if asked for, tempered entropy, second moment, k log-probabilities
    and k ids."""
    return 2 + (options.temperature is not None) + options.second + 2 * options.top_k


def _flat(scores: PositionScores) -> torch.Tensor:
    numbers = [v[:, None] for v in (scores.logprob, scores.entropy, scores.tempered, scores.second) if v is not None]
    lists = [v for v in (scores.top_logprobs, scores.top_ids) if v is not None]
    return torch.cat([v.float() for v in numbers + lists], 1)  # float32 holds ids below 16,777,216 exactly


def scores_from(values: np.ndarray, options: HeadOptions) -> TokenScores:
    """The reverse of it: [rows, `columns`] by name."""
    rest = iter(values.T[2 : 2 + (options.temperature is not None) + options.second])
    tempered = next(rest) if options.temperature is not None else None
    scores = TokenScores(values[:, 0], values[:, 1], tempered, second=next(rest) if options.second else None)
    k, at = options.top_k, values.shape[1] - 2 * options.top_k
    return replace(scores, top_ids=values[:, at + k :].astype(np.int32), top_logprobs=values[:, at : at + k]) if k else scores


def _assemble(parts: list[tuple[int, torch.Tensor]], total: int) -> torch.Tensor:
    """Placed by position, not appended: a request that vLLM preempts computes some rows twice."""
    out, filled = torch.zeros(total, parts[0][1].shape[1]), torch.zeros(total, dtype=torch.bool)
    for low, part in parts:
        out[low : low + len(part)] = part
        filled[low : low + len(part)] = True
    if not filled.all():
        raise RuntimeError(f"vLLM skipped wanted row {int((~filled).nonzero()[0])} of {total}: it was read from the prefix cache")
    return out
