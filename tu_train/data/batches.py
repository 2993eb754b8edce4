"""What the loop reads: rows of the store and of tokenised data as items, in an order that depends only on the seed.

The store is read part by part (parts in a seeded order, rows of a part in a seeded order), so memory holds one part
however large the store. A step is `accumulate` times `batch_size` forget rows and as many retain rows, cut into forward
passes of at most `batch_tokens` tokens. Everything is a function of the seed and the position, so that a resumed run
goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from shared.budget import within_budget
from shared.data.examples import Example
from shared.errors import StoreError
from shared.weighting.weights import Selection, token_weights
from tu_train.data.unscored import RowsInParts

READ = ("example_id", "input_ids", "is_target", "logprob", "importance")
"""columns of the store that training on its rows as forget set needs"""
READ_TOP = ("example_id", "input_ids", "is_target", "top_ids", "top_logprobs")
"""... and as retain set, for KL to the scored model"""
ROUNDING = 1e-2
"""nats by which a log-probability may be above 0"""
RETAIN_EPOCH = 1_000_000
"""retain rows are drawn as if they were epochs from this one on, so that no order is used twice"""


@dataclass(frozen=True)
class Item:
    """One sequence and the tokens of it that a loss sees: K target tokens."""

    ids: list[int]
    positions: list[int]
    """[K] token positions, each at least 1"""
    weights: np.ndarray
    """[K] float32"""
    ref_logp: np.ndarray | None = None
    """[K] log-probabilities of the scored model, nats"""
    name: str = ""
    """the example's id"""
    places: np.ndarray | None = None
    """[K] which target token of its row each is; None: 0 .. K-1"""
    top_ids: np.ndarray | None = None
    """[K, k] the likeliest tokens under the scored model"""
    top_logp: np.ndarray | None = None
    partner: Item | None = None
    """the same question with another answer: a refusal, an alternate"""


@dataclass(frozen=True)
class PassRows:
    """One forward pass: forget and retain sequences together, so that they share their prefixes."""

    forget: list[Item]
    retain: list[Item]
    corpus: int = 0
    """which forget corpus of the run they belong to"""
    counts: bool = True
    """False: nothing is learned from it; it keeps a rank in step with others that have more passes"""


Pair = tuple[Item | None, Item | None]
"""a forget row and the retain row beside it; one of the two may be missing"""


def item_of_row(
    row: Mapping[str, Any],
    *,
    selection: Selection,
    where: str,
    all_targets: bool = False,
    given: Mapping[str, set[int]] | None = None,
    partners: Mapping[str, Item] | None = None,
    rows: int | None = None,
) -> Item:
    """A row of the store (or of `Unscored`) as an item; tokens whose weight is zero are left out here and cost nothing
    from then on.

    `all_targets` keeps them, for methods that read them, without their reference value. `given`: the positions of
    tokens=given, by example. `rows`: of the embedding. Raises StoreError naming row and column for values that no
    scoring gives, where they would be used.
    """
    check_row(row, where=where, columns=("importance", "logprob", "word"), rows=rows)
    targets, name = [i for i, t in enumerate(row["is_target"]) if t], row["example_id"]
    values = importance_of(row, targets, where=where) if selection.tokens in ("hard", "soft") else None
    if given is not None and name not in given:
        raise StoreError(f"{where}: {name} is none of the rows that were scored; score again")
    truth = None if given is None else np.array([i in given[name] for i in targets])
    weights = token_weights(
        values, len(targets), selection, where=where, example_id=name, given=truth, word=word_of(row, targets)
    )  # fmt: skip
    kept = np.arange(len(targets)) if all_targets and weights.any() else np.flatnonzero(weights > 0)
    positions, weights = [targets[k] for k in kept], weights[kept]
    reference = reference_of(row, positions, weights, where=where) if "logprob" in row else None
    if partners is not None and name not in partners:
        raise StoreError(f"{where}: {name} is none of the rows that were scored; score again")
    return Item(row["input_ids"], positions, weights, reference, name, kept, partner=None if partners is None else partners[name])


