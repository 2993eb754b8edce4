"""Signals -> importance of every target token (0 to 1) -> token weights.

importance_i = alpha · norm(knowledge_i) + (1 − alpha) · norm(uncertainty_i), as TokenUnlearn (arXiv 2605.00364) combines its two
signals; norm runs over the target tokens of one example. Weights: `all` 1 for every target token; `hard` 1 for the most
important share `keep` and 0 for the rest; `soft` softmax(importance / temperature), scaled to sum to the number of targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from shared.errors import ConfigError, StoreError

TokenMode = Literal["all", "hard", "soft"]

KNOWLEDGE_SIGNALS = {"absolute": ("delta",), "positive": ("delta",), "gain": ("logprob", "base_logprob")}
"""what `knowledge` can be, and the store columns it is computed from"""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    alpha: float = 0.5
    """share of the knowledge signal, 0 to 1; the rest is the uncertainty signal"""
    knowledge: Literal["absolute", "positive", "gain"] = "absolute"
    """|delta|, the positive part of delta, or the log-probability gained over the base model"""
    uncertainty: Literal["entropy", "masked_entropy", "base_entropy"] = "entropy"
    """which entropy column"""
    norm: Literal["minmax", "rank"] = "minmax"
    """how a signal is brought to 0–1 within an example"""

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise ConfigError(f"alpha is {self.alpha}, expected 0 to 1")

    def columns(self) -> list[str]:
        """Store columns the recipe reads."""
        knowledge = KNOWLEDGE_SIGNALS[self.knowledge] if self.alpha > 0 else ()
        return [*knowledge, *([self.uncertainty] if self.alpha < 1 else [])]


def importance(signals: Mapping[str, np.ndarray], recipe: Recipe) -> np.ndarray | None:
    """`signals`: columns of the store at the T target tokens of one example, [T], NaN where null -> [T] in 0..1.

    None when a column the recipe reads holds nothing at all (no spans were masked, no base model was given).
    A single NaN in `delta` (no span comes before that token) counts as no effect.
    """
    if any(np.isnan(signals[name]).all() for name in recipe.columns()):
        return None
    total = np.zeros(len(next(iter(signals.values()))))
    if recipe.alpha > 0:
        total += recipe.alpha * normalise(_knowledge(signals, recipe), recipe.norm)
    if recipe.alpha < 1:
        total += (1 - recipe.alpha) * normalise(np.nan_to_num(signals[recipe.uncertainty].astype(np.float64)), recipe.norm)
    return total


def _knowledge(signals: Mapping[str, np.ndarray], recipe: Recipe) -> np.ndarray:
    if recipe.knowledge == "gain":
        return signals["logprob"].astype(np.float64) - signals["base_logprob"]
    delta = np.nan_to_num(signals["delta"].astype(np.float64))
    return np.abs(delta) if recipe.knowledge == "absolute" else np.maximum(delta, 0)


def normalise(values: np.ndarray, norm: str) -> np.ndarray:
    """[T] -> [T] in 0..1: min-max, or the average rank; equal values give zeros."""
    if np.ptp(values) == 0:
        return np.zeros(len(values))
    if norm == "rank":
        from scipy.stats import rankdata

        values = rankdata(values)
    return (values - values.min()) / np.ptp(values)


def check_keep(keep: float) -> None:
    if not 0.0 < keep <= 1.0:
        raise ConfigError(f"--keep {keep}: expected a share of the target tokens, more than 0 and at most 1")


def token_weights(values: np.ndarray | None, count: int, *, mode: TokenMode, keep: float, temperature: float, where: str) -> np.ndarray:
    """Weights of the `count` target tokens of one example, [T] float32.

    Hard keeps ceil(keep · T) tokens, ties going to the earlier one. Raises StoreError naming `where` when the mode needs importance and
    there is none.
    """
    if mode == "all":
        return np.ones(count, dtype=np.float32)
    if values is None:
        raise StoreError(
            f"{where}: the store holds no importance, which --tokens {mode} needs; score again with --spans question or window "
            "(or a recipe over columns the store has), or train with --tokens all"
        )
    if mode == "hard":
        weights = np.zeros(count, dtype=np.float32)
        weights[np.argsort(-values, kind="stable")[: max(1, int(np.ceil(keep * count - 1e-9)))]] = 1
        return weights
    scaled = values / temperature
    shares = np.exp(scaled - scaled.max())
    return (count * shares / shares.sum()).astype(np.float32)
