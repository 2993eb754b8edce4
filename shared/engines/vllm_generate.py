"""Greedy text from vLLM as it is, without our pooler: its own continuous batching, its own head.

The scheduler runs in our process and in a fixed order, the prefix cache is emptied at the start of every call, and the
model's folder has no say in how tokens are chosen. Importing this module does not import vllm; the first generator
does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shared.engines.interface import ignore, limits_of
from shared.engines.vllm_model import Opening, Vllm
from shared.engines.vllm_open import MAX_SEQUENCES


class VllmGenerator:
    """Writes with vLLM; one vLLM at a time in a process, whether it scores or writes.

    Raises ConfigError without vLLM or the device, ModelError for a model that it cannot run.
    """

    def __init__(self, folder: Path, *, dtype: str = "float32", device: str | None = None, batch_tokens: int = 2048):
        opening = Opening(folder=folder, scoring=False, dtype=dtype, device=device, batch_tokens=batch_tokens)
        self.vllm = Vllm(opening, lambda llm: llm.generate([{"prompt_token_ids": [0]}], _greedy(1, []), use_tqdm=False))

    def describe(self) -> dict[str, Any]:
        return self.vllm.describe()

    def generate(
        self,
        prompts: Sequence[list[int]],
        *,
        max_new_tokens: int | Sequence[int],
        stop_ids: Sequence[int],
        advance: Callable[[int], None] = ignore,
    ) -> list[list[int]]:
        """Raises ModelError when a prompt with its answer is longer than vLLM's cache or the model's context."""
        llm, out = self.vllm.llm, []
        self.vllm.check_ids(prompts)
        llm.reset_prefix_cache()
        limits = limits_of(max_new_tokens, prompts)
        for prompt, limit in zip(prompts, limits, strict=True):
            self.vllm.check_length(len(prompt) + limit, f"a prompt of {len(prompt)} tokens and {limit} new ones")
        for at in range(0, len(prompts), MAX_SEQUENCES):  # in pieces, so that `advance` is called while the work goes on
            piece = slice(at, at + MAX_SEQUENCES)
            params = [_greedy(limit, stop_ids) for limit in limits[piece]]
            answers = llm.generate([{"prompt_token_ids": p} for p in prompts[piece]], params, use_tqdm=False)
            for answer in answers:
                ids = list(answer.outputs[0].token_ids)
                out.append(ids[:-1] if ids and ids[-1] in stop_ids else ids)
            advance(len(answers))
        return out

    def close(self) -> None:
        """Shuts vLLM down and frees weights and cache: another one can follow in the same process."""
        self.vllm.close()


def _greedy(limit: int, stop_ids: Sequence[int]) -> Any:
    from vllm import SamplingParams

    # The caller's stop tokens alone end an answer, not what the model's folder calls its end.
    return SamplingParams(temperature=0.0, max_tokens=limit, stop_token_ids=list(stop_ids), ignore_eos=True, detokenize=False)
