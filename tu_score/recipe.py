"""`tu-score recipe`: importance again, from the columns of a finished store and without a model.

Two passes over the parts. The first sees whether the store holds what the recipe reads and gathers what it needs of all
parts: statistics for scope "store", the words of all answers for a signal that was learned. The second writes every
part anew with another importance column and the other columns as they are. The new parts appear together
(shared.store.rewrite). One to three seconds a million tokens on one core, most of it reading, hashing and writing, and
about six more for what was learned, which reads the texts. Memory is that of one part, and for what was learned the
vocabulary of the answers; rank over the store takes 8 bytes a target token and signal on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa

from shared.data.written import RARITY, WRITTEN, Documents, written
from shared.errors import StoreError
from shared.store.parts import flat
from shared.store.rewrite import rewrite
from shared.store.scores import Store
from shared.weighting.importance import Recipe, importance, is_ready, shaped
from shared.weighting.learned import TEMPERATURE
from shared.weighting.norms import Summary
from tu_score.config import SPAN_COLUMNS

ADDED_BY = {
    "delta": "--spans question, window or entity",
    "delta_mean": "--spans question, window or entity",
    "masked_entropy": "--spans question, window or entity",
    "base_logprob": "--base-model",
    "base_entropy": "--base-model",
    "tempered_entropy": "--set entropy_temperature=2",
    "word": "this version",
    "copied": "this version",
}
"""column -> the option of tu-score run that fills it"""


@dataclass(frozen=True)
class Targets:
    """The target tokens of E examples, N in all, one after another."""

    columns: dict[str, np.ndarray]
    """[N] float64 each, NaN where null (or where the store has no such column)"""
    starts: np.ndarray
    """[E + 1]: where each example begins"""
    at: np.ndarray
    """[tokens] bool: which of all tokens they are"""


@dataclass(frozen=True)
class Seen:
    """What a first pass over all parts gathers."""

    summaries: dict[str, Summary] = field(default_factory=dict)
    """of the recipe's signals, for scope "store"; else none"""
    documents: Documents = field(default_factory=Documents)
    """of the answers, where the recipe reads rarity; else empty"""


def targets_of(table: pa.Table, names: Sequence[str], documents: Documents | None = None) -> Targets:
    """Columns of one part at its target tokens; `documents`: for rarity. Raises StoreError when their lists do not line
    up."""
    at, offsets = flat(table, "is_target")
    at = at.astype(bool)
    starts = np.concatenate([[0], np.cumsum(at)])[offsets]
    told = told_by_texts(table, names, at, starts, documents)
    columns = {}
    for name in names:
        if name in told:
            columns[name] = told[name]
            continue
        if name not in table.column_names:
            columns[name] = np.full(int(at.sum()), np.nan)
            continue
        values, own = flat(table, name)
        if not np.array_equal(own, offsets):
            raise StoreError(f"the lists of {name} and is_target are of unequal length; tu-score verify says where")
        columns[name] = values[at].astype(np.float64)
    return Targets(columns, starts, at)


def told_by_texts(
    table: pa.Table, names: Sequence[str], at: np.ndarray, starts: np.ndarray, documents: Documents | None
) -> dict[str, np.ndarray]:  # fmt: skip
    """Those of `names` that the texts of the target tokens tell, [N] each."""
    asked = [name for name in (*WRITTEN, RARITY) if name in names]
    if not asked:
        return {}
    assert documents is not None or RARITY not in asked, "rarity is told after a first pass"
    each = [written(pieces, documents) for pieces in answers_of(table, at, starts)]
    return {name: np.concatenate([np.zeros(0), *(told[name] for told in each)]) for name in asked}


def answers_of(table: pa.Table, at: np.ndarray, starts: np.ndarray) -> list[list[str]]:
    """The texts of the target tokens of each example. Raises StoreError when there is not one a token."""
    texts = table["tokens"].combine_chunks().flatten()
    if len(texts) != len(at):
        raise StoreError("the lists of tokens and is_target are of unequal length; tu-score verify says where")
    own = texts.filter(pa.array(at)).to_pylist()
    return [[text or "" for text in own[a:b]] for a, b in pairwise(starts)]


def read_targets(store: Store, index: int, names: Sequence[str], documents: Documents | None = None) -> Targets:
    """The same, from a part of the store of which only these columns are decoded."""
    texts = ["tokens"] if {*WRITTEN, RARITY} & set(names) else []
    stored = [name for name in names if name not in (*WRITTEN, RARITY)]
    return targets_of(store.table(index, ["is_target", *texts, *stored]), names, documents)


def whole_targets(store: Store, names: Sequence[str], documents: Documents | None = None) -> Targets:
    """The same of all parts as one."""
    parts = [read_targets(store, index, names, documents) for index in range(len(store.manifest["parts"]))]
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in names}
    starts = np.cumsum([0, *(length for part in parts for length in np.diff(part.starts))])
    return Targets(columns, starts, np.concatenate([part.at for part in parts]))


