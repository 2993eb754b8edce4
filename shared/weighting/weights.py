"""Importance -> token weights of one example, T target tokens.

    all             1 for every token
    hard  keep      1 for the most important tokens, at most ceil(keep · T) of them, 0 for the rest
          top       1 for the most important tokens, at most `top`
          threshold 1 where importance is at least `threshold`; an example may have none
          keep=auto the threshold that `expected_f1_threshold` finds over the whole store, where importance is a
                    probability; an example that has no such token keeps its most important word
    soft  softmax   T · softmax(importance / temperature)
          plain     importance itself; an example may have none
          linear    T · importance / Σ importance; 1 for every token where all importance is 0
    given           1 for the tokens that a column of the data names (ground truth: the ceiling in a study); an example
                    may have none
    random          1 for ceil(keep · T) tokens drawn by seed and example id (the floor)

Hard selection takes words whole: in order of importance, the earlier of equal ones first, until the next word would go
over the count. The first is taken even if it is longer, so that a row has at least one. Tokens of a word whose
importance differs (recipes with unit=token) are chosen one by one. Tokens without importance are never chosen; an
example that has none is left out, unless the share is that of all tokens. whole_words=false is the rule of earlier
versions, for comparison with their numbers: token by token, of equal ones the earlier first, those without importance
too where the share is larger. Soft weights sum to T, but for `plain`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from shared.errors import StoreError
from shared.weighting.selection import KEEP, TEMPERATURE, Selection


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
    assert selection.keep != "auto", "random tokens need a share"
    chosen = seeded(selection.seed, example_id).permutation(count)[: share_count(selection.keep or KEEP, count)]
    weights[chosen] = 1
    return weights


def _hard(values: np.ndarray, selection: Selection, word: np.ndarray | None) -> np.ndarray:
    assert selection.keep != "auto", "keep=auto becomes a threshold once the store is read"
    if selection.threshold is not None:
        # Importance is stored in float32: a threshold of 0.7 must not miss the 0.7 that the store holds.
        chosen = np.asarray(values, dtype=np.float32) >= np.float32(selection.threshold)
        if selection.at_least_a_word and not chosen.any():
            chosen[most_important(values, 1, word)] = True
        return (chosen & (values > 0)).astype(np.float32)
    count = selection.top or share_count(selection.keep or KEEP, len(values))
    if count >= len(values):
        return np.ones(len(values), dtype=np.float32)
    weights = np.zeros(len(values), dtype=np.float32)
    if selection.whole_words is False:
        weights[most_important(values, count)] = 1
        return weights
    weights[most_important(values, count, word)] = 1
    return np.where(values > 0, weights, np.float32(0))


BINS = 10_000
"""of importance; thresholds lie between them"""


@dataclass
class Expected:
    """Finds the threshold from which on the tokens of a store are taken so that the expected F1 is largest, if each is
    true with the probability p that its importance says:

        E[F1] ≈ 2 · Σ_{p ≥ t} p / (number of tokens with p ≥ t + Σ p)

    (the F-measure of expected counts; Nan et al. 2012, arXiv 1206.4625, on why a threshold does). `add` takes values a
    part at a time; memory is that of BINS counts and sums.
    """

    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS + 1))
    sums: np.ndarray = field(default_factory=lambda: np.zeros(BINS + 1))

    def add(self, values: np.ndarray) -> None:
        """[N] in 0..1."""
        # A thousandth of a bin is about the precision of float32: 0.7 belongs to the bin that begins at 0.7.
        place = np.minimum(np.floor(np.asarray(values, dtype=np.float64) * BINS + 1e-3).astype(int), BINS)
        self.counts += np.bincount(place, minlength=BINS + 1)
        self.sums += np.bincount(place, np.asarray(values, dtype=np.float64), BINS + 1)

    def threshold(self) -> float:
        """More than 0; of equal ones the highest. Without any importance 1."""
        taken, hit = np.cumsum(self.counts[::-1])[::-1], np.cumsum(self.sums[::-1])[::-1]
        if not hit[0]:
            return 1.0
        expected = 2 * hit / (taken + hit[0])
        best = BINS - int(np.argmax(expected[::-1]))
        return max(best, 1) / BINS

    def share(self) -> float:
        """Of all tokens, those that are taken."""
        return float(self.counts[round(self.threshold() * BINS) :].sum() / max(1, self.counts.sum()))


def expected_f1_threshold(values: np.ndarray) -> float:
    """The same of [N] at once."""
    found = Expected()
    found.add(values)
    return found.threshold()


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
    if selection.soft == "plain":
        return values.astype(np.float32)
    if selection.soft == "linear":
        shares = values if values.any() else np.ones(len(values))
    else:
        scaled = values / (selection.temperature or TEMPERATURE)
        shares = np.exp(scaled - scaled.max())
    return (len(values) * shares / shares.sum()).astype(np.float32)
