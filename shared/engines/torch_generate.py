"""Text for many prompts: a pass for the prompts, then a pass a token for all rows that still write.

Prompts go through the forest, so what they share (a system turn) is computed once. Their keys and values are kept, one
place for each row (shared/engines/torch_cache.py). Each further pass reads the last token of every row as one packed
row, so nothing is padded but the keys of shorter rows. When a row ends, the last row moves to its place, and waiting
prompts are read when enough places are free. Only the last position of a row goes through the head; what is written
there is chosen by shared/engines/choosing.py.

A pass reads all weights, however many rows it has: hence many rows write at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from shared.console import say
from shared.engines.choosing import Choose, likeliest
from shared.engines.torch_cache import Cache, read_prompts, read_tokens
from shared.lm.packed import TOLERANCE, PackedModel
from shared.lm.products import linear

MAX_ROWS = {"cpu": 64}
"""rows that write at once: on two cores more gained little; on other devices (256) not measured"""
CACHE_MIB = 1024
"""bound of keys and values, or half of what the weights take if that is more; fewer rows write at once where they would
need more"""
REFILL = 4
"""waiting prompts are read when one in so many places is free"""


class TextWriter:
    """Writes with a model. `cached` says whether its architecture takes the loop above; else transformers' own
    serves."""

    def __init__(self, packed: PackedModel, batch_tokens: int):
        self.packed, self.batch_tokens = packed, batch_tokens
        self.cached, self.bytes_a_token = _try_out(packed)
        if not self.cached:
            say(f"{type(packed.model).__name__} cannot keep keys and values row by row: transformers writes its answers, which is slower")

    def write(
        self, prompts: Sequence[list[int]], limits: Sequence[int], stop_ids: Sequence[int], advance: Callable[[int], None],
        choose: Choose = likeliest,
    ) -> list[list[int]]:  # fmt: skip
        """For each prompt at most `limits` tokens, without the one of `stop_ids` that ended it; `advance(rows)` as rows
        end."""
        self.packed.check_ids(prompts)
        asked = [i for i, limit in enumerate(limits) if limit > 0]
        advance(len(limits) - len(asked))
        out: list[list[int]] = [[] for _ in prompts]
        bounds = [bound for bound in (self.packed.reach, self.packed.turn) if bound is not None]
        short = [i for i in asked if all(len(prompts[i]) + limits[i] <= bound for bound in bounds)]
        long = sorted(set(asked) - set(short))
        for rows, write in ((short, self._write if self.cached else self._leave_to_transformers), (long, self._leave_to_transformers)):
            if rows:
                write(out, prompts, limits, rows, list(stop_ids), advance, choose)
        return out

    def _write(self, out, prompts, limits, asked, stop_ids, advance, choose) -> None:
        places = self._places([len(prompts[i]) + limits[i] for i in asked])
        cache, rows, head = Cache(places), [], self.packed.head
        waiting = sorted(asked, key=lambda i: len(prompts[i]))

        def note(first: int, hidden_BD: torch.Tensor) -> None:
            """The rows from place `first` on have written one more token, or end."""
            chosen = choose(head.finished(linear(hidden_BD, head.weight, head.bias)), [row.index for row in rows[first:]])
            for place in range(len(rows) - 1, first - 1, -1):
                row, token = rows[place], chosen[place - first]
                if token not in stop_ids:
                    row.new.append(token)
                    if len(row.new) < limits[row.index]:
                        continue
                out[row.index], last = row.new, rows.pop()
                if last is not row:
                    cache.move(len(rows), place, last.position)
                    rows[place] = last
                advance(1)

        while waiting or rows:
            while waiting and places - len(rows) >= max(1, places // REFILL):
                batch = self._next(waiting, prompts, places - len(rows))
                first = len(rows)
                rows += [_Row(i, len(prompts[i])) for i in batch]
                note(first, read_prompts(self.packed, cache, first, [prompts[i] for i in batch]))
            if rows:
                note(0, read_tokens(self.packed, cache, [r.new[-1] for r in rows], [r.position for r in rows]))

    def _places(self, lengths: Sequence[int]) -> int:
        """Rows that write at once, the longest of `lengths` tokens."""
        weights = sum(p.numel() * p.element_size() for p in self.packed.model.parameters())
        bound = max(CACHE_MIB << 20, weights // 2)
        fitting = bound // (self.bytes_a_token * max(lengths, default=1))
        return max(1, min(fitting, MAX_ROWS.get(self.packed.model.device.type, 256), len(lengths)))

    def _next(self, waiting: list[int], prompts, places: int) -> list[int]:
        """Takes the longest of the waiting prompts that fill one pass."""
        batch, total = [], 0
        while waiting and len(batch) < places and (not batch or total + len(prompts[waiting[-1]]) <= self.batch_tokens):
            batch.append(waiting.pop())
            total += len(prompts[batch[-1]])
        return batch

    def _leave_to_transformers(self, out, prompts, limits, asked, stop_ids, advance, choose) -> None:
        model: Any = self.packed.model
        own, model.generation_config = model.generation_config, GenerationConfig()  # a model's folder may cut or bend the distribution
        try:
            for batch in self._padded_batches(prompts, limits, asked):
                longest = max(len(prompts[i]) for i in batch)
                pads = [longest - len(prompts[i]) for i in batch]
                ids = torch.tensor([[0] * n + prompts[i] for n, i in zip(pads, batch, strict=True)], device=model.device)
                mask = torch.tensor([[0] * n + [1] * (longest - n) for n in pads], device=model.device)
                new = model.generate(
                    ids, attention_mask=mask, max_new_tokens=limits[batch[0]], do_sample=False, eos_token_id=stop_ids,
                    pad_token_id=stop_ids[0], logits_processor=LogitsProcessorList([partial(_only_chosen, choose, batch)]),
                )  # fmt: skip
                for i, row in zip(batch, new[:, longest:].tolist(), strict=True):
                    out[i] = row[: next((k for k, token in enumerate(row) if token in stop_ids), len(row))]
                advance(len(batch))
        finally:
            model.generation_config = own

    def _padded_batches(self, prompts, limits, asked) -> list[list[int]]:
        """Of one limit, which transformers gives a batch: a model with learned positions cannot write past it. Within
        `batch_tokens`."""
        batches: list[list[int]] = []
        for i in sorted(asked, key=lambda i: (limits[i], len(prompts[i]))):
            last = batches[-1] if batches else []
            if last and limits[last[0]] == limits[i] and (len(last) + 1) * (len(prompts[i]) + limits[i]) <= self.batch_tokens:
                last.append(i)
            else:
                batches.append([i])
        return batches


@dataclass
class _Row:
    index: int
    prompt: int
    """tokens"""
    new: list[int] = field(default_factory=list)

    @property
    def position(self) -> int:
        """Where its last token stands, which is written but not yet read."""
        return self.prompt + len(self.new) - 1


def _only_chosen(choose: Choose, batch: Sequence[int], ids_BT: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
    """Logits of which the highest is that of the token that is chosen."""
    chosen = torch.tensor(choose(logits_BV, batch), device=logits_BV.device)
    return torch.full_like(logits_BV, -torch.inf).scatter_(1, chosen[:, None], 0.0)


@torch.inference_mode()
def _try_out(packed: PackedModel) -> tuple[bool, int]:
    """Whether reading token by token gives the logits of reading at once, and the bytes of keys and values a token."""
    probes = [[(7 * i + 3) % 50 for i in range(n)] for n in (9, 6, 4)]
    if not packed.packs:
        return False, 0
    hidden, slots = packed.hidden(probes)
    expected = packed.head.logits(hidden[[s[n] for n in (-2, -1) for s in slots]])
    cache = Cache(len(probes))
    try:
        first = read_prompts(packed, cache, 0, [p[:-1] for p in probes])
        second = read_tokens(packed, cache, [p[-1] for p in probes], [len(p) - 1 for p in probes])
    except torch.OutOfMemoryError:
        raise  # says nothing about the architecture
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return False, 0
    stepwise = packed.head.logits(torch.cat([first, second]))
    bound = TOLERANCE[packed.head.weight.dtype] * expected.abs().max().item()
    return bool((stepwise - expected).abs().max() <= bound), cache.bytes_a_token()
