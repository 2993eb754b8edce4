"""Token sources that are scores: recipes over the stored signals, and others that need more than one store.

A candidate gives every target token of the forget set a value; its store is a copy of the world's with that importance.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.learning.shares import by_share, f1
from benchmarks.study.commands import train
from benchmarks.study.gate import gate_values
from benchmarks.study.plan import WITHOUT_SCORES
from benchmarks.study.prepare import Made, store, tokenizer_of
from shared.data.datasets import load_rows
from shared.data.words import WORD, gather, plain
from shared.store.rewrite import rewrite
from shared.store.scored import scored_examples
from shared.store.scores import Store, open_store
from shared.weighting.importance import Recipe
from shared.weighting.norms import normalise
from tu_score.agree import compare, true_tokens
from tu_score.recipe import Targets, apply_recipe, put_importance, targets_of, whole_targets
from tu_train.diagnose.token_classes import FUNCTION_WORDS

TOKEN = {"unit": "token", "copies": "keep"}
RECIPES: dict[str, dict[str, Any]] = {
    "paper": {"alpha": 0.5, "knowledge": "absolute", "uncertainty": "entropy", **TOKEN},
    "masking": {"alpha": 1.0, "knowledge": "absolute", **TOKEN},
    "masking-signed": {"alpha": 1.0, "knowledge": "positive", **TOKEN},
    "masked-entropy": {"uncertainty": "masked_entropy", **TOKEN},
    "entropy-token": {"uncertainty": "entropy", **TOKEN},
    "tempered-token": {"uncertainty": "tempered_entropy", **TOKEN},
    "base-entropy-token": {"uncertainty": "base_entropy", **TOKEN},
    "gain-token": {"uncertainty": "gain", **TOKEN},
    "etw": {"uncertainty": "etw", **TOKEN},
    "seul": {"uncertainty": "seul", **TOKEN},
    "su": {"uncertainty": "su", **TOKEN},
    "satimp": {"uncertainty": "satimp", **TOKEN},
    "wga": {"uncertainty": "wga", **TOKEN},
    "entropy-word": {"uncertainty": "entropy", "unit": "word", "copies": "keep"},
    "entropy-phrase": {"uncertainty": "entropy", "unit": "phrase", "copies": "keep"},
    "entropy-new-token": {"uncertainty": "entropy", "unit": "token", "copies": "drop"},
    "entropy-new-word": {"uncertainty": "entropy", "unit": "word", "copies": "drop"},
    "entropy": {"uncertainty": "entropy"},
    "tempered": {"uncertainty": "tempered_entropy"},
    "base-entropy": {"uncertainty": "base_entropy"},
    "gain": {"uncertainty": "gain"},
    "masking-phrase": {"alpha": 1.0, "knowledge": "absolute"},
    "paper-phrase": {"alpha": 0.5, "knowledge": "absolute", "uncertainty": "entropy"},
    "gain+base-entropy": {"alpha": 0.5, "knowledge": "gain", "uncertainty": "base_entropy"},
    "gain+entropy": {"alpha": 0.5, "knowledge": "gain", "uncertainty": "entropy"},
    "learned": {"uncertainty": "learned"},
    "gain+entropy-rank": {"alpha": 0.5, "knowledge": "gain", "uncertainty": "entropy", "norm": "rank"},
}
"""name -> fields of the recipe; those not named have the product's defaults"""

THRESHOLDS = (0.3, 0.4, 0.5, 0.6)

COLUMNS = ("logprob", "entropy", "delta", "base_logprob", "base_entropy", "tempered_entropy", "word", "copied")


