"""Forget and retain rows: where they come from, and that they fit the model and each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np
import torch

from shared.console import say
from shared.data.examples import Example
from shared.data.phrases import read_phrases
from shared.data.secrets import read_secrets
from shared.errors import ConfigError, DataError, StoreError
from shared.lm.models import locate, require_rows
from shared.secret import without_secrets as shown
from shared.store.scored import blocked_tokens, given_tokens, iter_secret
from shared.store.scores import Store, check_fits, open_store
from shared.weighting.weights import Selection
from tu_train.data.batches import READ_TOP, Item, columns_to_read, endless, endless_store, forget_items, item_of_top_row
from tu_train.data.filed import filed
from tu_train.data.unscored import RowsInParts
from tu_train.methods.retain_terms import outside

NAMED = 5
"""rows that a warning names"""
Make = Callable[..., Item]
"""a row of the store -> an item; `partners` as of item_of_row"""


@dataclass(frozen=True)
class RetainRows:
    count: int
    start: Callable[..., Iterator[Item]]
    """(n, corpus=0) -> rows from the n-th on, without end; each forget corpus has its own way through them"""
    first: list[Item]
    """for evaluation"""
    outside: float | None = None
    """of a scored set: mean probability, over target tokens, outside the top tokens that the store holds"""


@dataclass(frozen=True)
class ForgetRows:
    store: RowsInParts
    make: Make
    count: int
    """rows with a weight"""
    seen: frozenset[bytes]
    """hashes of their tokens"""
    first: list[Item]
    """whole rows for evaluation"""
    where: str
    """the store, or the data, as messages name it"""


def read_forget(
    store: RowsInParts, make: Make, *, selection: Selection, where: str, limit: int | None = None, evaluated: int = 0
) -> ForgetRows:  # fmt: skip
    """One verified read of everything before the model is loaded: damage shows now, not in the third epoch.

    `selection`: what `make` chooses tokens by; `evaluated`: how many of the first rows are kept whole. Raises
    ConfigError where no token of `where` is chosen.
    """
    count, rows, seen, first = 0, 0, set(), []
    for row in store.rows(columns_to_read(store)):
        if limit is not None and rows >= limit:
            break
        rows += 1
        count += bool(make(row).positions)
        seen.add(fingerprint(row["input_ids"]))
        if len(first) < evaluated:
            targets = [i for i, t in enumerate(row["is_target"]) if t]
            first.append(Item(row["input_ids"], targets, np.ones(len(targets), dtype=np.float32), name=row["example_id"]))
    if not count:
        raise ConfigError(_nothing_chosen(selection, where))
    if count < rows:
        say(f"{rows - count} of {rows} forget rows {_why_none(selection)}; they are left out")
    return ForgetRows(store, make, count, frozenset(seen), first, where)


def with_partners(forget: ForgetRows, partners: Mapping[str, Item]) -> ForgetRows:
    """The same rows, each with its other answer. Raises StoreError for a row that has none."""
    for row in forget.store.rows(["example_id"]):
        if row["example_id"] not in partners:
            raise StoreError(f"{forget.where}: {row['example_id']} is none of the rows that were scored; score again")
    return replace(forget, make=partial(forget.make, partners=partners))


def _nothing_chosen(selection: Selection, where: str) -> str:
    if selection.tokens != "hard":
        return f"--tokens {selection.tokens}: no token of {where} is chosen"
    if selection.threshold is not None:
        return f"--set threshold={selection.threshold}: no token of {where} is that important; choose a lower one, or --keep"
    none = f"--tokens hard: no token of {where} has any importance"
    return f"{none}; another recipe (tu-score recipe) may give some, or use --tokens all"


def _why_none(selection: Selection) -> str:
    if selection.tokens != "hard":
        return f"have no token that is chosen (--tokens {selection.tokens})"
    if selection.threshold is not None:
        return f"have no token that important (threshold {selection.threshold})"
    return "have no importance, since every word of the answer stands in the question (--tokens all trains them)"


def fingerprint(ids: list[int]) -> bytes:
    return blake2b(np.asarray(ids, dtype=np.int64).tobytes(), digest_size=16).digest()


def read_retain(items: Iterable[Item], seen: Set[bytes], *, where: str, seed: int | None, evaluated: int, out: str) -> RetainRows:
    """Reads items once, into a file beside `out`. `seen`: hashes of all forget rows; `seed`: of the order; `evaluated`:
    how many of the first rows are evaluated.

    Raises DataError when nothing is left once the rows that are forget rows too are dropped.
    """
    shared = Shared(seen)
    kept = filed((item for item in items if not shared.holds(item)), out=out)
    shared.say(len(kept), where)
    return RetainRows(len(kept), lambda n, corpus=0: endless(kept, seed=seed, start=n, corpus=corpus), kept.first(evaluated))


def read_retain_store(
    store: Store, seen: Set[bytes], *, seed: int | None, evaluated: int, limit: int | None = None, rows: int | None = None
) -> RetainRows:  # fmt: skip
    """The same for a scored retain set, of which one part is in memory at a time. Raises StoreError where it has no top
    tokens, or ids beyond the `rows` of the embedding."""
    if "top_ids" not in store.optional:
        raise StoreError(
            f"{shown(str(store.folder))}: holds no top tokens, which the KL retain term needs; "
            "score the retain set with tu-score run --topk 64"
        )
    where = shown(str(store.folder))
    make = partial(item_of_top_row, where=where, rows=rows)
    shared, first, count, missed, tokens = Shared(seen), [], 0, 0.0, 0
    for item in map(make, _limited(store, limit)):
        if shared.holds(item):
            continue
        count, tokens = count + 1, tokens + len(item.positions)
        missed += outside(torch.from_numpy(item.top_logp).double()).sum().item()
        if len(first) < evaluated:
            first.append(item)
    shared.say(count, where)
    if not tokens:
        raise DataError(f"{where}: no row of the retain set has a target token; score data with answers")

    def around(epoch: int) -> Iterator[Item]:
        items = forget_items(store, make, seed=seed, epoch=epoch, limit=limit, columns=READ_TOP)
        return (i for i in items if fingerprint(i.ids) not in seen)

    return RetainRows(count, lambda n, corpus=0: endless_store(around, count, start=n, corpus=corpus), first, missed / tokens)


def _limited(store: Store, limit: int | None) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(store.rows(READ_TOP)):
        if limit is not None and number >= limit:
            return
        yield row


@dataclass
class Shared:
    """Retain rows that are forget rows too, as they are met."""

    seen: Set[bytes]
    """hashes of all forget rows"""
    count: int = 0
    names: list[str] = field(default_factory=list)
    """of the first few"""

    def holds(self, item: Item) -> bool:
        """Is it one of them?"""
        if fingerprint(item.ids) not in self.seen:
            return False
        self.count += 1
        if len(self.names) < NAMED:
            self.names.append(item.name)
        return True

    def say(self, others: int, where: str) -> None:
        """Of data in which `others` are none. Raises DataError where that is 0."""
        if not others:
            raise DataError(f"{where}: the retain data is empty" + (": all of its rows are forget rows too" if self.count else ""))
        if self.count:
            more = f" and {self.count - NAMED} more" if self.count > NAMED else ""
            say(f"{where}: left out {self.count} retain rows that are forget rows too: {', '.join(self.names)}{more}")


def given_positions(examples: list[Example], tokenizer: Any, key: str, *, flag: str = "--set given_key") -> Mapping[str, set[int]]:
    """By example id, the tokens that a column of the data names, by their places or by their words."""
    return {example.id: set(tokens) for example, tokens in given_tokens(examples, tokenizer, key, flag=flag)}


def secret_positions(examples: list[Example], tokenizer: Any, named: str) -> Mapping[str, set[int]]:
    """By example id, the tokens of the secrets that a file or a column of the data lists."""
    secrets = read_secrets(named, (example.row for example in examples))
    return {example.id: set(tokens) for example, tokens in iter_secret(examples, tokenizer, secrets)}


def blocked_positions(examples: list[Example], tokenizer: Any, blocklist: str) -> Mapping[str, set[int]]:
    """By example id, the tokens of the words and phrases that a file lists."""
    flag = "--set blocklist"
    phrases = read_phrases(blocklist, flag=flag)
    return {example.id: set(tokens) for example, tokens in blocked_tokens(examples, tokenizer, phrases, flag=flag)}


def open_fitting(where: str, names: dict[str, str], *, model: str, allow_other_model: bool) -> Store:
    """A store made with this tokenizer, chat template and model (fingerprints in `names`); another model only where
    that was allowed. Raises StoreError."""
    store = open_store(where)
    check_fits(store, {k: v for k, v in names.items() if k != "model"}, model=model)
    if store.fingerprints["model"] != names["model"]:
        why = "its importance and reference log-probabilities speak of the model that was scored"
        if not allow_other_model:
            theirs = str(store.fingerprints["model"])[:12]
            raise StoreError(f"{shown(where)}: made with another model than {model} has (store {theirs}, "
                             f"model {names['model'][:12]}): {why}; score this model, or allow it with --allow-other-model")  # fmt: skip
        require_rows(f"--model {model}", locate(model), _tokens(store))
        say(f"{shown(where)}: made with another model than {model}: {why}")
    return store


def _tokens(store: Store) -> Iterator[tuple[str, list[int]]]:
    """(example id, all token ids that training would read of the row: its own and its top tokens)."""
    top = ["top_ids"] if "top_ids" in store.optional else []
    for row in store.rows(["example_id", "input_ids", *top]):
        yield row["example_id"], [*row["input_ids"], *(i for ids in row.get("top_ids", ()) for i in ids or ())]
