"""`tu-score agree`: how well importance, and every signal the store holds, find the tokens that ground truth calls the
secret.

Truth is a column of the data with [start, end) character offsets in the answer (atlas rows have `fact_spans`); a target
token that overlaps one is true. Figures of one answer with T targets, n of them true, and of all answers pooled:

    auc        share of (true, other) pairs in which the true token scores higher, ties counting half
    ap         average precision: Σ over distinct scores, from the top, of (recall gained) · precision; equal scores
               enter together
    p_true     precision among the n highest
    p_10 …     precision among the highest, at most ceil(10 % · T), as hard selection with that --keep takes them: words
               whole, of equals the earlier

Answers whose targets are all true, or none, have no AUC; they are left out of every figure, and counted. No model is
loaded, only its tokenizer. Cost: a sort of T numbers a signal and answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from shared.data.examples import Example
from shared.data.layout import LayoutOptions, as_scored
from shared.data.written import RARITY
from shared.errors import ConfigError, DataError, StoreError
from shared.lm.finished import check_output
from shared.lm.models import load_laid_out, locate
from shared.store.scored import given_tokens, scored_examples
from shared.store.scores import Store
from shared.weighting.importance import SIGNALS, Recipe, columns_of, describe, signal
from shared.weighting.learned import MODEL_COLUMNS
from shared.weighting.weights import most_important, share_count
from tu_score.recipe import documents_of, tempered_as_learned, whole_targets

FORMAT = 1
SHARES = {"p_10": 0.1, "p_20": 0.2, "p_30": 0.3}
FIGURES = ("auc", "ap", "p_true", *SHARES)


def roc_auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """[T], [T] bool with both kinds present -> 0..1."""
    from scipy.stats import rankdata

    positives = int(truth.sum())
    above = rankdata(scores)[truth].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(truth) - positives)))


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """[T], [T] bool with at least one true -> 0..1."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of each run of equal scores
    found = np.cumsum(truth[order])[last]
    return float((np.diff(found, prepend=0) * found / (last + 1)).sum() / found[-1])


def figures(scores: np.ndarray, truth: np.ndarray, word: np.ndarray | None = None) -> dict[str, float]:
    """All FIGURES of one answer, or of many pooled; `word`: [T] which word each token is of, NaN between words."""
    precision = {"p_true": float(truth[most_important(scores, int(truth.sum()))].mean())}
    for name, share in SHARES.items():
        precision[name] = float(truth[most_important(scores, share_count(share, len(truth)), word)].mean())
    return {"auc": roc_auc(scores, truth), "ap": average_precision(scores, truth), **precision}


def agreement(store: Store, *, truth: str, key: str, model: str, data: str | None) -> dict[str, Any]:
    """Figures of every signal, per answer and pooled, as plain JSON values.

    Raises StoreError when the model's tokenizer or the data are not those of the store, DataError for data without
    usable spans.
    """
    if truth != "spans":
        raise ConfigError(f"--truth {truth}: expected spans, character offsets in the column of the data that --truth-key names")
    folder = locate(model)
    check_output(folder)
    tokenizer = load_laid_out(model, folder, as_scored(LayoutOptions(), store.manifest["options"]))
    true = true_tokens(scored_examples(store, tokenizer, model, data), tokenizer, key)
    scores, starts, word = _scores(store)
    if len(true) != starts[-1]:
        raise StoreError(f"{store.folder}: holds {starts[-1]} target tokens, its data has {len(true)}; tu-score verify says where")
    recipe = store.manifest["recipe"] and describe(store.manifest["recipe"])  # none where no importance was written
    figured = compare(scores, true, [slice(a, b) for a, b in pairwise(starts)], word)
    return {"format": FORMAT, "store": store.sha256, "recipe": recipe, "truth": key, **figured}


def compare(scores: Mapping[str, np.ndarray], true: np.ndarray, answers: Sequence[slice], word: np.ndarray | None = None) -> dict[str, Any]:
    """Figures of each of `scores` [N] against `true` [N] bool; `answers` cuts both. `word`: [N], no two words of one
    number. Raises DataError when every answer is left out."""
    usable = [one for one in answers if 0 < true[one].sum() < one.stop - one.start]
    if not usable:
        raise DataError("no answer has target tokens both inside and outside of its true spans; there is nothing to compare")
    pooled = np.concatenate([np.arange(one.start, one.stop) for one in usable])
    signals = {}
    for name, values in scores.items():
        each = [figures(values[one], true[one], None if word is None else word[one]) for one in usable]
        means = {figure: float(np.mean([e[figure] for e in each])) for figure in FIGURES}
        signals[name] = {"per_answer": means, "pooled": figures(values[pooled], true[pooled], None if word is None else word[pooled])}
    return {
        "answers": len(usable), "tokens": len(pooled), "true_tokens": int(true[pooled].sum()),
        "left_out": {
            "no_true_token": sum(not true[one].any() for one in answers),
            "only_true_tokens": sum(bool(true[one].all()) for one in answers),
        },
        "signals": signals,
    }  # fmt: skip


def true_tokens(examples: Sequence[Example], tokenizer: Any, key: str) -> np.ndarray:
    """[N] bool over all target tokens in the order of the store."""
    out = []
    for example, tokens in given_tokens(examples, tokenizer, key, flag="--truth-key"):
        true = set(tokens)
        out += [position in true for position in example.targets]
    return np.array(out, dtype=bool)


def _scores(store: Store) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray | None]:
    """Importance and every signal of which the store holds the columns, at its N target tokens, [N]; where each answer
    begins; and [N] the number of each token's word in its answer, a whole number for each answer apart; None where the
    store holds no words.

    The peers' scores take the default parameters of Recipe, ETW the tempered entropy if the store has it.
    """
    known = {name: found for name, found in SIGNALS.items() if name not in MODEL_COLUMNS or {"word", "copied"} <= set(store.optional)}
    if not tempered_as_learned(store):
        known.pop("learned_alone", None)
    names = ["importance", "tempered_entropy", "word", *dict.fromkeys(column for found in known.values() for column in found.columns)]
    documents = documents_of(store) if RARITY in names else None
    targets = whole_targets(store, names, documents)
    columns, starts = targets.columns, targets.starts
    held = {name for name, values in columns.items() if not np.isnan(values).all()}
    recipe = Recipe(etw_entropy="tempered_entropy" if "tempered_entropy" in held else "entropy")
    out = {"importance": columns["importance"]}
    out |= {name: signal(name, columns, starts, recipe) for name in known if held.issuperset(columns_of(name, recipe))}
    answer = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    word = columns["word"] + answer * (np.diff(starts).max() + 1) if "word" in held else None  # no two answers share a word
    return {name: values for name, values in out.items() if not np.isnan(values).any()}, starts, word


def as_text(result: dict[str, Any]) -> str:
    """The result as a table for a person."""
    left = result["left_out"]
    lines = [
        f"truth: {result['truth']}, {result['true_tokens']:,} of {result['tokens']:,} target tokens in {result['answers']:,} answers",
        f"left out: {left['no_true_token']} answers without a true token, {left['only_true_tokens']} with nothing else",
    ]
    for title, part in (("mean over answers", "per_answer"), ("pooled", "pooled")):
        lines += ["", f"{title:<18}" + "".join(f"{name:>8}" for name in FIGURES)]
        lines += [f"{name:<18}" + "".join(f"{s[part][figure]:8.3f}" for figure in FIGURES) for name, s in result["signals"].items()]
    return "\n".join(lines)