@dataclass
class Context:
    """What candidates read, at the N target tokens of the forget set."""

    made: Made

    @cached_property
    def own(self) -> Targets:
        return whole_targets(open_store(self.made.scores), COLUMNS)

    def other(self, words: Sequence[str], column: str, *, model: str | None = None) -> np.ndarray:
        """A column of the same data scored otherwise."""
        path = store(self.made.folder.parent / "made", Path(model or self.made.target), self.made.forget, list(words), self.made.folder)
        return whole_targets(open_store(path), [column]).columns[column]

    @cached_property
    def texts(self) -> list[str]:
        """The word of each target token, as words are compared; "" between words."""
        out = []
        for row in open_store(self.made.scores).rows(("tokens", "is_target", "word")):
            groups: dict[int, str] = {}
            for piece, target, word in zip(row["tokens"], row["is_target"], row["word"], strict=True):
                if target and word is not None:
                    groups[word] = groups.get(word, "") + piece
            names = {word: plain(found[0]) if (found := WORD.findall(text)) else "" for word, text in groups.items()}
            out += [names.get(word, "") for word, target in zip(row["word"], row["is_target"], strict=True) if target]
        return out

    @cached_property
    def rarity(self) -> np.ndarray:
        """−log of the share of retain answers that hold the token's word."""
        rows = load_rows(self.made.retain)
        seen = Counter(word for row in rows for word in {plain(w) for w in WORD.findall(row.answer)})
        return np.array([-math.log((seen[word] + 1) / (len(rows) + 1)) if word else 0.0 for word in self.texts])

    def phrases(self, values: np.ndarray) -> np.ndarray:
        """As the default recipe gathers them: phrases, without the question's words."""
        c = self.own.columns
        return gather(values, c["word"], c["copied"], self.own.starts, phrase=True)

    def ranks(self, values: np.ndarray) -> np.ndarray:
        return normalise(values, self.own.starts, "rank")


def _gain(c: Context) -> np.ndarray:
    return c.own.columns["logprob"] - c.own.columns["base_logprob"]


def _beside_base(c: Context) -> np.ndarray:
    """delta of the target less delta of the base model: what masking the question takes away from what was learned."""
    return c.own.columns["delta"] - c.other(["--spans", "question"], "delta", model=c.made.world.base)


def _conflict(c: Context) -> np.ndarray:
    """What one small step that learns the retain rows does to each token's log-probability, turned: what it leaves
    alone comes first."""
    count = len(load_rows(c.made.retain))
    out = c.made.folder / "models" / "retain-step"
    words = ["tu-train", "finetune", "--model", c.made.target, "--data", c.made.retain, "--epochs", "1", "--learning-rate", "1e-5",
             "--set", f"batch_size={count}", "--set", "warmup=0"]  # fmt: skip
    train(words, out, c.made.folder / "prepare.log")
    return -np.abs(c.other(["--spans", "none"], "logprob", model=str(out)) - c.own.columns["logprob"])


def _earlier_answer(c: Context) -> np.ndarray:
    """Log-probability left when the eight tokens of the answer before the token are masked: what survives is known from
    the question."""
    words = ["--spans", "window", "--set", "window_over=answer", "--set", "window_length=8", "--set", "window_stride=1", "--keep-spans"]
    path = store(c.made.folder.parent / "made", Path(c.made.target), c.made.forget, words, c.made.folder)
    out = []
    for row in open_store(path).rows(("is_target", "logprob", "spans", "span_deltas")):
        first = row["is_target"].index(True)
        for i, target in enumerate(row["is_target"]):
            if not target:
                continue
            near = [k for k, span in enumerate(row["spans"]) if span["end"] == i and span["start"] >= first]
            left = row["logprob"][i] - row["span_deltas"][near[0]][i] if near else row["logprob"][i]
            out.append(left)
    return np.array(out)


