"""The torch engine: any device, shared prefixes computed once, the head only at wanted positions."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from shared.engines import Request, TokenScores, ignore
from shared.forest import common_prefix
from shared.logprobs import HeadOptions, PositionScores, score_positions
from shared.models import choose_device, choose_dtype, load_model
from shared.packed import PackedModel


class TorchEngine:
    """Scores and generates with a transformers model."""

    def __init__(self, packed: PackedModel, *, batch_tokens: int = 2048, head: HeadOptions | None = None):
        self.packed, self.batch_tokens, self.head = packed, batch_tokens, head or HeadOptions()
        self.head.check(packed.head.weight.shape[0])

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        dtype: str = "float32",
        device: str | None = None,
        batch_tokens: int = 2048,
        head: HeadOptions | None = None,
    ) -> TorchEngine:
        packed = PackedModel(load_model(folder, dtype=choose_dtype(dtype), device=choose_device(device)))
        return cls(packed, batch_tokens=batch_tokens, head=head)

    def describe(self) -> dict[str, Any]:
        model = self.packed.model
        return {
            "name": "torch",
            "version": torch.__version__,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "batching": "forest" if self.packed.packs else "padded",
            "batch_tokens": self.batch_tokens,
        }

    @torch.inference_mode()
    def score(self, requests: Sequence[Request], advance: Callable[[int], None] = ignore) -> list[TokenScores]:
        out: list[TokenScores | None] = [None] * len(requests)
        for batch in self._batches(requests):
            hidden, slots = self.packed.hidden([requests[i].ids for i in batch])
            for extras, options in ((False, self.head.plain), (True, self.head)):
                chosen = [k for k, i in enumerate(batch) if requests[i].extras == extras]
                answers = self._read(hidden, [(requests[batch[k]], slots[k]) for k in chosen], options)
                for k, answer in zip(chosen, answers, strict=True):
                    out[batch[k]] = answer
            advance(sum(len(requests[i].ids) for i in batch))
        return [o for o in out if o is not None]

    def _read(self, hidden_LD: torch.Tensor, chosen: list[tuple[Request, list[int]]], options: HeadOptions) -> list[TokenScores]:
        """Answers to requests, each with the rows of its tokens."""
        rows = [slots[p - 1] for request, slots in chosen for p in request.wanted]
        targets = [request.ids[p] for request, _ in chosen for p in request.wanted]
        device = hidden_LD.device
        scores = score_positions(hidden_LD[_index(rows, device)], _index(targets, device), self.packed.head, options)
        return cut(scores, [len(request.wanted) for request, _ in chosen])

    def _batches(self, requests: Sequence[Request]) -> Iterator[list[int]]:
        """Indices of requests whose distinct tokens fill the budget; sorted, so that those that share prefixes come together."""
        order = sorted((i for i in range(len(requests))), key=lambda i: requests[i].ids)
        batch: list[int] = []
        total = 0
        previous: list[int] = []
        for i in order:
            ids = requests[i].ids
            new = len(ids) - (common_prefix(previous, ids) if batch and self.packed.packs else 0)
            if batch and total + new > self.batch_tokens:
                yield batch
                batch, total, new = [], 0, len(ids)
            batch.append(i)
            total += new
            previous = ids
        if batch:
            yield batch

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[list[int]], *, max_new_tokens: int, stop_ids: Sequence[int], advance: Callable[[int], None] = ignore
    ) -> list[list[int]]:
        """Greedy continuations, without the prompt and without the stop token. Rows of similar length share a batch, padded on the left."""
        model, out = self.packed.model, [[] for _ in prompts]
        own, model.generation_config = model.generation_config, GenerationConfig()  # a model's folder may ask for anything but greedy
        try:
            self._generate(model, prompts, out, max_new_tokens, list(stop_ids), advance)
        finally:
            model.generation_config = own
        return out

    def _generate(self, model, prompts, out, max_new_tokens, stop_ids, advance) -> None:
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        size = max(1, self.batch_tokens // (max(map(len, prompts), default=1) + max_new_tokens))
        for at in range(0, len(order), size):
            batch = order[at : at + size]
            longest = max(len(prompts[i]) for i in batch)
            ids = torch.tensor([[stop_ids[0]] * (longest - len(prompts[i])) + prompts[i] for i in batch], device=model.device)
            mask = torch.tensor([[0] * (longest - len(prompts[i])) + [1] * len(prompts[i]) for i in batch], device=model.device)
            new = model.generate(
                ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=stop_ids, pad_token_id=stop_ids[0]
            )  # fmt: skip
            for i, row in zip(batch, new[:, longest:].tolist(), strict=True):
                stop = next((k for k, token in enumerate(row) if token in stop_ids), len(row))
                out[i] = row[:stop]
            advance(len(batch))

    def close(self) -> None:
        del self.packed
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def cut(scores: PositionScores, counts: Sequence[int]) -> list[TokenScores]:
    """Consecutive pieces of these lengths, float32 and int32, on the CPU."""
    arrays: list[Any] = [None if v is None else (v.float() if v.is_floating_point() else v.int()).cpu().numpy() for v in scores]
    ends = np.cumsum(counts).tolist()
    pieces: list[list[Any]] = [[None if v is None else v[e - n : e] for v in arrays] for e, n in zip(ends, counts, strict=True)]
    return [TokenScores(*piece) for piece in pieces]


def _index(values: list[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.long, device=device)  # without the dtype an empty list would make floats
