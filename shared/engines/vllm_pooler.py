"""A vLLM plugin: exact log-probability and entropy at wanted positions, computed in the worker where the hidden states are.

vLLM's own `prompt_logprobs` gives only the top k (so no exact entropy) and changes with prefix caching. Its pooling runner hands the hidden
states of a prompt to a pooler instead; the one here puts the wanted rows through the model's own head. Chunked prefill calls it once a
chunk, so it keeps the small results between calls, never the hidden states or the logits of a whole prompt.

Request and pooler speak through `PoolingParams.extra_kwargs`: `rows` (0-based positions of hidden states, ascending) and
`targets` (the token each row should predict); the answer is a float32 tensor [len(rows), 2] of log-probability and entropy, nats.

Cost a row: one head product, the same as in generation; memory: logits of as many rows as fill shared.logprobs.CHUNK_MIB.

Imported by vLLM in each of its processes through the entry point, hence no import of vllm at the top: `register` must stay cheap.
"""

from __future__ import annotations

import importlib
import os
from bisect import bisect_left
from typing import Any

import torch

from shared.logprobs import CHUNK_MIB, rows_per_chunk

ACTIVATE = "TU_SCORING"
PLUGIN = "token_unlearn"
"""the name of the entry point in pyproject.toml"""


def register() -> None:
    """Entry point `vllm.general_plugins`. In a scoring process every text architecture comes with the pooler, under its own name.

    Does nothing where TU_SCORING is not 1: the plugin is loaded in every vLLM process of the environment, whoever started it.
    """
    if os.environ.get(ACTIVATE) != "1":
        return
    from vllm import ModelRegistry

    for architecture, (module, name) in text_architectures().items():
        ModelRegistry.register_model(architecture, f"{__name__}:{module}__{name}")


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
            self.pooler = _pooler_class()(self)

    Scoring.__name__ = Scoring.__qualname__ = "Scoring" + base.__name__
    return Scoring


def _pooler_class() -> type:
    from vllm.model_executor.layers.pooler.abstract import Pooler
    from vllm.model_executor.layers.pooler.common import PoolingParamsUpdate

    class LogprobPooler(Pooler):
        def __init__(self, model):
            super().__init__()
            self.logits_of = model.compute_logits  # a bound method is no submodule: the weights load once, as the model's own

        def get_supported_tasks(self):
            return {"token_classify"}

        def get_pooling_updates(self, task):
            return PoolingParamsUpdate()

        def forward(self, hidden_states, pooling_metadata):
            return pool(hidden_states, pooling_metadata, self.logits_of)

    return LogprobPooler


def pool(hidden_TD: torch.Tensor, metadata: Any, compute_logits) -> list[torch.Tensor | None]:
    """One answer a request of this step, None for those whose prompt goes on in a later step. T scheduled tokens, D width."""
    cursor = metadata.get_pooling_cursor()
    scheduled, ends = cursor.num_scheduled_tokens_cpu.tolist(), cursor.seq_lens_cpu.tolist()
    picked, targets, parts, offset = [], [], [], 0
    for params, count, end in zip(metadata.pooling_params, scheduled, ends, strict=True):
        rows, wanted = (params.extra_kwargs or {}).get("rows", []), (params.extra_kwargs or {}).get("targets", [])
        start = end - count  # the chunk holds positions start … end-1 of the prompt
        low, high = bisect_left(rows, start), bisect_left(rows, end)
        picked += [offset + row - start for row in rows[low:high]]
        targets += wanted[low:high]
        parts.append((low, high, len(rows)))
        offset += count
    scores = _scores(hidden_TD, picked, targets, compute_logits)
    answers: list[torch.Tensor | None] = []
    for state, (low, _, total), part, finished in zip(
        metadata.pooling_states, parts, scores.split([high - low for low, high, _ in parts]), cursor.get_finished_mask(), strict=True
    ):
        state.hidden_states_cache.append((low, part))
        answers.append(_assemble(state.hidden_states_cache, total) if finished else None)
        if finished:
            state.clean()
    return answers


def _scores(hidden_TD: torch.Tensor, picked: list[int], targets: list[int], compute_logits) -> torch.Tensor:
    """[len(picked), 2] float32 on the CPU: log-probability of the targets and entropy, nats."""
    index = torch.tensor(picked, dtype=torch.long, device=hidden_TD.device)
    target = torch.tensor(targets, dtype=torch.long, device=hidden_TD.device)
    out, at, step = [], 0, 1  # one row first: only its logits tell how wide the vocabulary is
    while at < len(picked):
        z = compute_logits(hidden_TD[index[at : at + step]]).float()
        log_norm = z.logsumexp(-1, keepdim=True)
        logp = z.gather(1, target[at : at + step, None])[:, 0] - log_norm[:, 0]
        z = z - log_norm
        # 0 · log 0 is 0: a forbidden token (logit −inf) adds nothing to the entropy
        entropy = -(z.exp() * z.clamp_min(torch.finfo(z.dtype).min)).sum(-1)
        out.append(torch.stack([logp, entropy], 1))
        at, step = at + len(logp), rows_per_chunk(z.shape[1], CHUNK_MIB)
    return torch.cat(out).cpu() if out else torch.zeros(0, 2)


def _assemble(parts: list[tuple[int, torch.Tensor]], total: int) -> torch.Tensor:
    """Placed by position, not appended: a request that vLLM preempts computes some rows twice."""
    out, seen = torch.zeros(total, 2), torch.zeros(total, dtype=torch.bool)
    for low, part in parts:
        out[low : low + len(part)] = part
        seen[low : low + len(part)] = True
    if not seen.all():
        raise RuntimeError(f"vLLM skipped wanted row {int((~seen).nonzero()[0])} of {total}: it was read from the prefix cache")
    return out