def reference_of(row: Mapping[str, Any], positions: Sequence[int], weights: np.ndarray, *, where: str) -> np.ndarray:
    """[K] log-probabilities under the scored model, nats; 0 at tokens of weight zero."""
    name = row["example_id"]
    reference = np.array([row["logprob"][i] if w > 0 else 0 for i, w in zip(positions, weights, strict=True)], dtype=np.float32)
    if not np.isfinite(reference).all():
        raise StoreError(f"{where}: {name} has no finite log-probability at a target token (column logprob); score again")
    if (reference > ROUNDING).any():
        raise StoreError(f"{where}: {name} has a log-probability above 0 at a target token (column logprob); score again")
    return reference


def check_row(row: Mapping[str, Any], *, where: str, columns: Sequence[str], rows: int | None = None) -> None:
    """Raises StoreError for a row that no scoring writes: a hash says that a store is as it was written, not by whom.

    `columns`: lists, besides ids and targets, that have one entry a token, where the row has them; `rows`: of the
    embedding.
    """
    name, ids, targets = row["example_id"], row["input_ids"], row["is_target"]
    if not isinstance(name, str) or not ids or not targets:
        raise StoreError(f"{where}: a row without example_id, input_ids or is_target; score again")
    for column in ("is_target", *columns):
        if row.get(column) is not None and len(row[column]) != len(ids):
            raise StoreError(f"{where}: {name} has {len(ids)} tokens, but {len(row[column])} entries in column {column}; score again")
    _check_ids(ids, where, name, "input_ids", rows)
    if targets[0]:
        raise StoreError(f"{where}: {name} has its first token as a target (column is_target), which nothing comes before; score again")


def _check_ids(ids: Sequence[Any], where: str, name: str, column: str, rows: int | None) -> None:
    if any(i is None or i < 0 for i in ids):
        raise StoreError(f"{where}: {name} has a null or negative id in column {column}; score again")
    if rows is not None and max(ids) >= rows:
        raise StoreError(f"{where}: {name} has a token with id {max(ids)} (column {column}), but the model's embedding has {rows} rows; "
                         "resize its embedding to its tokenizer, or name the model that was scored")  # fmt: skip


def importance_of(row: Mapping[str, Any], targets: Sequence[int], *, where: str) -> np.ndarray | None:
    """[K] importance of the target tokens; None where the store holds none."""
    stored = row["importance"]
    if stored is None or any(stored[i] is None for i in targets):
        return None
    values = np.array([stored[i] for i in targets], dtype=np.float64)
    if not np.isfinite(values).all() or (values < 0).any():
        raise StoreError(f"{where}: {row['example_id']} has an importance at a target token that is not a number from 0 to 1 (column "
                         "importance); apply the recipe again (tu-score recipe)")  # fmt: skip
    return values


def word_of(row: Mapping[str, Any], targets: Sequence[int]) -> np.ndarray | None:
    """[K] index of each target token's word, NaN between words; None where the store does not say (those of earlier
    versions)."""
    return np.array([row["word"][i] for i in targets], dtype=np.float64) if row.get("word") is not None else None


def columns_to_read(store: RowsInParts) -> tuple[str, ...]:
    """READ, and the words where the store has them."""
    return (*READ, "word") if "word" in store.optional else READ


def only(item: Item, positions: set[int]) -> Item:
    """A row of which a loss sees those tokens alone, each with weight 1."""
    kept = [p for p in item.positions if p in positions]
    return Item(item.ids, kept, np.ones(len(kept), dtype=np.float32), name=item.name)


def item_of_example(example: Example) -> Item:
    """Retain and fine-tuning rows: every target token with weight 1."""
    targets = example.targets
    return Item(example.input_ids, targets, np.ones(len(targets), dtype=np.float32), name=example.id)


def item_of_top_row(row: Mapping[str, Any], *, where: str, rows: int | None = None) -> Item:
    """A row of a scored retain set: every target token with weight 1, and its likeliest tokens under the scored
    model."""
    check_row(row, where=where, columns=("top_ids", "top_logprobs"), rows=rows)
    targets = [i for i, t in enumerate(row["is_target"]) if t]
    ids, logp = ([row[name][i] if row[name] else None for i in targets] for name in ("top_ids", "top_logprobs"))
    if any(not entry for entry in ids):
        raise StoreError(f"{where}: {row['example_id']} has no top tokens at a target; score the retain set again with --topk 64")
    _check_top(ids, logp, where, row["example_id"], rows)
    ones = np.ones(len(targets), dtype=np.float32)
    return Item(row["input_ids"], targets, ones, name=row["example_id"],
                top_ids=np.array(ids, dtype=np.int64), top_logp=np.array(logp, dtype=np.float32))  # fmt: skip


