"""The texts: rows of each world, their score stores, and what a store tells of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.study.facts import fact_spans
from shared.data.datasets import Row, load_rows
from shared.data.words import WordRuns, word_runs
from shared.lm.models import load_tokenizer, locate
from shared.store.scored import scored_examples
from shared.store.scores import open_store
from shared.weighting.learned import TEXT_COLUMNS
from shared.weighting.weights import seeded
from tu_score.agree import true_tokens
from tu_score.recipe import documents_of, whole_targets

PROSE = "prose=1,facts_per_person=39"
LEARNED = {
    "prose": (f"atlas:full:{PROSE},people=60,seed=101", 700),
    "plain": ("atlas:full:people=40,seed=101", 150),
    "documents in prose": ("atlas:documents:prose=1,people=60,facts_per_person=20,seed=101", 40),
    "Spanish": ("atlas:full:language=es,people=40,seed=101", 70),
    "Arabic": ("atlas:full:language=ar,people=40,seed=101", 70),
    "Chinese": ("atlas:full:language=zh,people=40,seed=101", 70),
    "LUME, retain": ("lume:retain:task2", 300),
}
"""world -> data, and how many rows of it are drawn"""
TIMES = {"Spanish": 4, "Arabic": 4, "Chinese": 4}
"""how often the words of a world count; once where nothing is said"""
HELD_OUT = {
    "other prose": (f"atlas:full:{PROSE},people=20,seed=102", 150),
    "other plain": ("atlas:full:people=24,facts_per_person=5,seed=102", 80),
    "other documents in prose": ("atlas:documents:prose=1,people=24,facts_per_person=20,seed=102", 15),
    "plain documents": ("atlas:documents:people=60,facts_per_person=20,seed=102", 30),
    "other Spanish": ("atlas:full:language=es,people=24,seed=102", 60),
    "other Arabic": ("atlas:full:language=ar,people=24,seed=102", 60),
    "other Chinese": ("atlas:full:language=zh,people=24,seed=102", 60),
    "LUME, forget": ("lume:forget:task2", 120),
    "TOFU, development": ("tofu:forget10_perturbed", 240),
}
"""the same, of which nothing is learned; of TOFU the first rows"""
COLUMNS = ("entropy", "tempered_entropy", "logprob", "base_entropy", "base_logprob")


@dataclass(frozen=True)
class Scored:
    """One world's N target tokens."""

    columns: dict[str, np.ndarray]
    """[N] each"""
    starts: np.ndarray
    """[answers + 1]"""
    true: np.ndarray
    """[N] bool: part of a fact"""

    @property
    def runs(self) -> WordRuns:
        return word_runs(self.columns["word"], self.starts)


def write_rows(name: str, work: Path, *, first: int | None = None) -> Path:
    """The rows of a world as JSON lines; `first`: only so many."""
    spec, count = {**LEARNED, **HELD_OUT}[name]
    path = work / "rows" / f"{name.replace(', ', '-').replace(' ', '-')}{'' if first is None else f'-{first}'}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = load_rows(spec)
    if spec.startswith("tofu") or spec.startswith("lume:forget"):
        rows = rows[:count]
    elif len(rows) > count:
        rows = [rows[i] for i in sorted(seeded(0, name).permutation(len(rows))[:count])]
    path.write_text("".join(json.dumps(_as_json(row), ensure_ascii=False) + "\n" for row in rows[:first]), encoding="utf-8")
    return path


def _as_json(row: Row) -> dict[str, object]:
    spans = row.extra["fact_spans"] if "fact_spans" in row.extra else fact_spans(row)
    text = {"text": row.answer} if row.question is None else {"question": row.question, "answer": row.answer}
    return {**text, "fact_spans": spans}


def score(data: Path, model: str, out: Path) -> None:
    """A store of these rows; one that is finished is kept, one that was cut off goes on."""
    raw = ["--text-key", "text"] if "documents" in data.name else []
    words = ["--spans", "none", "--set", "entropy_temperature=2", "--set", "uncertainty=entropy", "--engine", "torch"]
    subprocess.run([sys.executable, "-m", "tu_score", "run", "--model", model, "--data", str(data), "--out", str(out), *raw, *words],
                   check=True, stdout=subprocess.DEVNULL)  # fmt: skip


def read(store: Path, model: str) -> Scored:
    """What a store holds. One scored by the base model itself holds the base model's columns under plain names."""
    found, tokenizer = open_store(store), load_tokenizer(locate(model))
    true = true_tokens(scored_examples(found, tokenizer, model, None), tokenizer, "fact_spans")
    documents, names = documents_of(found), [*COLUMNS, *TEXT_COLUMNS]
    targets = whole_targets(found, names, documents)
    return Scored(as_base(targets.columns), targets.starts, true)


def as_base(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**columns, "base_entropy": columns["entropy"], "base_logprob": columns["logprob"]}
