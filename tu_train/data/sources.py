"""Forget and retain rows: where they come from, that they fit the model and each other, and how often they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np
import torch

from shared.console import say
from shared.data.examples import Example, answer_span_tokens
from shared.errors import ConfigError, DataError, StoreError
from shared.lm.models import locate, require_rows
from shared.secret import without_secrets as shown
from shared.store.scored import answer_spans
from shared.store.scores import Store, open_store
from tu_train.config import UnlearnConfig
from tu_train.data.batches import READ_TOP, Item, Pass, endless, endless_store, forget_items, item_of_top_row, reading, steps
from tu_train.methods.retain_terms import outside

NAMED = 5
"""rows that a warning names"""
Make = Callable[[dict[str, Any]], Item]


@dataclass(frozen=True)
class Retain:
    count: int
    start: Callable[[int], Iterator[Item]]
    """rows from the n-th on, without end"""
    first: list[Item]
    """for evaluation"""
    outside: float | None = None
    """of a scored set: mean probability, over target tokens, outside the top tokens that the store holds"""


@dataclass(frozen=True)
class Forget:
    store: Store
    make: Make
    count: int
    """rows with a weight"""
    seen: frozenset[bytes]
    """hashes of their tokens"""
    first: list[Item]
    """whole rows for evaluation"""


def read_forget(store: Store, make: Make, config: UnlearnConfig) -> Forget:
    """One verified read of everything before the model is loaded: damage shows now, not in the third epoch."""
    count, rows, seen, first = 0, 0, set(), []
    for row in store.rows(reading(store)):
        if config.limit is not None and rows >= config.limit:
            break
        rows += 1
        count += bool(make(row).positions)
        seen.add(fingerprint(row["input_ids"]))
        if config.eval_every and len(first) < config.eval_rows:
            targets = [i for i, t in enumerate(row["is_target"]) if t]
            first.append(Item(row["input_ids"], targets, np.ones(len(targets), dtype=np.float32), name=row["example_id"]))
    if not count:
        raise ConfigError(_nothing_chosen(config))
    if count < rows:
        say(f"{rows - count} of {rows} forget rows {_why_none(config)}; they are left out")
    return Forget(store, make, count, frozenset(seen), first)


def _nothing_chosen(config: UnlearnConfig) -> str:
    if config.tokens != "hard":
        return f"--tokens {config.tokens}: no token of {shown(config.scores)} is chosen"
    if config.threshold is not None:
        return f"--set threshold={config.threshold}: no token of {shown(config.scores)} is that important; choose a lower one, or --keep"
    none = f"--tokens hard: no token of {shown(config.scores)} has any importance"
    return f"{none}; another recipe (tu-score recipe) may give some, or use --tokens all"


def _why_none(config: UnlearnConfig) -> str:
    if config.tokens != "hard":
        return f"have no token that is chosen (--tokens {config.tokens})"
    if config.threshold is not None:
        return f"have no token that important (threshold {config.threshold})"
    return "have no importance, since every word of the answer stands in the question (--tokens all trains them)"


def fingerprint(ids: list[int]) -> bytes:
    return blake2b(np.asarray(ids, dtype=np.int64).tobytes(), digest_size=16).digest()


def read_retain(items: list[Item], forget: Forget, config: UnlearnConfig) -> Retain:
    """Raises DataError when nothing is left once the rows that are forget rows too are dropped."""
    shared = [i.name for i in items if fingerprint(i.ids) in forget.seen]
    _warn(shared, len(items), shown(str(config.retain)))
    kept = [i for i in items if fingerprint(i.ids) not in forget.seen]
    return Retain(len(kept), lambda n: endless(kept, seed=config.seed, start=n), kept[: config.eval_rows])


def read_retain_store(store: Store, forget: Forget, config: UnlearnConfig, rows: int | None = None) -> Retain:
    """The same for a scored retain set, of which one part is in memory at a time. Raises StoreError where it has no top
    tokens, or ids beyond the `rows` of the embedding."""
    if "top_ids" not in store.optional:
        raise StoreError(
            f"{shown(str(store.folder))}: holds no top tokens, which the KL retain term needs; "
            "score the retain set with tu-score run --topk 64"
        )
    where = shown(str(store.folder))
    make = partial(item_of_top_row, where=where, rows=rows)
    shared, first, count, missed, tokens = [], [], 0, 0.0, 0
    for item in map(make, _limited(store, config.limit)):
        if fingerprint(item.ids) in forget.seen:
            shared.append(item.name)
            continue
        count, tokens = count + 1, tokens + len(item.positions)
        missed += outside(torch.from_numpy(item.top_logp).double()).sum().item()
        if len(first) < config.eval_rows:
            first.append(item)
    _warn(shared, count + len(shared), where)
    if not tokens:
        raise DataError(f"{where}: no row of the retain set has a target token; score data with answers")

    def around(epoch: int) -> Iterator[Item]:
        items = forget_items(store, make, seed=config.seed, epoch=epoch, limit=config.limit, columns=READ_TOP)
        return (i for i in items if fingerprint(i.ids) not in forget.seen)

    return Retain(count, lambda n: endless_store(around, count, start=n), first, missed / tokens)


def _limited(store: Store, limit: int | None) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(store.rows(READ_TOP)):
        if limit is not None and number >= limit:
            return
        yield row


def _warn(shared: list[str], rows: int, where: str) -> None:
    if len(shared) == rows:
        raise DataError(f"{where}: the retain data is empty" + (": all of its rows are forget rows too" if rows else ""))
    if shared:
        more = f" and {len(shared) - NAMED} more" if len(shared) > NAMED else ""
        say(f"{where}: left out {len(shared)} retain rows that are forget rows too: {', '.join(shared[:NAMED])}{more}")


def given_positions(examples: list[Example], tokenizer: Any, key: str, *, flag: str = "--set given_key") -> Mapping[str, set[int]]:
    """By example id, the tokens that a column of the data names."""
    return {e.id: set(answer_span_tokens(e, tokenizer, answer_spans(e, key, flag=flag))) for e in examples}


def stream(config: UnlearnConfig, forget: Forget, retain: Retain | None) -> Callable[[int], Iterator[list[Pass]]]:
    """`stream(n)`: the steps from the n-th on, a function of settings and seed alone. Epochs that are done are not
    read."""
    size = config.rows_a_step
    per_epoch = -(-forget.count // size)

    def begin(first: int) -> Iterator[list[Pass]]:
        start, inside = divmod(first, per_epoch)
        others = retain.start(start * forget.count + inside * size) if retain else None
        for epoch in range(start, config.epochs):
            rows = forget_items(forget.store, forget.make, seed=config.seed, epoch=epoch, limit=config.limit)
            weighted = (item for item in rows if item.positions)
            for _ in range(inside * size if epoch == start else 0):
                next(weighted)
            yield from steps(weighted, others, batch_size=config.batch_size, batch_tokens=config.batch_tokens, accumulate=config.accumulate)

    return begin


def open_fitting(where: str, names: dict[str, str], config: UnlearnConfig) -> Store:
    """A store made with this tokenizer, chat template and model; another model only where that was allowed. Raises
    StoreError."""
    from shared.store.scores import check_fits

    store = open_store(where)
    check_fits(store, {k: v for k, v in names.items() if k != "model"}, model=config.model)
    if store.fingerprints["model"] != names["model"]:
        why = "its importance and reference log-probabilities speak of the model that was scored"
        if not config.allow_other_model:
            theirs = str(store.fingerprints["model"])[:12]
            raise StoreError(f"{shown(where)}: made with another model than {config.model} has (store {theirs}, "
                             f"model {names['model'][:12]}): {why}; score this model, or allow it with --allow-other-model")  # fmt: skip
        require_rows(f"--model {config.model}", locate(config.model), _tokens(store))
        say(f"{shown(where)}: made with another model than {config.model}: {why}")
    return store


def _tokens(store: Store) -> Iterator[tuple[str, list[int]]]:
    """(example id, all token ids that training would read of the row: its own and its top tokens)."""
    top = ["top_ids"] if "top_ids" in store.optional else []
    for row in store.rows(["example_id", "input_ids", *top]):
        yield row["example_id"], [*row["input_ids"], *(i for ids in row.get("top_ids", ()) for i in ids or ())]
