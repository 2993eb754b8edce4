"""The torch engine: any device, shared prefixes computed once, the head only at wanted positions."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shared.budget import padded_batches
from shared.engines.choosing import Choose, likeliest
from shared.engines.interface import Request, TokenScores, ignore, limits_of
from shared.engines.torch_generate import TextWriter
from shared.lm.forest import common_prefix
from shared.lm.logprobs import HeadOptions, PositionScores, score_positions
from shared.lm.memory import keep_freed_memory
from shared.lm.models import choose_device, choose_dtype, load_model
from shared.lm.packed import PackedModel

GROWTH = (1, 2, 4, 8, 16, 32)
"""How many times `batch_tokens` a pass may hold. A pass computes again what it shares with the one before, which is
much where variants of one long text each begin with that text: …"""
NEARLY = 1.03
"""… the smallest passes are taken that compute at most this many times the tokens that the largest would."""


class TorchEngine:
    """Scores and writes with a transformers model: an Engine and a Generator in one."""

    def __init__(self, packed: PackedModel, *, batch_tokens: int = 2048, head: HeadOptions | None = None):
        self.packed, self.batch_tokens, self.head = packed, batch_tokens, head or HeadOptions()
        self.head.check(packed.head.weight.shape[0])
        self.writer: TextWriter | None = None
        """made when first needed"""

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
        keep_freed_memory()
        model = load_model(folder, dtype=choose_dtype(dtype), device=choose_device(device))
        return cls(PackedModel(model), batch_tokens=batch_tokens, head=head)

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
        # The last wanted token is a target only, so the model does not read it.
        read = [r.ids[: max(r.wanted, default=1)] for r in requests]
        for batch in self._batches(read):
            hidden, slots = self.packed.hidden([read[i] for i in batch])
            for extras, options in ((False, self.head.plain), (True, self.head)):
                chosen = [k for k, i in enumerate(batch) if requests[i].extras == extras]
                answers = self._read(hidden, [(requests[batch[k]], slots[k]) for k in chosen], options)
                for k, answer in zip(chosen, answers, strict=True):
                    out[batch[k]] = answer
            advance(sum(len(requests[i].ids) for i in batch))
        return [o for o in out if o is not None]

    def _read(self, hidden_LD: torch.Tensor, chosen: list[tuple[Request, list[int]]], options: HeadOptions) -> list[TokenScores]:
        """Answers to requests, each with the rows of its tokens. A (row, target) that several ask for goes through the
        head once."""
        rows = np.array([slots[p - 1] for request, slots in chosen for p in request.wanted], dtype=np.int64)
        targets = np.array([request.ids[p] for request, _ in chosen for p in request.wanted], dtype=np.int64)
        _, first, back = np.unique(rows << 32 | targets, return_index=True, return_inverse=True)
        rows_N, targets_N, back_W = (torch.from_numpy(x).to(hidden_LD.device) for x in (rows[first], targets[first], back))
        scores = score_positions(hidden_LD[rows_N], targets_N, self.packed.head, options)
        wanted = PositionScores._make(None if x is None else x[back_W] for x in scores)
        return cut(wanted, [len(request.wanted) for request, _ in chosen])

    def _batches(self, sequences: Sequence[list[int]]) -> Iterator[list[int]]:
        """Indices of sequences that share a forward pass. Packed: in sorted order, so that those that share prefixes
        come together. Padded: in order of length."""
        if not self.packed.packs:
            yield from padded_batches([len(s) for s in sequences], self.batch_tokens)
            return
        order = sorted(range(len(sequences)), key=sequences.__getitem__)
        lengths = [len(sequences[i]) for i in order]
        common = [0, *(common_prefix(sequences[a], sequences[b]) for a, b in itertools.pairwise(order))][: len(order)]
        for first, last in _row_lengths(lengths, common, self.batch_tokens):
            yield order[first:last]

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[list[int]],
        *,
        max_new_tokens: int | Sequence[int],
        stop_ids: Sequence[int],
        advance: Callable[[int], None] = ignore,
        choose: Choose = likeliest,
    ) -> list[list[int]]:
        if self.writer is None:
            self.writer = TextWriter(self.packed, self.batch_tokens)
        return self.writer.write(prompts, limits_of(max_new_tokens, prompts), stop_ids, advance, choose)

    def close(self) -> None:
        del self.packed, self.writer
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _row_lengths(lengths: Sequence[int], common: Sequence[int], budget: int) -> list[tuple[int, int]]:
    """Runs of sorted sequences that share a pass. `common`: tokens that each shares with the one before. One too long
    stands alone."""

    def cut_at(budget: int) -> tuple[list[tuple[int, int]], int]:
        runs, first, total, computed = [], 0, 0, 0
        for i, (length, shared) in enumerate(zip(lengths, common, strict=True)):
            if i > first and total + length - shared > budget:
                runs.append((first, i))
                first, total, computed = i, shared, computed + total
            total += length - shared
        return ([*runs, (first, len(lengths))] if lengths else []), computed + total

    options = [cut_at(budget * growth) for growth in GROWTH]
    return next(runs for runs, computed in options if computed <= NEARLY * options[-1][1])


def cut(scores: PositionScores, counts: Sequence[int]) -> list[TokenScores]:
    """Consecutive pieces of these lengths, float32 and int32, on the CPU."""
    arrays: list[Any] = [None if v is None else (v.float() if v.is_floating_point() else v.int()).cpu().numpy() for v in scores]
    ends = np.cumsum(counts).tolist()
    pieces: list[list[Any]] = [[None if v is None else v[e - n : e] for v in arrays] for e, n in zip(ends, counts, strict=True)]
    return [TokenScores(*piece) for piece in pieces]
