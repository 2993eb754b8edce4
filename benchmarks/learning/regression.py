"""A logistic regression over the features of words, and how well it tells facts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from benchmarks.learning.shares import by_share
from benchmarks.learning.worlds import Scored
from shared.weighting.importance import Recipe, importance
from shared.weighting.learned import NEIGHBOURS, Learned, features, probabilities
from tu_score.agree import roc_auc

ALONE = ("place", "length", "initial", "comma")
"""features of which only the word's own is read"""
WITHOUT = {"learned_base": "base_entropy", "learned_alone": "tempered_entropy", "learned_text": "tempered_entropy"}
"""the signal of the recipe that each is compared with, over phrases and without copies"""
PENALTY = 100.0
"""of the squared weights of standardised features, beside the summed log loss"""


def learn(name: str, worlds: Sequence[Scored]) -> Learned:
    """The numbers `name` from all words of these worlds; a word is a fact where most of its tokens are."""
    made = [design(name, world) for world in worlds]
    places = list(made[0][0])
    x = np.stack([np.concatenate([columns[place] for columns, _ in made]) for place in places], axis=1)
    y = np.concatenate([fact for _, fact in made])
    mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-9)
    weights = fit((x - mean) / scale, y)
    pairs = {place: (float(w / s), float(m)) for place, w, s, m in zip(places, weights[1:], scale, mean, strict=True)}
    of = {step: {feature: pair for (feature, at), pair in pairs.items() if at == step} for step in (0, *NEIGHBOURS)}
    return Learned(float(weights[0]), of[0], {step: of[step] for step in NEIGHBOURS})


def design(name: str, world: Scored) -> tuple[dict[tuple[str, int], np.ndarray], np.ndarray]:
    """(feature, distance) -> [W], and [W] bool which words are facts."""
    runs = world.runs
    told = features(name, world.columns, runs)
    columns = {(feature, 0): values for feature, values in told.items()}
    columns |= {(f, step): runs.beside(values, step) for step in NEIGHBOURS for f, values in told.items() if f not in ALONE}
    share = runs.sums(world.true.astype(np.float64)) / np.bincount(runs.which, minlength=len(runs.first))
    return columns, share > 0.5


def fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[W, F] standardised, [W] bool -> [1 + F] bias and weights: the minimum of log loss and penalty, which has no
    other one."""

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logit = weights[0] + x @ weights[1:]
        error = expit(logit) - y
        value = np.logaddexp(0, logit).sum() - logit[y].sum() + PENALTY / 2 * (weights[1:] ** 2).sum()
        return float(value), np.concatenate([[error.sum()], x.T @ error + PENALTY * weights[1:]])

    return minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 2000, "gtol": 1e-6, "ftol": 1e-13}).x


def as_text(sets: dict[str, Learned]) -> str:
    """learned.toml."""
    lines = ["# Made by `python -m benchmarks.learning`; not for editing by hand.", "# feature = [coefficient, mean]"]
    for name, learned in sets.items():
        lines += ["", f"[{name}]", f"bias = {learned.bias:.4f}"]
        for title, pairs in (("own", learned.own), *((f'"at {step:+d}"', pairs) for step, pairs in learned.beside.items())):
            lines += ["", f"[{name}.{title}]", *(f"{f} = [{c:.4f}, {m:.4f}]" for f, (c, m) in pairs.items())]
    return "\n".join(lines) + "\n"


def auc(values: np.ndarray, true: np.ndarray, answers: Sequence[slice]) -> float:
    """Mean over the answers."""
    return float(np.mean([roc_auc(values[one], true[one]) for one in answers]))


def figures(name: str, world: Scored) -> dict[str, float]:
    """Of the numbers in the package: mean AUC of an answer, beside that of the recipe without learning; share of true
    tokens and of those that --keep auto takes, F1 of these and of fixed shares, and the largest distance in the bins of
    tenths that hold 30 tokens or more."""
    p = probabilities(name, world.columns, world.starts)
    other = importance(world.columns, world.starts, Recipe(uncertainty=WITHOUT[name]))
    cut = [slice(a, b) for a, b in pairwise(world.starts) if 0 < world.true[a:b].sum() < b - a]
    bins = np.minimum((p * 10).astype(int), 9)
    off = [abs(p[bins == k].mean() - world.true[bins == k].mean()) for k in range(10) if (bins == k).sum() >= 30]
    chosen = by_share(p, world.true, world.starts, world.columns["word"])
    return {
        "answers": len(cut), "auc": auc(p, world.true, cut), "without": auc(other, world.true, cut), **chosen,
        "f1": chosen["f1_auto"], "off": float(max(off)),
    }  # fmt: skip
