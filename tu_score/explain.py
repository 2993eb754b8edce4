"""`tu-score explain`: why the learned importance calls a word a fact, or not.

The logit of a word's probability is a sum (shared/weighting/learned.py): each reason is what one property of the word,
or of a word near it, adds to that sum compared with the average word it was learned from. +0.7 doubles the odds, −0.7
halves them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from shared.console import number_of, say
from shared.data.words import word_runs
from shared.errors import printable
from shared.secret import without_secrets
from shared.store.scores import Store
from shared.weighting.importance import LEARNED, Recipe, columns_of, describe, learned_of
from shared.weighting.learned import contributions, word_probabilities
from tu_score.recipe import documents_of, resolved, survey, targets_of
from tu_score.shading import take_rows

REASONS = 4
"""of a word that are shown"""
LEAST = 0.05
"""a reason below it says nothing"""
AT = {-2: "two words before: ", -1: "word before: ", 0: "", 1: "next word: ", 2: "two words on: "}


@dataclass(frozen=True)
class Word:
    text: str
    probability: float
    reasons: list[tuple[str, float]]
    """the largest first"""


def explain_store(store: Store, *, example: str | None, rows: int, top: int | None) -> None:
    """Prints examples word by word; `top`: only that many of the likeliest words of each. Raises StoreError for a store
    that lacks the columns."""
    recorded = store.manifest["recipe"]
    name = learned_of(recorded)
    if name is None:
        name = apt(store)
        now = "there is none yet" if recorded is None else f"it is {describe(recorded)}"
        now += ", by other numbers" if recorded is not None and name in now else ""
        say(f"{without_secrets(str(store.folder))}: importance is another here, {now}; --recipe uncertainty=learned makes it this one")
    documents = documents_of(store)
    print(f"{name}: probability that a word carries a fact, and what speaks for it (+) and against it (−)")
    for row in take_rows(store, example=example, count=rows):
        table = pa.Table.from_pylist([row])
        words, length = explained(name, table, targets_of(table, columns_of(name, Recipe()), documents).columns)
        print(f"\n{printable(row['example_id'])}: {number_of(len(words), 'word')}, which adds {length:+.1f} to each")
        if top is not None:
            words = sorted(words, key=lambda word: -word.probability)[:top]
        wide = max((len(word.text) for word in words), default=0)
        for word in words:
            why = ", ".join(f"{reason} {value:+.1f}" for reason, value in word.reasons)
            print(f"  {word.probability:.2f}  {word.text:<{wide}}  {why}")


def apt(store: Store) -> str:
    """The numbers that `learned` would take. Raises StoreError for a store that lacks what they read."""
    recipe = resolved(Recipe(uncertainty=LEARNED), store)
    survey(store, recipe)
    return recipe.uncertainty


def explained(name: str, table: pa.Table, columns: Mapping[str, np.ndarray]) -> tuple[list[Word], float]:
    """The words of one example, in order, and what the length of the answer adds to each of them; `columns`: at its
    target tokens."""
    runs = word_runs(columns["word"], np.array([0, len(columns["word"])]))
    parts, probabilities = contributions(name, columns, runs), word_probabilities(name, columns, runs)
    length = parts.pop(("length", 0))
    row = table.to_pylist()[0]
    pieces = [text for text, target in zip(row["tokens"], row["is_target"], strict=True) if target]
    there = {step: runs.beside(np.ones(len(runs.first)), step) > 0 for step in AT if step} | {0: np.ones(len(runs.first), dtype=bool)}
    words = []
    for k in range(len(runs.first)):
        own = {place: float(values[k]) for place, values in parts.items() if there[place[1]][k]}
        beyond = sum(float(values[k]) for place, values in parts.items() if not there[place[1]][k])
        reasons = _reasons(own | ({("where the answer ends", 0): beyond} if beyond else {}))
        words.append(Word(_text(pieces, runs.at[runs.which == k]), float(probabilities[k]), reasons))
    return words, float(length[0]) if words else 0.0


def _text(pieces: Sequence[Any], at: np.ndarray) -> str:
    return printable("".join(pieces[i] or "" for i in at).strip())


def _reasons(parts: Mapping[tuple[str, int], float]) -> list[tuple[str, float]]:
    found = [(f"{AT[step]}{feature}", value) for (feature, step), value in parts.items() if feature != "bias"]
    return [reason for reason in sorted(found, key=lambda one: -abs(one[1]))[:REASONS] if abs(reason[1]) >= LEAST]