def documents_of(store: Store) -> Documents:
    """In how many of the store's answers each word stands."""
    documents = Documents()
    for index in range(len(store.manifest["parts"])):
        add_answers(documents, store.table(index, ["is_target", "tokens"]))
    return documents


def add_answers(documents: Documents, table: pa.Table) -> None:
    at, offsets = flat(table, "is_target")
    for pieces in answers_of(table, at.astype(bool), np.concatenate([[0], np.cumsum(at)])[offsets]):
        documents.add(pieces)


def resolved(recipe: Recipe, store: Store) -> Recipe:
    """With signals in place of `auto` and `learned`, chosen by what the store holds."""
    base = ["base_entropy", "base_logprob"] if store.fingerprints.get("base_model") is not None else []
    return recipe.resolved([*base, "entropy", *store.optional], as_learned=tempered_as_learned(store))


def tempered_as_learned(store: Store) -> bool:
    return store.manifest["options"].get("entropy_temperature") in (None, TEMPERATURE)


def apply_recipe(store: Store, recipe: Recipe) -> Store:
    """Rewrites the importance column and records the recipe in the manifest. `recipe`: of the user, never of a store.
    Raises StoreError when the store lacks a column it reads."""
    recipe = fitting(store, recipe.imported())
    seen = survey(store, recipe)
    return rewrite(store, lambda table: with_importance(table, recipe, seen, store), recipe=recipe.written())


def fitting(store: Store, recipe: Recipe) -> Recipe:
    """The recipe resolved for the store. Raises StoreError where it reads an entropy at another temperature than that
    of the store."""
    recipe = resolved(recipe, store)
    if "learned_alone" in recipe.shares() and not tempered_as_learned(store):
        raise StoreError(
            f"{store.folder}: learned_alone reads the entropy at temperature {TEMPERATURE:g}, this store holds that at "
            f"{store.manifest['options']['entropy_temperature']:g}; score again with --set entropy_temperature=2, or take learned_text"
        )
    return recipe


def survey(store: Store, recipe: Recipe) -> Seen:
    """The first pass: refuses a store without the recipe's columns, and gathers what the recipe needs of all parts."""
    held: set[str] = {*WRITTEN, RARITY}
    summaries = {name: Summary(recipe.norm) for name in recipe.shares() if recipe.scope == "store" and not is_ready(name)}
    stored, rarity, documents = [name for name in recipe.columns() if name not in held], RARITY in recipe.columns(), Documents()
    held |= {"word", "copied"} & set(store.optional)  # answers without a word have null in every place
    for index in range(len(store.manifest["parts"])):
        table = store.table(index, ["is_target", *(["tokens"] if rarity else []), *stored])
        targets = targets_of(table, stored)
        if rarity:
            add_answers(documents, table)
        held |= {name for name, values in targets.columns.items() if not np.isnan(values).all()}
        for name, summary in summaries.items():
            summary.add(shaped(name, targets.columns, targets.starts, recipe))
    lacking = [name for name in stored if name not in held]
    if lacking:
        gathered = not all(is_ready(name) for name in recipe.shares())
        tokens = "" if not (gathered and {"word", "copied"} & set(lacking)) else ": unit=token,copies=keep reads neither word nor copied"
        options = " and ".join(dict.fromkeys(ADDED_BY.get(name, "this version") for name in lacking))
        raise StoreError(
            f"{store.folder}: the recipe reads {', '.join(lacking)}, which this store does not hold; "
            f"score again with {options}, or choose another recipe{tokens}"
        )
    return Seen(summaries, documents)


def with_importance(table: pa.Table, recipe: Recipe, seen: Seen, store: Store) -> pa.Table:
    """The part with another importance column: null off target, the recipe's value at every target."""
    targets = targets_of(table, recipe.columns(), seen.documents)
    torn = [name for name, values in targets.columns.items() if name not in (*SPAN_COLUMNS, "word") and np.isnan(values).any()]
    if torn:
        raise StoreError(f"{store.folder}: {', '.join(torn)} is null at some targets; tu-score verify says where, copy the store again")
    summaries = seen.summaries if recipe.scope == "store" else None
    return put_importance(table, targets.at, importance(targets.columns, targets.starts, recipe, summaries))


def without_importance(table: pa.Table) -> pa.Table:
    """The part with null in place of importance."""
    at, _ = flat(table, "is_target")
    return put_importance(table, np.zeros(len(at), dtype=bool), np.zeros(0))


def put_importance(table: pa.Table, at: np.ndarray, values: np.ndarray) -> pa.Table:
    """The part with these values of importance at its target tokens (`at`, [tokens] bool), null elsewhere."""
    full = np.zeros(len(at), dtype=np.float32)
    full[at] = values
    place = table.schema.get_field_index("importance")
    _, offsets = flat(table, "is_target")
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(full, mask=~at))
    return table.set_column(place, table.schema.field(place), lists.cast(table.schema.field(place).type))