def _check_top(ids: Sequence[Any], logp: Sequence[Any], where: str, name: str, rows: int | None) -> None:
    """Of each target token as many ids and log-probabilities, the same number everywhere."""
    again = "score the retain set again with --topk 64"
    if len({len(entry) for entry in ids} | {len(entry or ()) for entry in logp}) > 1:
        raise StoreError(f"{where}: {name} has other numbers of ids and log-probabilities (columns top_ids, top_logprobs); {again}")
    for entry in ids:
        _check_ids(entry, where, name, "top_ids", rows)
    values = np.array([[np.nan if v is None else v for v in entry] for entry in logp], dtype=np.float32)
    if np.isnan(values).any() or (values > ROUNDING).any():
        raise StoreError(f"{where}: {name} has a log-probability that is no number of at most 0 (column top_logprobs); {again}")


def forget_items(
    store: RowsInParts,
    make: Callable[[dict[str, Any]], Item],
    *,
    seed: int | None,
    epoch: int,
    limit: int | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[Item]:
    """The rows of a store once, in the order of (seed, epoch), or of the store where there is no seed; `columns`: those
    of `columns_to_read` unless given."""
    starts = np.cumsum([0] + [p["rows"] for p in store.manifest["parts"]])
    for part in shuffled(len(starts) - 1, seed, epoch):
        rows = store.part(int(part), columns or columns_to_read(store))
        if limit is not None:
            rows = rows[: max(0, limit - int(starts[part]))]
        for index in shuffled(len(rows), seed, epoch, int(part)):
            yield make(rows[index])
        del rows  # or it would stay in memory while the next part is read


def shuffled(count: int, seed: int | None, *key: int) -> Sequence[int] | np.ndarray:
    """0 .. count - 1 in the order of (seed, key); without a seed as they are."""
    return range(count) if seed is None else np.random.default_rng([seed, *key]).permutation(count)


def endless(items: Sequence[Item], *, seed: int | None, start: int = 0, corpus: int = 0) -> Iterator[Item]:
    """Items in a seeded order, a new one each time around and for each corpus (without a seed in their own); from the
    `start`-th on."""
    around, at = divmod(start, len(items))
    while True:
        for index in shuffled(len(items), seed, RETAIN_EPOCH * (corpus + 1) + around)[at:]:
            yield items[index]
        around, at = around + 1, 0


def endless_store(around: Callable[[int], Iterator[Item]], count: int, *, start: int = 0, corpus: int = 0) -> Iterator[Item]:
    """The same for rows of a store: `around(epoch)` gives all `count` of them once."""
    epoch, at = divmod(start, count)
    while True:
        yield from islice(around(RETAIN_EPOCH * (corpus + 1) + epoch), at, None)
        epoch, at = epoch + 1, 0


def steps(
    forget: Iterator[Item] | None, retain: Iterator[Item] | None, *, batch_size: int, batch_tokens: int, accumulate: int = 1
) -> Iterator[list[PassRows]]:
    """Groups of `accumulate` times `batch_size` rows as forward passes of at most `batch_size` rows; the last group may
    be smaller. They end with the forget rows, or without any (fine-tuning) with the retain rows."""
    rows = _pairs(forget, retain)
    while True:
        pairs = list(islice(rows, batch_size * accumulate))
        if not pairs:
            return
        yield [rows for at in range(0, len(pairs), batch_size) for rows in cut(pairs[at : at + batch_size], batch_tokens)]


def _pairs(forget: Iterator[Item] | None, retain: Iterator[Item] | None) -> Iterator[Pair]:
    if forget is None:
        assert retain is not None, "there is something to train on"
        yield from ((None, item) for item in retain)
        return
    for item in forget:
        yield item, next(retain) if retain is not None else None


def cut(pairs: Sequence[Pair], batch_tokens: int) -> list[PassRows]:
    """Consecutive pairs in passes of at most `batch_tokens` tokens (a longer pair stands alone)."""
    lengths = [sum(tokens_of(item) for item in pair if item) for pair in pairs]
    runs = [pairs[start:end] for start, end in within_budget(lengths, batch_tokens)]
    return [PassRows([forget for forget, _ in run if forget], [retain for _, retain in run if retain]) for run in runs]


def tokens_of(item: Item) -> int:
    return len(item.ids) + (len(item.partner.ids) if item.partner else 0)
