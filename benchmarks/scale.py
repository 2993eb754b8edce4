"""What scoring at scale takes: memory of the driver, how fast it reads, plans and writes, and what workers add.

    python -m benchmarks.scale [--tokens 20 100] [--minutes 5] > scale.json

Prints JSON (docs/scale.md tells what each key is). The corpora are generated; the model's scores are made up in the
parts of this script that measure the driver, everything else is the real run. Corpora and stores go to a temporary
folder, ten bytes a token.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shared.engines.interface import Request, TokenScores
from shared.store.scores import open_store
from tu_score import part, run, workers
from tu_score.config import ScoreConfig
from tu_score.run import run_score

WORDS_A_TEXT = 380
"""about 512 tokens"""
SIZE = "people=60,facts_per_person=5,forget_people=10"


def corpus(path: Path, tokens: int) -> Path:
    """Texts of words that the atlas uses, drawn anew for each row."""
    from shared.data.datasets import load_rows

    words = [word for row in load_rows(f"atlas:documents:{SIZE}") for word in row.answer.split()]
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(max(1, tokens // 512)):
            file.write(json.dumps({"text": " ".join(draw.choices(words, k=WORDS_A_TEXT))}) + "\n")
    return path


class MadeUp:
    """An engine that reads nothing: every token has the same numbers."""

    def describe(self) -> dict[str, Any]:
        return {"name": "made up", "version": "0", "dtype": "float32", "device": "cpu"}

    def score(self, requests: Sequence[Request], advance: Callable[[int], None] = lambda tokens: None) -> list[TokenScores]:
        out = []
        for request in requests:
            count = len(request.wanted)
            out.append(TokenScores(np.full(count, -1.0, np.float32), np.full(count, 1.0, np.float32)))
            advance(len(request.ids))
        return out

    def close(self) -> None:
        pass


def driver(data: Path, out: Path) -> None:
    """One run in this process with scores that are made up; prints tokens, processor seconds of all and of the scorers'
    part, and peak memory. Processor seconds, so that they are those of one core however busy the machine is."""
    engine, spent = MadeUp(), 0.0
    honest = part.PartScorer.__call__

    def timed(self, *given: Any) -> Any:
        nonlocal spent
        start = time.process_time()
        table = honest(self, *given)
        spent += time.process_time() - start
        return table

    part.PartScorer.__call__ = timed  # type: ignore[method-assign]
    run.open_scorer = lambda *_: engine  # type: ignore[assignment]
    start = time.process_time()
    run_score(ScoreConfig(model="smollm2", data=str(data), text_key="text", uncertainty="entropy", text_overlap=0, out=str(out)))
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tokens = open_store(out).manifest["tokens"]
    print(json.dumps({"tokens": tokens, "seconds": seconds, "of_scorers": spent, "peak_mb": peak}))


def measured(*words: object) -> dict[str, Any]:
    """This script's own command in a process of one thread; what it printed last."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.scale", *map(str, words)], env={**os.environ, "OMP_NUM_THREADS": "1"},
                          stdout=subprocess.PIPE, text=True, check=True)  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def scored(data: Path, out: Path, count: int, ray: bool) -> None:
    """A real run; prints tokens a second of its parts, the loading of models and the start of Ray left out."""
    times: list[float] = []
    honest = run.score_parts

    def timed(*given: Any) -> Any:
        times.append(time.perf_counter())
        yield from honest(*given)
        times.append(time.perf_counter())

    run.score_parts = timed  # type: ignore[assignment]
    if ray and count == 1:
        run.open_scorer = lambda config, folder, scorer: workers.Crew(config, folder, scorer)  # type: ignore[assignment]
    config = ScoreConfig(model="smollm2", data=str(data), text_key="text", uncertainty="entropy", spans="none", workers=count, out=str(out),
                         part_tokens=4096, engine="torch", device="cpu")  # fmt: skip
    run_score(config)
    print(json.dumps({"tokens_per_s": open_store(out).manifest["tokens"] / (times[1] - times[0]), "seconds": times[1] - times[0]}))


def of_driver(millions: Sequence[int]) -> dict[str, Any]:
    work = Path(tempfile.mkdtemp())
    small, large = (measured("--driver", corpus(work / f"{n}.jsonl", n * 10**6), work / f"{n}") for n in millions)
    shutil.rmtree(work)
    return {
        "driver_growth_mb": large["peak_mb"] - small["peak_mb"],
        "driver_peak_mb": [small["peak_mb"], large["peak_mb"]],
        "plan_tokens_per_s": large["tokens"] / (large["seconds"] - large["of_scorers"]),
        "part_tokens_per_s": large["tokens"] / large["of_scorers"],
    }


def of_workers(minutes: float) -> dict[str, Any]:
    work = Path(tempfile.mkdtemp())
    rate = measured("--scored", corpus(work / "try.jsonl", 20_000), work / "try", 1, "no")["tokens_per_s"]
    data = corpus(work / "rows.jsonl", int(rate * 60 * minutes))
    ways = {"one": (1, "no"), "actor": (1, "ray"), "two": (2, "ray")}
    runs = {name: measured("--scored", data, work / name, *how) for name, how in ways.items()}
    shutil.rmtree(work)
    return {
        "two_workers": runs["two"]["tokens_per_s"] / runs["one"]["tokens_per_s"],
        "ray_overhead": runs["actor"]["seconds"] / runs["one"]["seconds"],
        "seconds": {name: one["seconds"] for name, one in runs.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="What scoring at scale takes (docs/scale.md).")
    parser.add_argument("--tokens", type=int, nargs=2, default=[20, 100], help="millions of tokens of the two corpora")
    parser.add_argument("--minutes", type=float, default=5.0, help="length of the runs of a real model")
    parser.add_argument("--only", choices=["driver", "workers"], help="one of the two halves")
    parser.add_argument("--driver", type=Path, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--scored", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.driver:
        driver(*given.driver)
        return
    if given.scored:
        data, out, count, ray = given.scored
        scored(Path(data), Path(out), int(count), ray == "ray")
        return
    found: dict[str, Any] = {}
    if given.only != "workers":
        found |= of_driver(given.tokens)
    if given.only != "driver":
        found |= of_workers(given.minutes)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
