"""What the loop reads: forget rows streamed from the store, retain rows from tokenised data, in an order that depends only on the seed.

The store is read part by part (parts in a seeded order, rows of a part in a seeded order), so memory holds one part however large the
store. A step is `batch_size` forget rows and as many retain rows, cut into forward passes of at most `batch_tokens` tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from shared.budget import within_budget
from shared.errors import StoreError
from shared.examples import Example
from shared.scores import Store
from shared.weights import Selection, token_weights

READ = ("example_id", "input_ids", "is_target", "logprob", "importance")
"""columns of the store that training needs"""


@dataclass(frozen=True)
class Item:
    """One sequence and the tokens of it that a loss touches; K weighted target tokens."""

    ids: list[int]
    positions: list[int]
    """[K] token positions with a weight above zero"""
    weights: np.ndarray
    """[K] float32"""
    ref_logp: np.ndarray | None = None
    """[K] log-probabilities of the scored model, nats"""


@dataclass(frozen=True)
class Pass:
    """One forward pass: forget and retain sequences together, so that they share their prefixes."""

    forget: list[Item]
    retain: list[Item]


def item_of_row(row: dict[str, Any], *, selection: Selection, where: str) -> Item:
    """A row of the store as an item; tokens whose weight is zero are left out here and cost nothing from then on."""
    targets = [i for i, t in enumerate(row["is_target"]) if t]
    stored = [row["importance"][i] for i in targets]
    values = None if any(v is None for v in stored) else np.array(stored, dtype=np.float64)
    weights = token_weights(values, len(targets), selection, where=where)
    kept = np.flatnonzero(weights > 0)
    positions = [targets[k] for k in kept]
    reference = np.array([row["logprob"][i] for i in positions], dtype=np.float32)
    if not np.isfinite(reference).all():
        raise StoreError(f"{where}: {row['example_id']} has no finite log-probability at a target token; score again")
    return Item(row["input_ids"], positions, weights[kept], reference)


def item_of_example(example: Example) -> Item:
    """Retain and fine-tuning rows: every target token with weight 1."""
    targets = example.targets
    return Item(example.input_ids, targets, np.ones(len(targets), dtype=np.float32))


def forget_items(
    store: Store, make: Callable[[dict[str, Any]], Item], *, seed: int, epoch: int, limit: int | None = None
) -> Iterator[Item]:
    """The forget set once, in the order of (seed, epoch)."""
    starts = np.cumsum([0] + [p["rows"] for p in store.manifest["parts"]])
    for part in np.random.default_rng([seed, epoch]).permutation(len(starts) - 1):
        rows = store.part(int(part), READ)
        if limit is not None:
            rows = rows[: max(0, limit - int(starts[part]))]
        for index in np.random.default_rng([seed, epoch, int(part)]).permutation(len(rows)):
            yield make(rows[index])
        del rows  # or it would stay in memory while the next part is read


def endless(items: Sequence[Item], *, seed: int) -> Iterator[Item]:
    """Items in a seeded order, a new one each time around."""
    around = 0
    while True:
        for index in np.random.default_rng([seed, 1_000_000 + around]).permutation(len(items)):
            yield items[index]
        around += 1


def steps(forget: Iterator[Item], retain: Iterator[Item] | None, *, batch_size: int, batch_tokens: int) -> Iterator[list[Pass]]:
    """Groups of `batch_size` rows as forward passes; the last group may be smaller."""
    while True:
        pairs = [(item, next(retain) if retain is not None else None) for item in islice(forget, batch_size)]
        if not pairs:
            return
        yield cut(pairs, batch_tokens)


def cut(pairs: Sequence[tuple[Item, Item | None]], batch_tokens: int) -> list[Pass]:
    """Consecutive pairs in passes of at most `batch_tokens` tokens (a longer pair stands alone)."""
    lengths = [len(forget.ids) + (len(retain.ids) if retain else 0) for forget, retain in pairs]
    runs = [pairs[start:end] for start, end in within_budget(lengths, batch_tokens)]
    return [Pass([forget for forget, _ in run], [retain for _, retain in run if retain]) for run in runs]
