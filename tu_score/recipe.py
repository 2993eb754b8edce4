"""`tu-score recipe`: importance again, from the columns of a finished store and without a model.

Two passes over the parts. The first sees whether the store holds what the recipe reads and, for scope "store", gathers
the statistics; the second writes every part anew with another importance column and the other columns as they are. The
new parts appear together (shared.store.rewrite). One to three seconds a million tokens on one core, most of it
reading, hashing and writing; memory is that of one part, and for rank over the store 8 bytes a target token and signal
more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from shared.errors import StoreError
from shared.store.parts import flat
from shared.store.rewrite import rewrite
from shared.store.scores import Store
from shared.weighting.importance import Recipe, importance, shaped
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


def targets_of(table: pa.Table, names: Sequence[str]) -> Targets:
    """Columns of one part at its target tokens. Raises StoreError when their lists do not line up."""
    at, offsets = flat(table, "is_target")
    at = at.astype(bool)
    columns = {}
    for name in names:
        if name not in table.column_names:
            columns[name] = np.full(int(at.sum()), np.nan)
            continue
        values, own = flat(table, name)
        if not np.array_equal(own, offsets):
            raise StoreError(f"the lists of {name} and is_target are of unequal length; tu-score verify says where")
        columns[name] = values[at].astype(np.float64)
    return Targets(columns, np.concatenate([[0], np.cumsum(at)])[offsets], at)


def read_targets(store: Store, index: int, names: Sequence[str]) -> Targets:
    """The same, from a part of the store of which only these columns are decoded."""
    return targets_of(store.table(index, ["is_target", *names]), names)


def apply_recipe(store: Store, recipe: Recipe) -> Store:
    """Rewrites the importance column and records the recipe in the manifest. `recipe`: of the user, never of a store.
    Raises StoreError when the store lacks a column it reads."""
    base = ["base_entropy"] if store.fingerprints.get("base_model") is not None else []
    recipe = recipe.imported().resolved([*base, *store.optional])
    summaries = survey(store, recipe)
    return rewrite(store, lambda table: with_importance(table, recipe, summaries, store), recipe=recipe.written())


def survey(store: Store, recipe: Recipe) -> dict[str, Summary] | None:
    """The first pass: refuses a store without the recipe's columns; summaries of its signals for scope "store", else
    None."""
    held: set[str] = set()
    summaries = {name: Summary(recipe.norm) for name in recipe.shares()}
    for index in range(len(store.manifest["parts"])):
        targets = read_targets(store, index, recipe.columns())
        held |= {name for name, values in targets.columns.items() if not np.isnan(values).all()}
        for name, summary in summaries.items() if recipe.scope == "store" else ():
            summary.add(shaped(name, targets.columns, targets.starts, recipe))
    lacking = [name for name in recipe.columns() if name not in held]
    if lacking:
        tokens = "" if not {"word", "copied"} & set(lacking) else ": unit=token,copies=keep reads neither word nor copied"
        options = " and ".join(dict.fromkeys(ADDED_BY.get(name, "this version") for name in lacking))
        raise StoreError(
            f"{store.folder}: the recipe reads {', '.join(lacking)}, which this store does not hold; "
            f"score again with {options}, or choose another recipe{tokens}"
        )
    return summaries if recipe.scope == "store" else None


def with_importance(table: pa.Table, recipe: Recipe, summaries: Mapping[str, Summary] | None, store: Store) -> pa.Table:
    """The part with another importance column: null off target, the recipe's value at every target."""
    targets = targets_of(table, recipe.columns())
    torn = [name for name, values in targets.columns.items() if name not in (*SPAN_COLUMNS, "word") and np.isnan(values).any()]
    if torn:
        raise StoreError(f"{store.folder}: {', '.join(torn)} is null at some targets; tu-score verify says where, copy the store again")
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
