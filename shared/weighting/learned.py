"""The importance that was learned: the probability that a word carries a fact.

    logit p(word) = bias + Σ_d Σ_f c_{d,f} · (x_f(word at distance d) − m_{d,f}),    d = −2, −1, 0, 1, 2

a logistic regression over `features` of the word and of its two neighbours on each side (0 where there is none), so
that every probability is a sum that a person can read (`tu-score explain`). The numbers stand in learned.toml, made by
`python -m benchmarks.learning` from texts whose facts are known by construction; docs/recipes.md says which. There are
three sets of them:

    learned_base    with a base model: its entropy and surprisal, which know nothing of the data
    learned_alone   without: tempered entropy of the scored model, and its entropy
    learned_text    from the text alone

A token has the probability of its word, a token between two words the smaller of both (word_runs).
"""

from __future__ import annotations

import functools
import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.data.words import WordRuns, word_runs
from shared.data.written import RARITY, WRITTEN

NUMBERS = Path(__file__).with_name("learned.toml")
NEIGHBOURS = (-2, -1, 1, 2)
TEMPERATURE = 2.0
"""of the tempered entropy that learned_alone was learned with"""
LONGEST = 60
"""words; place and length of longer answers count as this many"""
TEXT_COLUMNS = ("word", "copied", *WRITTEN, RARITY)
MODEL_COLUMNS = {
    "learned_base": ("base_entropy", "base_logprob"),
    "learned_alone": ("tempered_entropy", "entropy"),
    "learned_text": (),
}
"""which numbers -> the columns of a store that they read beside TEXT_COLUMNS, the best ones first"""


@dataclass(frozen=True)
class Learned:
    """One set of numbers."""

    bias: float
    own: dict[str, tuple[float, float]]
    """feature -> c and m"""
    beside: dict[int, dict[str, tuple[float, float]]]
    """distance -> the same"""


@functools.cache
def numbers(name: str) -> Learned:
    """Of an entry of MODEL_COLUMNS."""
    table = tomllib.loads(NUMBERS.read_text(encoding="utf-8"))[name]
    return Learned(table["bias"], _pairs(table["own"]), {step: _pairs(table[f"at {step:+d}"]) for step in NEIGHBOURS})


def numbers_fingerprint() -> str:
    """Of the file of numbers, for what was made with it."""
    return f"{NUMBERS.name}@{hashlib.sha256(NUMBERS.read_bytes()).hexdigest()[:16]}"


def _pairs(table: Mapping[str, list[float]]) -> dict[str, tuple[float, float]]:
    return {name: (coefficient, mean) for name, (coefficient, mean) in table.items()}


def features(name: str, columns: Mapping[str, np.ndarray], runs: WordRuns) -> dict[str, np.ndarray]:
    """What is told of the W words: each [W] float64. `columns`: [N] at the target tokens."""
    told = {column: runs.largest(columns[column]) for column in ("copied", *WRITTEN, RARITY)}
    words = np.bincount(runs.example, minlength=1)
    place = np.arange(len(runs.example)) - (np.cumsum(words) - words)[runs.example]
    begins = told.pop("begins")
    capital = told.pop("capital")
    out = {
        "capital": capital * (1 - begins),
        "initial": capital * begins,
        "pieces": np.log(np.bincount(runs.which, minlength=len(runs.first))),
        "place": np.log1p(np.minimum(place, LONGEST)),
        "length": np.log(np.clip(words, 1, LONGEST))[runs.example],
        **told,
    }
    for column, feature in zip(MODEL_COLUMNS[name], ("uncertain", "surprising"), strict=False):
        values = runs.sums(columns[column])
        out[feature] = np.log1p(np.maximum(-values if column == "base_logprob" else values, 0))
    return out


def contributions(name: str, columns: Mapping[str, np.ndarray], runs: WordRuns) -> dict[tuple[str, int], np.ndarray]:
    """(feature, distance) -> what it adds to the logit of each word, [W]; ("bias", 0) too."""
    model, told = numbers(name), features(name, columns, runs)
    out = {("bias", 0): np.full(len(runs.first), model.bias)}
    for feature, (coefficient, mean) in model.own.items():
        out[feature, 0] = coefficient * (told[feature] - mean)
    for step, own in model.beside.items():
        for feature, (coefficient, mean) in own.items():
            out[feature, step] = coefficient * (runs.beside(told[feature], step) - mean)
    return out


def word_probabilities(name: str, columns: Mapping[str, np.ndarray], runs: WordRuns) -> np.ndarray:
    """[W] in 0..1."""
    logit = np.zeros(len(runs.first))
    for part in contributions(name, columns, runs).values():
        logit += part
    return 1 / (1 + np.exp(-logit))


def probabilities(name: str, columns: Mapping[str, np.ndarray], starts: np.ndarray) -> np.ndarray:
    """[N] in 0..1 at the target tokens of E examples that begin at `starts` [E + 1]."""
    runs = word_runs(columns["word"], starts)
    return runs.spread(word_probabilities(name, columns, runs))
