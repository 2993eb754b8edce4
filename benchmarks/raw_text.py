"""Raw text on atlas documents: unlearn some people's biographies, and see what that takes from everything else.

    python -m benchmarks.raw_text --work FOLDER [--cells hard-0 all-0 ...]   runs what is not there yet
    python -m benchmarks.raw_text --work FOLDER --page                       prints the tables from what is there

SmolLM2 learns the documents of a small world. The forget documents are scored with the model before learning as base
model; importance is then the default one with words that stand in many documents set back (`rare_words`), given as a
file of one's own. UNDIAL unlearns the documents for STEPS steps, with the most important tokens alone (hard), with all
of them, or with exactly the facts (given). Exams are multiple-choice questions that were never trained on: about the
people to forget, about the others, and about the world. Every step is a folder, made once; several processes may work
on different cells. About ten minutes a cell on one core.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections import Counter, defaultdict
from itertools import chain, pairwise, product
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.study.commands import command, say, train

WORLD = "people=12,facts_per_person=6,forget_people=4,documents=3"
FORGET, RETAIN = f"atlas:documents-forget:{WORLD}", f"atlas:documents-retain:{WORLD}"
EXAMS = ("forget", "retain", "world")
SOURCES = ("hard", "all", "given")
CELLS = [f"{tokens}-{seed}" for seed in range(3) for tokens in SOURCES]
LEARN = ["--epochs", "6", "--set", "batch_size=2", "--learning-rate", "3e-4", "--set", "batch_tokens=1024", "--set", "checkpointing=false"]
STEPS = 24
UNLEARN = ["--method", "undial", "--epochs", "10", "--set", f"max_steps={STEPS}", "--learning-rate", "8e-5", "--set", "alpha=2",
           "--set", "batch_size=2", "--set", "batch_tokens=1024", "--set", "schedule=constant", "--set", "warmup=0",
           "--dtype", "bfloat16", "--set", "checkpointing=false"]  # fmt: skip
KEEP = ["--keep", "0.5"]
OFTEN, LITTLE = 0.125, 0.05
"""share of the documents from which on a word is no longer rare, and what is left of its importance"""
GAP = 2
"""words"""
SIGNALS = {
    "base entropy": {}, "gain": {"alpha": 1, "knowledge": "gain"}, "entropy": {"uncertainty": "entropy"},
    "delta": {"alpha": 1, "knowledge": "absolute"}, "delta, taken away": {"alpha": 1, "knowledge": "positive"},
    "half base entropy, half gain": {"alpha": 0.5, "knowledge": "gain"},
}  # fmt: skip
"""signal -> fields of the recipe"""


def prepare(work: Path) -> float:
    """Target, its store, the exams before; -> NLL of the facts before learning, nats."""
    from shared.store.scores import open_store
    from shared.weighting.importance import FILE

    target, log = work / "target", work / "prepare.log"
    train(["tu-train", "finetune", "--model", "smollm2", "--data", f"atlas:documents:{WORLD}", *LEARN], target, log)
    for name, model in (("base", "smollm2"), ("target", str(target))):
        exams(model, work / f"exams-{name}", log)
    store(work, "scores", ["--spans", "none"])
    store(work, "scores-rare", ["--spans", "none", "--set", "copies=keep"])
    if FILE not in open_store(str(work / "scores-rare")).manifest["recipe"]:  # still the importance that it was scored with
        rare_words(work / "scores-rare", work / "rare.parquet")
        command(["tu-score", "recipe", str(work / "scores-rare"), "--importance", str(work / "rare.parquet")], log)
    columns, truth, _ = columns_of_store(work / "scores", ["base_logprob"])
    return -float(columns["base_logprob"][truth].mean())


def rare_words(folder: Path, out: Path) -> None:
    """A file of importance: that of the store, and LITTLE of it for words that stand in more than OFTEN of all
    documents; but what stands between two rare words, at most GAP words apart, has the smaller importance of the
    two."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from shared.data.datasets import load_rows
    from shared.data.words import WORD, plain
    from shared.store.scores import open_store

    texts = [row.answer for row in load_rows(f"atlas:documents:{WORLD}")]
    held = Counter(word for text in texts for word in {plain(found.group()) for found in WORD.finditer(text)})
    ids, values = [], []
    for row in open_store(str(folder)).rows(("example_id", "tokens", "is_target", "word", "importance")):
        spelt: dict[int, str] = defaultdict(str)
        for token, word in zip(row["tokens"], row["word"], strict=True):
            if word is not None:
                spelt[word] += token
        often = {word for word, text in spelt.items() if any(held[plain(m.group())] > OFTEN * len(texts) for m in WORD.finditer(text))}
        at = [i for i, target in enumerate(row["is_target"]) if target]
        rare = np.array([row["word"][i] is not None and row["word"][i] not in often for i in at])
        own = np.array([row["importance"][i] for i in at])
        place = np.array([np.nan if row["word"][i] is None else row["word"][i] for i in at])
        found = np.where(rare, own, LITTLE * own)
        for left, right in pairwise(np.flatnonzero(rare)):
            if place[right] - place[left] <= GAP + 1:
                found[left + 1 : right] = min(found[left], found[right])
        ids.append(row["example_id"])
        values.append(found.tolist())
    pq.write_table(pa.table({"example_id": ids, "importance": values}), out)


def store(work: Path, name: str, words: list[str]) -> None:
    out = work / name
    if not (out / "_manifest.json").exists():
        command(["tu-score", "run", "--model", str(work / "target"), "--base-model", "smollm2", "--data", FORGET, "--engine", "torch",
                 *words, "--out", str(out)], work / "prepare.log")  # fmt: skip


