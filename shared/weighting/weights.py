"""Importance -> token weights of one example, T target tokens.

    all             1 for every token
    hard  keep      1 for the most important tokens, at most ceil(keep · T) of them, 0 for the rest
          top       1 for the most important tokens, at most `top`
          threshold 1 where importance is at least `threshold`; an example may have none
    soft  softmax   T · softmax(importance / temperature)
          linear    T · importance / Σ importance; 1 for every token where all importance is 0
    given           1 for the tokens that a column of the data names (ground truth: the ceiling in a study); an example may have none
    random          1 for ceil(keep · T) tokens drawn by seed and example id (the floor)

Hard selection takes words whole: in order of importance, the earlier of equal ones first, until the next word would go
over the count. The first is taken even if it is longer, so that a row has at least one. Tokens of a word whose
importance differs (recipes with unit=token) are chosen one by one. Tokens without importance are never chosen; an
example that has none is left out, unless the share is that of all tokens. whole_words=false is the rule of earlier
versions, for comparison with their numbers: token by token, of equal ones the earlier first, those without importance
too where the share is larger. Soft weights sum to T.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from shared.errors import ConfigError, StoreError
from shared.settings import COUNT, About, check_ranges

TokenMode = Literal["all", "hard", "soft", "given", "random"]
SoftMode = Literal["softmax", "linear"]
KEEP, TEMPERATURE = 0.3, 0.3
LEAST = 1e-100
"""temperature; importance divided by less is beyond a float"""


SHARE = About(unit="share", flag=True, above=0, most=1, default="0.3, unless top or threshold is given",
              expected="a share of the target tokens, more than 0 and at most 1")  # fmt: skip
IMPORTANCE = About(unit="importance", above=0, most=1, expected="an importance, more than 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class SelectionOptions:
    """How tokens are chosen by importance."""

    keep: Annotated[float | None, SHARE] = None
    """hard, random: share of each answer's tokens that keep weight 1"""
    top: Annotated[int | None, About(unit="tokens", **COUNT)] = None
    """hard: number of each answer's tokens that keep weight 1, instead of keep"""
    threshold: Annotated[float | None, IMPORTANCE] = None
    """hard: importance from which on a token keeps weight 1, instead of keep; an answer without such a token is left
    out"""
    soft: Annotated[SoftMode | None, About(default="softmax")] = None
    """soft: weights by softmax or linear in importance"""
    temperature: Annotated[float | None, About(least=LEAST, default="0.3")] = None
    """soft=softmax: small is selective, large is uniform"""


@dataclass(frozen=True, kw_only=True)
class TokenOptions(SelectionOptions):
    """Which tokens are pushed."""

    tokens: Annotated[TokenMode, About(flag=True)] = "hard"
    """which tokens of the forget set are pushed: all alike, the most important, all by importance, those a column names,
    random ones"""
    whole_words: Annotated[bool | None, About(default="yes")] = None
    """hard, by keep or top: words are chosen whole; false is the rule of earlier versions, token by token"""


@dataclass(frozen=True, kw_only=True)
class Selection(TokenOptions):
    """Which tokens get what weight. Raises ConfigError for an option that the mode does not use, or two that exclude
    each other."""

    seed: int = 0
    """random: another seed draws other tokens"""

    def __post_init__(self) -> None:
        check_ranges(self)
        flags = {"keep": "--keep", "top": "--set top", "threshold": "--set threshold"}
        given = [flag for name, flag in flags.items() if getattr(self, name) is not None]
        if given and self.tokens != "hard" and not (self.tokens == "random" and given == ["--keep"]):
            raise ConfigError(f"{given[0]} is for --tokens hard, this is --tokens {self.tokens}; drop one of them")
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)}: each chooses the tokens by itself; give one of them")
        for name in ("soft", "temperature"):
            if getattr(self, name) is not None and self.tokens != "soft":
                raise ConfigError(f"--set {name} is for --tokens soft, this is --tokens {self.tokens}; drop one of them")
        if self.whole_words is not None and (self.tokens != "hard" or self.threshold is not None):
            raise ConfigError("--set whole_words is for --tokens hard with --keep or top; drop it")
        if self.temperature is not None and self.soft == "linear":
            raise ConfigError("--set temperature is for --set soft=softmax, linear weights have none; drop one of them")

    def describe(self) -> str:
        """The choice with its defaults filled in, as a few words."""
        if self.tokens == "hard":
            chosen = {"top": self.top, "threshold": self.threshold, "keep": self.keep}
            name = next((name for name, value in chosen.items() if value is not None), "keep")
            how = "" if name == "threshold" or self.whole_words is False else ", whole words"
            return f"hard tokens ({name} {chosen[name] or KEEP}{how})"
        if self.tokens == "random":
            return f"random tokens (keep {self.keep or KEEP}, seed {self.seed})"
        if self.tokens == "soft":
            return f"soft tokens ({'linear' if self.soft == 'linear' else f'softmax, temperature {self.temperature or TEMPERATURE}'})"
        return f"{self.tokens} tokens"


