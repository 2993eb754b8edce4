"""F1 against the true facts of the tokens that --keep auto takes and of fixed shares of each answer, by world: what
`python -m benchmarks.learning` and the studies measured, and its table in docs/attribution/found.md."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.study.results import markdown
from shared.weighting.weights import Selection, expected_f1_threshold, token_weights

FIXED = (0.1, 0.2, 0.3, 0.5, 0.7)
SHARES = Path(__file__).with_name("shares.csv")
F1 = ("f1_auto", *(f"f1_keep_{share:g}" for share in FIXED))


def f1(chosen: np.ndarray, true: np.ndarray) -> float:
    """[N] bool each, with a true one."""
    return float(2 * (chosen & true).sum() / (chosen.sum() + true.sum()))


def taken(probability: np.ndarray, starts: np.ndarray, word: np.ndarray, share: float) -> np.ndarray:
    """[N] bool: the tokens of hard selection with that --keep, words whole. `starts`: [answers + 1]; `word`: [N] the
    number of each token's word in its answer, NaN between words."""
    selection, answers = Selection(tokens="hard", keep=share), [slice(a, b) for a, b in pairwise(starts)]
    weights = [token_weights(probability[one], one.stop - one.start, selection, where="", word=word[one]) for one in answers]
    return np.concatenate(weights) > 0


def by_share(probability: np.ndarray, true: np.ndarray, starts: np.ndarray, word: np.ndarray) -> dict[str, float]:
    """Share of true tokens, share that --keep auto takes, and F1."""
    auto = probability >= np.float32(expected_f1_threshold(probability))
    chosen = [auto, *(taken(probability, starts, word, share) for share in FIXED)]
    return {"true": float(true.mean()), "auto": float(auto.mean()), **{name: f1(own, true) for name, own in zip(F1, chosen, strict=True)}}


def write(found: Mapping[str, Mapping[str, float]], path: Path = SHARES) -> None:
    """World -> figures of `by_share`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["world", "true", "auto", *F1])
        writer.writerows([world, *(f"{figures[name]:.4f}" for name in ("true", "auto", *F1))] for world, figures in found.items())


def read(path: Path = SHARES) -> dict[str, dict[str, float]]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row.pop("world"): {name: float(value) for name, value in row.items()} for row in csv.DictReader(file)}


def table(worlds: Mapping[str, Mapping[str, float]]) -> str:
    """The largest F1 of each world, as shown, in bold, and a row of means; worlds without figures are left out."""
    told = {world: figures for world, figures in worlds.items() if set(F1) <= set(figures)}
    means = {name: sum(figures[name] for figures in told.values()) / len(told) for name in ("true", "auto", *F1)}
    rows = []
    for world, figures in {**told, "mean": means}.items():
        shown = [f"{figures[name]:.2f}" for name in F1]
        cells = [f"**{one}**" if one == max(shown) else one for one in shown]
        rows.append([world, f"{figures['true']:.2f}", f"{figures['auto']:.2f}", *cells])
    return markdown(["world", "true share", "share by auto", "F1 of auto", *(f"{100 * share:g} %" for share in FIXED)], rows)