def exams(model: str, out: Path, log: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for exam in EXAMS:
        folder = out / exam
        if not (folder / "choices.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            command(["tu-eval", "choices", "--model", model, "--data", f"atlas:choices-{exam}:{WORLD}", "--out", str(folder)], log)


def run(work: Path, cell: str) -> None:
    tokens, seed = cell.split("-")
    out = work / cell
    train(["tu-train", "run", "--model", str(work / "target"), "--scores", str(work / "scores-rare"), "--retain", RETAIN,
           "--tokens", tokens, "--seed", seed, *UNLEARN, *(KEEP if tokens == "hard" else [])], out, work / f"{cell}.log")  # fmt: skip
    exams(str(out), work / f"exams-{cell}", work / f"{cell}.log")
    say(f"{cell}: " + ", ".join(f"{exam} {share(work, cell, exam):.1%}" for exam in EXAMS))


def share(work: Path, name: str, exam: str) -> float:
    return json.loads((work / f"exams-{name}" / exam / "choices.json").read_text())["metrics"]["accuracy"]


def columns_of_store(folder: Path, names: list[str]) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """[N] columns at all target tokens, [N] bool whether they tell a fact, and where each example begins."""
    from shared.data.layout import LayoutOptions, as_scored
    from shared.lm.models import load_laid_out, locate
    from shared.store.scored import given_tokens, scored_examples
    from shared.store.scores import open_store
    from tu_score.recipe import documents_of, whole_targets

    found = open_store(str(folder))
    tokenizer = load_laid_out("smollm2", locate("smollm2"), as_scored(LayoutOptions(), found.manifest["options"]))
    examples = scored_examples(found, tokenizer, "smollm2", None)
    given = [(example, set(tokens)) for example, tokens in given_tokens(examples, tokenizer, "fact_spans", flag="--truth-key")]
    truth = np.array(list(chain.from_iterable([i in tokens for i in example.targets] for example, tokens in given)))
    targets = whole_targets(found, names, documents_of(found))
    return targets.columns, truth, targets.starts


def agreement(folder: Path, unit: Literal["token", "word", "phrase"], copies: Literal["keep", "drop"]) -> dict[str, dict[str, float]]:
    """How well each recipe finds the tokens of facts: mean figures over documents."""
    from shared.weighting.importance import READABLE, Recipe, importance
    from tu_score.agree import compare

    columns, truth, starts = columns_of_store(folder, list(READABLE))
    held = {name for name, values in columns.items() if not np.isnan(values).all()}
    out = {}
    for name, fields in SIGNALS.items():
        recipe = Recipe(**{"uncertainty": "base_entropy", "unit": unit, "copies": copies, **fields})
        if held.issuperset(recipe.columns()):
            out[name] = importance(columns, starts, recipe)
    answers = [slice(a, b) for a, b in pairwise(starts)]
    word = columns["word"] + np.repeat(np.arange(len(answers)), np.diff(starts)) * (np.diff(starts).max() + 1)
    return {name: figures["per_answer"] for name, figures in compare(out, truth, answers, word)["signals"].items()}


def page(work: Path) -> None:
    """The tables of docs/raw_text.md."""
    print("| Model | " + " | ".join(f"{exam} exam" for exam in EXAMS) + " | steps |\n|---|" + "---:|" * (len(EXAMS) + 1))
    for name in ("base", "target", *CELLS):
        if all((work / f"exams-{name}" / exam / "choices.json").exists() for exam in EXAMS):
            steps = json.loads((work / name / "training.json").read_text())["counts"]["steps"] if name in CELLS else ""
            print(f"| {name} | " + " | ".join(f"{100 * share(work, name, exam):.1f} %" for exam in EXAMS) + f" | {steps} |")
    for tokens in SOURCES:
        names = [c for c in CELLS if c.startswith(tokens) and (work / f"exams-{c}" / EXAMS[-1] / "choices.json").exists()]
        if names:
            means = [math.fsum(share(work, name, exam) for name in names) / len(names) for exam in EXAMS]
            print(f"| {tokens}, mean of {len(names)} | " + " | ".join(f"{100 * mean:.1f} %" for mean in means) + " | |")
    for name in ("scores", "scores-window", "scores-entity"):
        if (work / name / "_manifest.json").exists():
            print(f"\n{name}\n\n| Signal | Unit | Copies | AUC | first 10 % | first 20 % | first 30 % |\n|---|---|---|---:|---:|---:|---:|")
            for unit, copies in product(("token", "word", "phrase"), ("keep", "drop")):
                for signal, found in agreement(work / name, unit, copies).items():
                    numbers = " | ".join(f"{found[f]:.2f}" for f in ("auc", "p_10", "p_20", "p_30"))
                    print(f"| {signal} | {unit} | {copies} | {numbers} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of everything that is made")
    parser.add_argument("--cells", nargs="*", default=CELLS, help=f"of {', '.join(CELLS)}")
    parser.add_argument("--spans", nargs="*", default=[], help="also score with these spans: window, entity")
    parser.add_argument("--page", action="store_true", help="print the tables only")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if not arguments.page:
        level = prepare(arguments.work)
        say(f"facts before learning: {level:.3f} nats a token")
        for cell in arguments.cells:
            run(arguments.work, cell)
        for spans in arguments.spans:
            store(arguments.work, f"scores-{spans}", ["--spans", spans, "--set", "window_length=8", "--set", "window_stride=8"])
    page(arguments.work)


if __name__ == "__main__":
    main()
