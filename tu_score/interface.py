"""Scoring from Python: `score` makes a store, `open_scores` opens one, `Scores` answers with arrays and tables.

Shapes: E examples of the store, in its order; L tokens of an example, prompt and answer; T of them targets. Whatever is
read of a store is verified as the commands verify it, part by part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from shared.calls import configured
from shared.config import resolve
from shared.console import number_of
from shared.errors import ConfigError, StoreError, nearest
from shared.notebook import framed
from shared.secret import without_secrets
from shared.store.auto_keep import settled
from shared.store.parts import PER_TOKEN, flat, schema
from shared.store.scores import Store, open_store
from shared.weighting.importance import Recipe
from shared.weighting.selection import Keep, Selection, SoftMode, TokenMode
from shared.weighting.weights import token_weights
from tu_score.config import ScoreConfig
from tu_score.recipe import fitting, survey, with_importance
from tu_score.run import run_score

if TYPE_CHECKING:
    import pandas as pd

LISTS = ("top_ids", "top_logprobs")
"""columns that hold a list a token"""
SHOWN = 12
"""examples in a notebook"""


@dataclass(frozen=True)
class Scores:
    """A finished score store. `len(scores)` is E; it is a path too, for whatever takes the folder of a store."""

    store: Store
    """manifest, fingerprints, and the verified parts as Arrow tables"""

    def __len__(self) -> int:
        return len(self.store)

    def __repr__(self) -> str:
        tokens = self.store.manifest["tokens"]
        return f"Scores({without_secrets(str(self.folder))!r}: {number_of(len(self), 'example')}, {number_of(tokens, 'token')})"

    def _repr_html_(self) -> str:
        """In a notebook: the heat map of the first examples."""
        from tu_score.heatmap import render
        from tu_score.shading import take_rows

        rows = take_rows(self.store, example=None, count=SHOWN)
        return framed(render(self.store, rows, "importance" if "importance" in self.columns else "logprob"))

    def __fspath__(self) -> str:
        return str(self.folder)

    @property
    def folder(self) -> Path | str:
        """Where the store lies: a path, or a URL."""
        return self.store.folder

    @property
    def columns(self) -> list[str]:
        """Of the store, in order; docs/store.md says what each holds."""
        return schema(self.store.optional).names

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """The examples one after another, as dictionaries of lists: [L] entries a column, but for `example_id` and
        `spans`. Memory is that of one part.

        Raises ConfigError for a column that the store lacks, StoreError for a part that is damaged.
        """
        yield from self.store.rows(self._known(columns))

    def to_pandas(self, per: Literal["example", "token"] = "example", columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The store as a table. `example`: E rows, a list of [L] in each cell. `token`: a row a token, with its
        `example_id` and `position`, NaN or None where the store has no value; columns that speak of spans are left out.

        Raises ConfigError for a column that the store lacks, StoreError for a part that is damaged.
        """
        if per not in ("example", "token"):
            raise ConfigError(f"Scores.to_pandas: per is {per!r}{nearest(str(per), ('example', 'token'))}")
        named = self._known(columns)
        if per == "example":
            return pa.concat_tables(list(self.store.batches(named))).select(named).to_pandas()
        kept = [name for name in named if name in (*PER_TOKEN, *LISTS)]
        read = list(dict.fromkeys(["example_id", "input_ids", *kept]))
        return pa.concat_tables([_by_token(table, kept) for table in self.store.batches(read)]).to_pandas()

    def weights(
        self, tokens: TokenMode = "hard", *, keep: Keep | None = None, top: int | None = None, threshold: float | None = None,
        soft: SoftMode | None = None, temperature: float | None = None, whole_words: bool | None = None, seed: int = 0,
        given: Mapping[str, Iterable[int]] | None = None,
    ) -> list[np.ndarray]:  # fmt: skip
        """The token weights that training would use: E arrays of [L] float32, 0 off target. The options are those of
        `tu-train run` (docs/recipes.md); `given`, for tokens="given": example id -> positions of its tokens, 0 to
        L - 1.

        Raises ConfigError for options that do not go together, StoreError where the store has no importance that they
        need, or a part is damaged.
        """
        named = {"tokens": tokens, "keep": keep, "top": top, "threshold": threshold, "soft": soft, "temperature": temperature,
                 "whole_words": whole_words, "seed": seed}  # fmt: skip
        asked = configured(Selection, None, named, call="Scores.weights")
        if (asked.tokens == "given") != (given is not None):
            raise ConfigError("Scores.weights: tokens='given' and given={example id: positions} go together; give both or neither")
        selection, columns = settled(asked, self.store).selection, ["example_id", "is_target", "importance"]
        columns += ["word"] if "word" in self.store.optional else []
        where = without_secrets(str(self.folder))
        return [w for table in self.store.batches(columns) for w in _weights(table, selection, given, where)]

    def importance(self, recipe: Recipe | str | Mapping[str, Any] | None = None) -> list[np.ndarray]:
        """Importance of every token: E arrays of [L] float32 from 0 to 1, NaN off target. None: as the store holds it;
        else by this recipe (docs/recipes.md), a Recipe, its settings by name, or the text of --recipe; the store stays
        as it is.

        Raises ConfigError for a recipe that is none, StoreError for a column it reads and the store lacks.
        """
        if recipe is None:
            return [each for table in self.store.batches(["importance"]) for each in _lists(table, "importance")]
        wanted = fitting(self.store, _recipe(recipe))
        seen = survey(self.store, wanted)
        read = list(dict.fromkeys(["is_target", "importance", "tokens", *(c for c in wanted.columns() if c in self.columns)]))
        tables = (with_importance(table, wanted, seen, self.store) for table in self.store.batches(read))
        return [each for table in tables for each in _lists(table, "importance")]

    def _known(self, columns: Sequence[str] | None) -> list[str]:
        if columns is None:
            return self.columns
        for name in columns:
            if name not in self.columns:
                raise ConfigError(f"{without_secrets(str(self.folder))}: has no column {name!r}{nearest(name, self.columns)}")
        return list(columns)