def token_weights(
    values: np.ndarray | None, count: int, selection: Selection, *, where: str, example_id: str = "", given: np.ndarray | None = None,
    word: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Weights of the `count` target tokens of one example, [T] float32.

    `values`: importance, [T], or None; `given`: [T] bool, for tokens=given alone; `example_id` is what random tokens
    are drawn by; `word`: [T] which word each token is of, NaN between words, or None where the store does not say.
    Raises StoreError naming `where` when importance is needed and there is none.
    """
    if selection.tokens == "all":
        return np.ones(count, dtype=np.float32)
    if selection.tokens == "given":
        assert given is not None and len(given) == count, "tokens=given needs to know which"
        return given.astype(np.float32)
    if selection.tokens == "random":
        return _random(count, selection, example_id)
    if values is None:
        raise StoreError(
            f"{where}: the store holds no importance, which --tokens {selection.tokens} needs; score again with --spans question or "
            "window, apply a recipe over columns the store has (tu-score recipe), or train with --tokens all"
        )
    return _hard(values, selection, word) if selection.tokens == "hard" else _soft(values, selection)


def seeded(seed: int, example_id: str) -> np.random.Generator:
    """Random numbers that depend on the seed and the example alone, not on its place in any order."""
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(example_id.encode()).digest()[:8], "big")])


def _random(count: int, selection: Selection, example_id: str) -> np.ndarray:
    weights = np.zeros(count, dtype=np.float32)
    chosen = seeded(selection.seed, example_id).permutation(count)[: share_count(selection.keep or KEEP, count)]
    weights[chosen] = 1
    return weights


def _hard(values: np.ndarray, selection: Selection, word: np.ndarray | None) -> np.ndarray:
    if selection.threshold is not None:
        # Importance is stored in float32: a threshold of 0.7 must not miss the 0.7 that the store holds.
        return (np.asarray(values, dtype=np.float32) >= np.float32(selection.threshold)).astype(np.float32)
    count = selection.top or share_count(selection.keep or KEEP, len(values))
    if count >= len(values):
        return np.ones(len(values), dtype=np.float32)
    weights = np.zeros(len(values), dtype=np.float32)
    if selection.whole_words is False:
        weights[most_important(values, count)] = 1
        return weights
    weights[most_important(values, count, word)] = 1
    return np.where(values > 0, weights, np.float32(0))


def share_count(share: float, count: int) -> int:
    """ceil(share · count), at least 1."""
    return max(1, int(np.ceil(share * count - 1e-9)))


def most_important(values: np.ndarray, count: int, word: np.ndarray | None = None) -> np.ndarray:
    """Indices of the largest values, at most `count` of them, or those of the first word.

    Words are taken whole and in order of value, the earlier of equal ones first, until the next would go over `count`;
    the first is always taken. `word`: [T] as in the store, NaN between words; only tokens that stand together and have
    the same value are taken together. None: token by token.
    """
    if word is None:
        return np.argsort(-values, kind="stable")[:count]
    same = (word[1:] == word[:-1]) & (values[1:] == values[:-1])  # NaN is no word
    unit = np.concatenate([[0], np.cumsum(~same)])
    first = np.flatnonzero(np.concatenate([[True], ~same]))
    order = np.argsort(-values[first], kind="stable")
    size = np.bincount(unit)
    fits = int((np.cumsum(size[order]) <= count).sum())
    taken = order[: max(1, fits)]
    return np.flatnonzero(np.isin(unit, taken))


def _soft(values: np.ndarray, selection: Selection) -> np.ndarray:
    if selection.soft == "linear":
        shares = values if values.any() else np.ones(len(values))
    else:
        scaled = values / (selection.temperature or TEMPERATURE)
        shares = np.exp(scaled - scaled.max())
    return (len(values) * shares / shares.sum()).astype(np.float32)
