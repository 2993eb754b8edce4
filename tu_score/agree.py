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
loaded, only its tokenizer. Cost: the data and the store are read once more than the figures need, and a sort of T
numbers a signal and answer. One part is in memory at a time; what pooled figures need lies on disk
(tu_score/pooled.py).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import pairwise, tee
from typing import IO, Any

import numpy as np

from shared.data.examples import Example
from shared.data.layout import LayoutOptions, as_scored
from shared.data.secrets import COLUMN, Secret, read_secrets
from shared.data.written import RARITY, WRITTEN
from shared.errors import ConfigError, DataError, StoreError
from shared.files.spill import Spilled
from shared.lm.finished import check_output
from shared.lm.models import load_laid_out, locate
from shared.store.scored import iter_given, iter_scored, iter_secret
from shared.store.scores import Store
from shared.weighting.importance import SIGNALS, Recipe, columns_of, describe, signal
from shared.weighting.learned import MODEL_COLUMNS
from shared.weighting.weights import most_important, share_count
from tu_score.pooled import pooled
from tu_score.recipe import Targets, documents_of, read_targets, tempered_as_learned

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


def agreement(store: Store, *, truth: str, key: str, model: str, data: str | None, secrets: str | None = None) -> dict[str, Any]:
    """Figures of every signal, per answer and pooled, as plain JSON values. `secrets`: a list of them is the
    truth, instead of the column `key`.

    Raises StoreError when the model's tokenizer or the data are not those of the store, DataError for data without
    usable spans.
    """
    if truth != "spans":
        raise ConfigError(f"--truth {truth}: expected spans, character offsets in the column of the data that --truth-key names")
    folder = locate(model)
    check_output(folder)
    tokenizer = load_laid_out(model, folder, as_scored(LayoutOptions(), store.manifest["options"]))
    recipe = store.manifest["recipe"] and describe(store.manifest["recipe"])  # none where no importance was written
    with tempfile.TemporaryFile() as told, closing(Tally()) as tally:
        count = _write_truth(told, iter_scored(store, tokenizer, model, data), tokenizer, key, secrets)
        targets, held = _held(store)
        if count != targets:
            raise StoreError(f"{store.folder}: holds {targets} target tokens, its data has {count}; tu-score verify says where")
        told.seek(0)
        for scores, starts, word in _scores(store, held):
            true = np.frombuffer(told.read(int(starts[-1])), dtype=bool)
            tally.add(scores, true, [slice(a, b) for a, b in pairwise(starts)], word)
        figured = tally.result()
    return {"format": FORMAT, "store": store.sha256, "recipe": recipe, "truth": secrets or key, **figured}


class Tally:
    """Figures of some signals against the truth, of answers as they come. A signal that has NaN anywhere is none."""

    def __init__(self) -> None:
        self.answers = self.no_true_token = self.only_true_tokens = 0
        self.torn: set[str] = set()
        self.files = ExitStack()
        self.truth, self.joined = self._column(bool), self._column(bool)
        self.scores: dict[str, Spilled] = {}
        self.each: dict[str, Spilled] = {}
        """of each signal the figures of one answer after another"""

    def _column(self, kind: Any) -> Spilled:
        return self.files.enter_context(closing(Spilled(kind)))

    def add(self, scores: Mapping[str, np.ndarray], true: np.ndarray, answers: Sequence[slice], word: np.ndarray | None) -> None:
        """`scores` [N] and `true` [N] bool, both cut by `answers`; `word`: [N] the number of each token's word in its
        answer, NaN between words, None where the store has none, which is so of all answers or of none."""
        self.torn |= {name for name, values in scores.items() if np.isnan(values).any()}
        sound = {name: values for name, values in scores.items() if name not in self.torn}
        for name in sound:
            if name not in self.scores:
                self.scores[name], self.each[name] = self._column(float), self._column(float)
        self.no_true_token += sum(not true[one].any() for one in answers)
        self.only_true_tokens += sum(bool(true[one].all()) for one in answers)
        for one in answers:
            if not 0 < true[one].sum() < one.stop - one.start:
                continue
            self.answers += 1
            self.truth.add(true[one])
            if word is not None:
                self.joined.add(np.concatenate([[False], word[one][1:] == word[one][:-1]]))  # NaN is no word
            for name, values in sound.items():
                self.scores[name].add(values[one])
                found = figures(values[one], true[one], None if word is None else word[one])
                self.each[name].add(np.array([found[figure] for figure in FIGURES]))

    def result(self) -> dict[str, Any]:
        """Raises DataError when every answer was left out."""
        if not self.answers:
            raise DataError("no answer has target tokens both inside and outside of its true spans; there is nothing to compare")
        true, joined = self.truth.mapped(), self.joined.mapped() if self.joined.count else None
        signals = {}
        for name in self.names:
            each = self.each[name].mapped().reshape(-1, len(FIGURES))
            means = {figure: float(np.mean(each[:, k])) for k, figure in enumerate(FIGURES)}
            signals[name] = {"per_answer": means, "pooled": pooled(self.scores[name].mapped(), true, joined, SHARES)}
        return {
            "answers": self.answers, "tokens": len(true), "true_tokens": int(true.sum()),
            "left_out": {"no_true_token": self.no_true_token, "only_true_tokens": self.only_true_tokens}, "signals": signals,
        }  # fmt: skip

    @property
    def names(self) -> list[str]:
        return [name for name in self.scores if name not in self.torn]

    def close(self) -> None:
        self.files.close()