def open_scores(folder: str | Path) -> Scores:
    """A finished score store, of a folder or a URL. Nothing but its manifest is read yet.

    Raises StoreError for a folder that is missing, unfinished, damaged, or of a format that this version does not read.
    """
    return Scores(open_store(folder))


def score(config: ScoreConfig | None = None, /, **settings: Any) -> Scores:
    """Scores a data set and opens the store: what `tu-score run` does. Settings are the fields of ScoreConfig
    (docs/configuration.md): `score(model="org/my-model", data="forget.jsonl", out="scores")`. A run that was killed
    goes on when the same call is made again.

    Raises ConfigError for settings that do not fit, DataError, ModelError and StoreError for what cannot be read or
    written, before any work where it can be known.
    """
    settled_config = configured(ScoreConfig, config, settings, call="score")
    if settled_config.shard is not None:
        raise ConfigError(f"score: shard={settled_config.shard} makes no store by itself; use tu-score run --shard and tu-score merge")
    return open_scores(run_score(settled_config))


def _recipe(recipe: Recipe | str | Mapping[str, Any]) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe.imported()
    if isinstance(recipe, str):
        return resolve(Recipe, sets=recipe.split(",") if recipe else []).imported()
    return configured(Recipe, None, recipe, call="Scores.importance").imported()


def _lists(table: pa.Table, name: str) -> list[np.ndarray]:
    """[L] float32 of each example."""
    values, offsets = flat(table, name)
    return np.split(values.astype(np.float32), offsets[1:-1]) if len(offsets) > 1 else []


def _weights(table: pa.Table, selection: Selection, given: Mapping[str, Iterable[int]] | None, where: str) -> Iterator[np.ndarray]:
    """[L] float32 of each example of a part."""
    targets, offsets = flat(table, "is_target")
    importance, _ = flat(table, "importance")
    word = flat(table, "word")[0] if "word" in table.column_names else None
    for name, first, last in zip(table["example_id"].to_pylist(), offsets[:-1], offsets[1:], strict=True):
        at = np.flatnonzero(targets[first:last].astype(bool))
        values = importance[first:last][at].astype(np.float64)
        truth = None
        if given is not None:
            if name not in given:
                raise StoreError(f"{where}: {name} is none of the examples in `given`; name its tokens, or an empty list")
            truth = np.isin(at, list(given[name]))
        found = token_weights(
            None if np.isnan(values).any() else values, len(at), selection, where=where, example_id=name, given=truth,
            word=None if word is None else word[first:last][at].astype(np.float64),
        )  # fmt: skip
        weights = np.zeros(last - first, dtype=np.float32)
        weights[at] = found
        yield weights


def _by_token(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """A part with a row a token. Raises StoreError where lists of one example are of unequal length."""
    offsets = table["input_ids"].combine_chunks().offsets.to_numpy()
    lengths = np.diff(offsets)
    out = {
        "example_id": table["example_id"].combine_chunks().take(pa.array(np.repeat(np.arange(len(table)), lengths))),
        "position": pa.array(np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths), pa.int32()),
    }
    for name in columns:
        lists = table[name].combine_chunks()
        if not np.array_equal(lists.offsets.to_numpy(), offsets):
            raise StoreError(f"the lists of {name} and input_ids are of unequal length; tu-score verify says where")
        out[name] = lists.flatten()
    return pa.table(out)
