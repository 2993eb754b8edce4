"""What several ranks give, beside one process: speed and memory of NPO on SmolLM2-135M, a thread each.

    TU_TOFU_DIR=... python -m benchmarks.parallel --json [--rounds 3] [--steps 2] [--batch 40]

    two_ranks      tokens/s of two ranks over those of one process
    rank_memory    peak resident memory of a rank, the larger one, over that of one process, until the last step
    bytes_bf16     bytes a parameter of bfloat16 weights with 8-bit moments: weights, gradients, moments (modes.py)
    bytes_qlora    the same of LoRA over NF4
    prediction_error  largest relative error of the predicted peak memory, over all modes (memory.py)

Every run is the real command's in processes of its own; one process and two ranks take turns, and medians over the
rounds are compared. The first step is a warm-up and is not timed. Losses of the first batch are checked to agree. Lines
on stderr tell what goes on; stdout holds the JSON object. On two cores that something else uses too, two ranks wait for
each other: the ratio is then that of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import modes
from benchmarks.train import AGREE, BETA, LEARNING_RATE, SEED, Watch, pairs_of, say, score


def run(arguments: argparse.Namespace, store: Path, out: str) -> dict[str, float]:
    """The run of this process, or of this rank: tokens/s of all together after the first step, peak MiB, first loss."""
    import torch

    from tu_train.config import UnlearnConfig
    from tu_train.run import run_unlearn

    torch.set_num_threads(1)
    watch, batch = Watch(), arguments.batch
    pairs = pairs_of(arguments.model, store, arguments.retain, _epochs(arguments))
    run_unlearn(UnlearnConfig(
        model=arguments.model, scores=str(store), retain=arguments.retain, out=out, method="npo", options={"beta": BETA}, gamma=1.0,
        alpha=1.0, tokens="all", epochs=_epochs(arguments), batch_size=batch, learning_rate=LEARNING_RATE, seed=SEED, device="cpu",
    ))  # fmt: skip
    counts = [sum(len(a.ids) + len(b.ids) for a, b in step) for step in iter(lambda rows=iter(pairs): list(islice(rows, batch)), [])]
    assert len(counts) == len(watch.times), f"{len(watch.times)} optimizer steps, expected {len(counts)}"
    loss = json.loads((Path(out) / "log.jsonl").read_text().splitlines()[0])["loss"]
    return {"speed": sum(counts[1:]) / (watch.times[-1] - watch.times[0]), "peak": watch.peak, "loss": loss}


def _epochs(arguments: argparse.Namespace) -> int:
    return -(-(arguments.steps + 1) // -(-arguments.rows // arguments.batch))


def ask(count: int, arguments: argparse.Namespace, store: Path) -> dict[str, float]:
    """`run` on that many ranks: rank 0's speed, the largest peak."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        same = (f"--{k}={getattr(arguments, k)}" for k in ("model", "data", "retain", "rows", "steps", "batch"))
        words = [sys.executable, "-m", "benchmarks.parallel", "--run", f"{folder}/model", "--store", str(store), *same]
        ranks = []
        for rank in range(count):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            env = {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in place.items()}}
            ranks.append(subprocess.Popen([*words, "--result", f"{folder}/{rank}.json"], env=env, stdout=subprocess.DEVNULL))
        if any(process.wait() for process in ranks):
            raise SystemExit(f"a run on {count} ranks failed")
        found = [json.loads(Path(f"{folder}/{rank}.json").read_text()) for rank in range(count)]
    return {**found[0], "peak": max(each["peak"] for each in found)}


def of_ranks(arguments: argparse.Namespace, store: Path) -> dict[str, float]:
    """two_ranks and rank_memory."""
    results: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for number in range(arguments.rounds):
        for count, runs in results.items():
            runs.append(ask(count, arguments, store))
            say(f"round {number + 1}, {count} ranks: {runs[-1]['speed']:.1f} tokens/s, {runs[-1]['peak']:.0f} MiB, first loss "
                f"{runs[-1]['loss']:.6f}")  # fmt: skip
    return compare(results[1], results[2])


def compare(one: list[dict[str, float]], two: list[dict[str, float]]) -> dict[str, float]:
    """The ratios. Raises SystemExit where the first losses differ."""
    if not abs(one[0]["loss"] - two[0]["loss"]) <= AGREE * abs(one[0]["loss"]):
        raise SystemExit(f"loss of the first batch: one process {one[0]['loss']}, two ranks {two[0]['loss']}; they do not compute the same")
    speed, peak = (median(r[key] for r in two) / median(r[key] for r in one) for key in ("speed", "peak"))
    return {"two_ranks": speed, "rank_memory": peak}


def of_modes(arguments: argparse.Namespace, store: Path) -> dict[str, float]:
    """bytes_bf16 and bytes_qlora."""
    keys = {"bytes_bf16": "8-bit moments", "bytes_qlora": "lora over nf4"}
    return {key: modes.ask(mode, 2, store)["bytes"] for key, mode in keys.items()}


def of_predictions(arguments: argparse.Namespace, store: Path) -> dict[str, float]:
    """prediction_error."""
    made = subprocess.run([sys.executable, "-m", "benchmarks.memory"], check=True, stdout=subprocess.PIPE, text=True)
    return {"prediction_error": json.loads(made.stdout)["prediction_error"]}


MEASURES: dict[str, Callable[[argparse.Namespace, Path], dict[str, float]]] = {
    "ranks": of_ranks,
    "modes": of_modes,
    "predictions": of_predictions,
}
"""name on the command line -> what measures some of the keys"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object (else one line a key)")
    parser.add_argument("--only", choices=[*MEASURES], action="append", help="measure this alone")
    parser.add_argument("--rounds", type=int, default=3, help="turns of one process and two ranks")
    parser.add_argument("--steps", type=int, default=2, help="timed steps at least; whole passes over the rows are made")
    parser.add_argument("--batch", type=int, default=40, help="forget rows a step, and as many retain rows")
    parser.add_argument("--rows", type=int, default=40, help="forget rows")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--data", default="tofu:forget01")
    parser.add_argument("--retain", default="tofu:retain99")
    for name in ("--run", "--result", "--store"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        Path(arguments.result).write_text(json.dumps(run(arguments, Path(arguments.store), arguments.run)))
        return
    from shared.lm.smollm2 import cache_folder

    parts = (arguments.model, arguments.data, str(arguments.rows))
    store = cache_folder() / "benchmarks" / "-".join(part.strip("/").replace("/", "_").replace(":", "_") for part in parts)
    score(store, arguments.model, arguments.data, arguments.rows)
    found: dict[str, Any] = {}
    for name in arguments.only or MEASURES:
        found |= MEASURES[name](arguments, store)
    rounded = {k: float(f"{v:.4g}") for k, v in found.items()}
    print(json.dumps(rounded) if arguments.json else "\n".join(f"{k} {v}" for k, v in rounded.items()))


if __name__ == "__main__":
    main()