def compare(scores: Mapping[str, np.ndarray], true: np.ndarray, answers: Sequence[slice], word: np.ndarray | None = None) -> dict[str, Any]:
    """Figures of each of `scores` [N] against `true` [N] bool; `answers` cuts both. `word`: [N], no two words of one
    answer of one number. Raises DataError when every answer is left out."""
    with closing(Tally()) as tally:
        tally.add(scores, true, answers, word)
        return tally.result()


def _write_truth(told: IO[bytes], examples: Iterator[Example], tokenizer: Any, key: str, secrets: str | None) -> int:
    """A byte for each target token in the order of the store: is it true? Returns their number. Secrets of a column are
    all read first, and all examples are in memory then."""
    count = 0
    if secrets is not None and secrets.startswith(COLUMN):
        examples, again = tee(examples)
        sought = read_secrets(secrets, (example.row for example in again))
    else:
        sought = None if secrets is None else read_secrets(secrets, ())
    try:
        for own in _truths(examples, tokenizer, key, sought):
            told.write(bytes(own))
            count += len(own)
    except DataError:
        for _ in examples:  # that they are other data than the store's is what is to be said first
            pass
        raise
    return count


def _truths(examples: Iterable[Example], tokenizer: Any, key: str, secrets: Sequence[Secret] | None = None) -> Iterator[list[bool]]:
    """Of one example after another: which of its target tokens are true."""
    given = iter_given(examples, tokenizer, key, flag="--truth-key") if secrets is None else iter_secret(examples, tokenizer, secrets)
    for example, tokens in given:
        true = set(tokens)
        yield [position in true for position in example.targets]


def true_tokens(examples: Iterable[Example], tokenizer: Any, key: str) -> np.ndarray:
    """[N] bool over all target tokens in the order of the store."""
    return np.array([true for own in _truths(examples, tokenizer, key) for true in own], dtype=bool)


def _names(store: Store) -> tuple[list[str], list[str]]:
    """Signals that may be in the store, and the columns that they read."""
    known = [name for name in SIGNALS if name not in MODEL_COLUMNS or {"word", "copied"} <= set(store.optional)]
    if not tempered_as_learned(store) and "learned_alone" in known:
        known.remove("learned_alone")
    return known, ["importance", "tempered_entropy", "word", *dict.fromkeys(column for name in known for column in SIGNALS[name].columns)]


def _held(store: Store) -> tuple[int, set[str]]:
    """The number of target tokens, and the columns that have a value somewhere."""
    stored = [name for name in dict.fromkeys(_names(store)[1]) if name not in (*WRITTEN, RARITY)]
    count, held = 0, {*WRITTEN, RARITY}
    for index in range(len(store.manifest["parts"])):
        targets = read_targets(store, index, stored)
        count += int(targets.starts[-1])
        held |= {name for name, values in targets.columns.items() if not np.isnan(values).all()}
    return count, held


def _scores(store: Store, held: set[str]) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray, np.ndarray | None]]:
    """Part by part: importance and every signal of which the store holds the columns, at the part's N target tokens,
    [N]; where each answer begins; and [N] the number of each token's word in its answer, None where the store holds no
    words.

    The peers' scores take the default parameters of Recipe, ETW the tempered entropy if the store has it.
    """
    known, names = _names(store)
    recipe = Recipe(etw_entropy="tempered_entropy" if "tempered_entropy" in held else "entropy")
    known = [name for name in known if held.issuperset(columns_of(name, recipe))]
    documents = documents_of(store) if RARITY in names else None
    for index in range(len(store.manifest["parts"])):
        targets: Targets = read_targets(store, index, names, documents)
        columns, starts = targets.columns, targets.starts
        scores = {name: signal(name, columns, starts, recipe) for name in known}
        yield {"importance": columns["importance"], **scores}, starts, columns["word"] if "word" in held else None


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
