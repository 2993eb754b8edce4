"""The vLLM engine: log-probability and entropy out of vLLM's pooling runner, through the plugin in vllm_pooler.py.

Only wanted positions go through the head. Each request carries its wanted rows and their target tokens as pooling
parameters, and the tokens after the last wanted row are not computed at all.

Prefix caching: a request reads its beginning from the cache only when no other request of the same call agrees with it
as far as its first wanted row. So a cache hit can never swallow a wanted row: masked variants read the cache, plain
passes do not. The cache is emptied at the start of every `score`, so that earlier calls change nothing. Give a plain
pass before its masked variants, which then find its blocks.

No device is named in this code, but it has run on vLLM's CPU build only, never on a GPU (docs/vllm.md).

Importing this module does not import vllm; the first engine does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from shared.budget import within_budget
from shared.engines.interface import Request, TokenScores, ignore
from shared.engines.vllm_model import Opening, Vllm
from shared.engines.vllm_pooler import columns, scores_from
from shared.lm.forest import common_prefix
from shared.lm.logprobs import HeadOptions


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
        self.head, self.batch_tokens = head or HeadOptions(), batch_tokens
        opening = Opening(
            folder=folder, scoring=True, dtype=dtype, device=device, batch_tokens=batch_tokens, tensor_parallel=tensor_parallel
        )
        self.vllm = Vllm(opening, self._try_out)
        self.llm = self.vllm.llm

    def _try_out(self, llm: Any) -> None:
        params = [_params([0], [0], self.head.plain)]
        llm.encode([{"prompt_token_ids": [0]}], pooling_params=params, pooling_task="token_classify", use_tqdm=False)
        self.head.check(llm.llm_engine.model_config.get_vocab_size())

    def describe(self) -> dict[str, Any]:
        return self.vllm.describe()

    def score(self, requests: Sequence[Request], advance: Callable[[int], None] = ignore) -> list[TokenScores]:
        """Answers in the order of the requests. Raises ModelError when one is longer than vLLM's cache or the model's
        context."""
        self.vllm.check_ids(r.ids for r in requests)
        self.llm.reset_prefix_cache()
        out = [scores_from(np.zeros((0, columns(o)), np.float32), o) for o in map(self._options_of, requests)]
        asked = [i for i, r in enumerate(requests) if r.wanted]
        shared = longest_shared([requests[i].ids for i in asked])
        rows = {i: sorted({p - 1 for p in requests[i].wanted}) for i in asked}
        for i in asked:
            self.vllm.check_length(rows[i][-1] + 1, f"a request of {len(requests[i].ids)} tokens")
        # The last wanted token is a target only, so the prompt ends before it.
        prompts = [{"prompt_token_ids": list(requests[i].ids[: rows[i][-1] + 1])} for i in asked]
        params = [self._params(requests[i], rows[i], skip_cache=overlap > rows[i][0]) for i, overlap in zip(asked, shared, strict=True)]
        advance(sum(len(r.ids) for r in requests if not r.wanted))
        # In pieces, so that `advance` is called while the work goes on; the pieces depend on the requests alone, like
        # everything else here.
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

    def close(self) -> None:
        """Shuts the engine down and frees weights and cache: a second one can follow in the same process."""
        del self.llm
        self.vllm.close()


def _params(rows: list[int], targets: list[int], options: HeadOptions, *, skip_cache: bool = True) -> Any:
    from vllm import PoolingParams

    wish = {"rows": rows, "targets": targets, "head": list(astuple(options))}
    return PoolingParams(task="token_classify", skip_reading_prefix_cache=skip_cache, extra_kwargs=wish)


def longest_shared(sequences: Sequence[list[int]]) -> list[int]:
    """For each sequence the length of the longest prefix that it shares with any other. Neighbours in sorted order show
    it."""
    order = sorted(range(len(sequences)), key=lambda i: sequences[i])
    out = [0] * len(sequences)
    for a, b in itertools.pairwise(order):
        overlap = common_prefix(sequences[a], sequences[b])
        out[a], out[b] = max(out[a], overlap), max(out[b], overlap)
    return out