OTHERS: dict[str, Callable[[Context], np.ndarray]] = {
    "base-surprisal-token": lambda c: -c.own.columns["base_logprob"],
    "base-surprisal": lambda c: c.phrases(-c.own.columns["base_logprob"]),
    "surprisal": lambda c: c.phrases(-c.own.columns["logprob"]),
    "windows": lambda c: np.abs(np.nan_to_num(c.other(["--spans", "window"], "delta"))),
    "entities": lambda c: np.abs(np.nan_to_num(c.other(["--spans", "entity"], "delta"))),
    "entities-copy-aware": lambda c: np.abs(np.nan_to_num(c.other(["--spans", "entity", "--set", "copy_aware=true"], "delta"))),
    "masking-of-base": _beside_base,
    "masking-of-base-phrase": lambda c: c.phrases(_beside_base(c)),
    "earlier-answer": _earlier_answer,
    "earlier-answer-phrase": lambda c: c.phrases((left := _earlier_answer(c)) - left.min()),
    "conflict": _conflict,
    "gate": lambda c: gate_values(c.made),
    "gate-phrase": lambda c: c.phrases(gate_values(c.made)),
    "new-words": lambda c: c.phrases((~np.isnan(c.own.columns["word"])).astype(float)),
    "classes": lambda c: np.array([0.0 if not w or w in FUNCTION_WORDS else 1.0 for w in c.texts]) * (c.own.columns["copied"] == 0),
    "rarity-token": lambda c: c.rarity,
    "rarity": lambda c: c.phrases(c.rarity),
    "rarity*entropy": lambda c: c.phrases(c.rarity * c.own.columns["entropy"]),
    "rarity*tempered": lambda c: c.phrases(c.rarity * c.own.columns["tempered_entropy"]),
    "rarity*gain": lambda c: c.phrases(c.rarity * _gain(c)),
    "rank-product": lambda c: c.ranks(c.phrases(_gain(c))) * c.ranks(c.phrases(c.own.columns["entropy"])),
}  # fmt: skip
"""name -> a value for each target token, before min-max within each answer"""


def write_stores(made: Made, names: Sequence[str]) -> None:
    """A store for each candidate that is named, in the world's folder."""
    context = Context(made)
    for name in dict.fromkeys(names):
        out = made.folder / "stores" / name
        if out.exists():
            continue
        building = out.with_name(f".{name}")
        shutil.rmtree(building, ignore_errors=True)
        shutil.copytree(made.scores, building)
        if name in RECIPES:
            apply_recipe(open_store(building), Recipe(**RECIPES[name]))
        else:
            values = normalise(OTHERS[name](context), context.own.starts, "minmax")
            _put(open_store(building), values)
        building.rename(out)


def _put(scores: Store, values: np.ndarray) -> None:
    """Importance of all target tokens in the order of the store."""
    left = values

    def change(table: pa.Table) -> pa.Table:
        nonlocal left
        at = targets_of(table, []).at
        own, left = left[: at.sum()], left[at.sum() :]
        return put_importance(table, at, own)

    rewrite(scores, change, recipe=None)


def compared(made: Made, sources: Sequence[str]) -> list[str]:
    """Whose tokens are compared with the facts: every candidate where the study asks for that; else the sources of its
    runs, the default, that of before, and the paper's where the store has masked runs."""
    if made.world.candidates:
        return [*RECIPES, *OTHERS]
    masked = open_store(made.scores).manifest["options"]["spans"] != "none"
    return list(
        dict.fromkeys([*(s for s in sources if s not in WITHOUT_SCORES), "learned", "base-entropy", *(["paper"] if masked else [])])
    )


def agreement(made: Made, names: Sequence[str]) -> dict[str, Mapping[str, float]]:
    """Per candidate: mean over answers and pooled ROC-AUC and average precision against the true spans, as `tu-score
    agree` has them."""
    write_stores(made, names)
    own = open_store(made.scores)
    tokenizer = tokenizer_of(own, made.target)
    true = true_tokens(scored_examples(own, tokenizer, made.target, made.forget), tokenizer, str(made.world.facts))
    found = {name: whole_targets(open_store(made.folder / "stores" / name), ["importance", "word"]) for name in names}
    starts = whole_targets(own, []).starts
    figures = compare({n: t.columns["importance"] for n, t in found.items()}, true, [slice(a, b) for a, b in pairwise(starts)])["signals"]
    return {
        name: {f"{part}_{figure}": figures[name][part][figure] for part in ("per_answer", "pooled") for figure in ("auc", "ap", "p_30")}
        | thresholds(found[name].columns["importance"], true)
        | by_share(found[name].columns["importance"], true, starts, found[name].columns["word"])
        for name in names
    }


def thresholds(importance: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """For each of THRESHOLDS the share of all tokens at or above it, and F1 against the true ones."""
    out = {}
    for threshold in THRESHOLDS:
        chosen = importance >= np.float32(threshold)
        out[f"share_{threshold:g}"] = float(chosen.mean())
        out[f"f1_{threshold:g}"] = f1(chosen, true)
    return out


def described(name: str) -> str:
    """As documentation names it."""
    return Recipe(**RECIPES[name]).describe() if name in RECIPES else name
