"""Three real models on three forget sets: learned, scored, unlearned with hard and with all tokens, evaluated.

    TU_TOFU_DIR=... TU_LUME_DIR=... python -m benchmarks.real_models --work OUT \\
        --models smollm2 gemma=FOLDER_OF_PARTS qwen=FOLDER_OF_PARTS [--sets tofu lume atlas] [--vllm]
    python -m benchmarks.real_models --work OUT --table

A cell is a model and a set. The model learns the forget rows and as many retain rows by LoRA (no model knows TOFU,
LUME or atlas by itself), is scored, and unlearns by NPO with LoRA; SmolLM2 also with all its weights. `--vllm` scores
the models as they were before with vLLM too and compares token by token. Everything goes through the functions of the
commands, rows in plain text, so that the three models read the same. What is finished is kept in OUT and not done
again; models are deleted when they are evaluated, so a cell takes three times the model's bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.console import say
from shared.files.fs import write_json, write_text

SETS = ("tofu", "lume", "atlas")
ROWS = {"tofu": 40, "lume": 120, "atlas": 60}
"""forget rows; as many retain rows"""
TARGETS = ("q_proj", "v_proj", "down_proj")
LEARN = {"epochs": 3, "learning_rate": 1e-3, "batch_size": 2, "lora": 16, "lora_targets": TARGETS, "dtype": "bfloat16"}
UNLEARN = {"batch_size": 1, "method": "npo", "dtype": "bfloat16"}
WAYS: dict[str, dict[str, Any]] = {
    "LoRA": {"epochs": 2, "lora": 16, "lora_targets": TARGETS, "learning_rate": 5e-4},
    "full": {"epochs": 1, "learning_rate": 5e-5},
}
TOKENS = ("hard", "all")
VLLM = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""what vLLM needs on a small CPU"""
SUITE = "".join(f'[[set]]\nname = "{name}"\ndata = "{name}.jsonl"\ngenerate = false\n\n' for name in ("forget", "retain"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of what is finished")
    parser.add_argument("--models", nargs="+", default=["smollm2"], metavar="NAME[=MODEL]")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--share", type=float, default=1.0, help="of the rows, for a small CPU; one share for one OUT")
    parser.add_argument("--vllm", action="store_true", help="compare the engines instead of training")
    parser.add_argument("--table", action="store_true", help="print what is finished, as Markdown")
    arguments = parser.parse_args()
    if arguments.table:
        from benchmarks.real_models_table import table

        print(table(arguments.work))
        return
    for data in arguments.sets:
        for given in arguments.models:
            name, _, model = given.partition("=")
            rows = arguments.work / f"rows-{data}"
            if not (rows / "suite.toml").exists():
                write_rows(data, round(ROWS[data] * arguments.share), rows)
            (engines if arguments.vllm else cell)(model or name, arguments.work / f"{name}-{data}", rows, full=name == "smollm2")


def write_rows(data: str, count: int, folder: Path) -> None:
    """forget.jsonl, retain.jsonl, both.jsonl and a suite of the first two."""
    folder.mkdir(parents=True, exist_ok=True)
    both = []
    for name in ("forget", "retain"):
        pairs = rows_of(data, name)[:count]
        rows = [{"id": f"{name}-{i}", "question": q, "answer": a, "perturbed_answer": ["None."]} for i, (q, a) in enumerate(pairs)]
        write_text(folder / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        both += rows
    write_text(folder / "both.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in both))
    write_text(folder / "suite.toml", SUITE)


def rows_of(data: str, name: str) -> list[tuple[str, str]]:
    """Questions and answers: TOFU forget01 and retain99, the questions of LUME's second task, atlas."""
    from shared.data.datasets import load_rows

    specs = {"tofu": {"forget": "tofu:forget01", "retain": "tofu:retain99"}, "atlas": {"forget": "atlas:forget", "retain": "atlas:retain"},
             "lume": {"forget": "lume:forget:task2:qa", "retain": "lume:retain:task2:qa"}}  # fmt: skip
    return [(row.question or "", row.answer) for row in load_rows(specs[data][name])]


def once(result: Path, do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `do` returned, with the seconds it took; done only where it is not there yet."""
    if not result.exists():
        began = time.perf_counter()
        found = do()
        write_json(result, {**found, "seconds": round(time.perf_counter() - began, 1)})
    return json.loads(result.read_text(encoding="utf-8"))


def cell(model: str, folder: Path, rows: Path, *, full: bool) -> None:
    ways = [(way, tokens) for way in WAYS if full or way == "LoRA" for tokens in TOKENS]
    if all((folder / f"{way}-{tokens}.json").exists() for way, tokens in ways):
        return
    folder.mkdir(parents=True, exist_ok=True)
    target, scores = folder / "target", folder / "scores"
    if not (target / "training.json").exists():
        say(f"{folder.name}: learning")
        shutil.rmtree(folder / "target.unfinished", ignore_errors=True)
        once(folder / "learn.json", lambda: learn(model, rows, target))
    once(folder / "score.json", lambda: score(str(target), rows, scores, spans="auto"))
    once(folder / "before.json", lambda: evaluate(target, rows, folder / "before"))
    for way, tokens in ways:
        say(f"{folder.name}: unlearning, {way}, {tokens} tokens")
        once(folder / f"{way}-{tokens}.json", lambda way=way, tokens=tokens: unlearn(folder, rows, way, tokens))
    shutil.rmtree(target)


def learn(model: str, rows: Path, out: Path) -> dict[str, Any]:
    from tu_train.config import FinetuneConfig
    from tu_train.run import run_finetune

    run_finetune(FinetuneConfig(model=model, data=str(rows / "both.jsonl"), out=str(out), template="plain", **LEARN))
    return {}


def score(model: str, rows: Path, out: Path, *, spans: Any, engine: Any = "torch", data: str = "forget") -> dict[str, Any]:
    from tu_score.config import ScoreConfig
    from tu_score.run import run_score

    run_score(ScoreConfig(model=model, data=str(rows / f"{data}.jsonl"), out=str(out), template="plain", engine=engine, spans=spans))
    return {}


def evaluate(model: Path, rows: Path, out: Path) -> dict[str, Any]:
    """Mean probability of an answer, of forget and of retain rows."""
    from tu_eval.measure.config import EvalConfig
    from tu_eval.measure.questions import evaluate as measure

    config = EvalConfig(model=str(model), suite=str(rows / "suite.toml"), out=str(out), template="plain", engine="torch", generate=False)
    return {"metrics": measure(config).summary["metrics"]}


def unlearn(folder: Path, rows: Path, way: str, tokens: str) -> dict[str, Any]:
    from tu_train.config import UnlearnConfig
    from tu_train.run import run_unlearn

    out, results = folder / f"{way}-{tokens}", folder / f"{way}-{tokens}-results"
    for left in (out, results, folder / f"{out.name}.unfinished"):
        shutil.rmtree(left, ignore_errors=True)
    words: dict[str, Any] = {**UNLEARN, **WAYS[way], "tokens": tokens}
    run_unlearn(
        UnlearnConfig(model=str(folder / "target"), scores=str(folder / "scores"), retain=str(rows / "retain.jsonl"), out=str(out), **words)
    )
    found = evaluate(out, rows, results)
    shutil.rmtree(out)
    return found


def engines(model: str, folder: Path, rows: Path, *, full: bool) -> None:
    """Largest and mean difference of a token's log-probability, nats, both engines on the forget rows."""
    del full
    os.environ.update(VLLM)
    folder.mkdir(parents=True, exist_ok=True)
    for engine in ("torch", "vllm"):
        once(folder / f"engine-{engine}.json", lambda engine=engine: score(model, rows, folder / engine, spans="none", engine=engine))
    once(folder / "engines.json", lambda: differences(folder / "torch", folder / "vllm"))


def differences(first: Path, second: Path) -> dict[str, Any]:
    import numpy as np

    from shared.store.scores import open_store

    sides = [{row["example_id"]: row for row in open_store(side).rows(("example_id", "input_ids", "logprob"))} for side in (first, second)]
    if {k: list(r["input_ids"]) for k, r in sides[0].items()} != {k: list(r["input_ids"]) for k, r in sides[1].items()}:
        raise SystemExit(f"{first}, {second}: not the same tokens")
    gaps = np.concatenate(
        [np.abs(np.array(sides[0][k]["logprob"][1:], float) - np.array(sides[1][k]["logprob"][1:], float)) for k in sides[0]]
    )
    return {"largest": float(gaps.max()), "mean": float(gaps.mean()), "tokens": len(gaps)}


if __name__ == "__main__":
    main()
