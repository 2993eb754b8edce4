"""How fast NPO trains and how much memory it takes, against what a user would write today
(benchmarks/train_baseline.py).

    TU_TOFU_DIR=... python -m benchmarks.train --json [--rounds 3] [--steps 4] [--processor]

SmolLM2-135M, tofu:forget01 with tofu:retain99, all tokens, steps of eight forget and eight retain rows. Ours is the
real command, on a store that is scored first. Every variant runs in a process of its own; they take turns, and medians
over the rounds are compared:

    npo_f32       tokens/s of ours in float32 over the baseline's (tokens as the rows have them, before any sharing)
    npo_bf16      tokens/s of ours under bfloat16 autocast over the baseline's in float32, its default
    peak_memory   peak resident memory of ours over the baseline's, both float32, until the last step
    lora          tokens/s of ours with LoRA over ours with all weights, float32
    kept_f32, kept_peak_memory    the first and the third with --set checkpointing=false: activations kept

The first step is a warm-up and is not timed. Both compute the same loss on the first batch, which is checked. Lines on
stderr tell what goes on; stdout holds the JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

BATCH, BETA, LEARNING_RATE, RANK, SEED = 8, 0.1, 1e-5, 8, 0
AGREE = 1e-4
"""relative, of the first batch's loss in float32; both sides sum in another order"""
VARIANTS: dict[str, dict[str, Any]] = {"baseline": {}, "f32": {}, "bf16": {"dtype": "bfloat16"}, "lora": {"lora": RANK}}
VARIANTS["kept"] = {"checkpointing": False}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def peak_mib() -> float:
    """Of this process so far. VmHWM alone where there is one: ru_maxrss may begin with what the parent had when it
    forked."""
    status = Path("/proc/self/status")
    found = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")] if status.exists() else []
    kib = float(found[0]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return kib / 1024


class Watch:
    """Notes time and peak memory after every optimizer step of this process, whoever makes it. `clock`: seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.clock, self.times = clock, list[float]()
        self.peak = 0.0
        register_optimizer_step_post_hook(self.note)

    def note(self, *_: Any) -> None:
        self.times.append(self.clock())
        self.peak = peak_mib()


def score(folder: Path, model: str, data: str, rows: int) -> None:
    from shared.lm.models import locate, model_fingerprint
    from shared.store.scores import open_store
    from tu_score.config import ScoreConfig
    from tu_score.run import run_score

    if (folder / "_manifest.json").exists() and open_store(folder).fingerprints["model"] == model_fingerprint(locate(model)):
        return
    say(f"scoring {rows} rows of {data}")
    run_score(ScoreConfig(model=model, data=data, out=str(folder), engine="torch", device="cpu", spans="none", limit=rows))


def pairs_of(model: str, store_folder: Path, retain: str, epochs: int) -> list[tuple[Any, Any]]:
    """The rows that our command draws, in its order."""
    from shared.data.datasets import load_rows
    from shared.data.examples import make_examples
    from shared.lm.models import context_length, load_tokenizer, locate
    from shared.store.scores import open_store
    from shared.weighting.weights import Selection
    from tu_train.data.batches import endless, forget_items, item_of_example, item_of_row

    folder, store = locate(model), open_store(store_folder)
    examples = make_examples(load_rows(retain), load_tokenizer(folder), context=context_length(folder))
    others = endless([item_of_example(e) for e in examples], seed=SEED)

    def make(row: dict[str, Any]):
        return item_of_row(row, selection=Selection(tokens="all"), where=str(store_folder))

    return [(item, next(others)) for epoch in range(epochs) for item in forget_items(store, make, seed=SEED, epoch=epoch)]


def variant(name: str, model: str, store: Path, retain: str, epochs: int, *, processor: bool = False) -> dict[str, float]:
    """Runs one of VARIANTS in this process: tokens/s after the first step, peak MiB, loss of the first batch."""
    import torch

    from shared.lm.models import load_model, locate

    pairs, watch = pairs_of(model, store, retain, epochs), Watch(time.process_time if processor else time.perf_counter)
    if name == "baseline":
        from benchmarks.train_baseline import train_baseline

        loaded = load_model(locate(model), dtype=torch.float32, device=torch.device("cpu"))
        loss = train_baseline(loaded, pairs, batch_size=BATCH, beta=BETA, learning_rate=LEARNING_RATE)
    else:
        loss = ours(model, store, retain, epochs, VARIANTS[name])
    counts = [sum(len(a.ids) + len(b.ids) for a, b in step) for step in iter(lambda rows=iter(pairs): list(islice(rows, BATCH)), [])]
    assert len(counts) == len(watch.times), f"{name}: {len(watch.times)} optimizer steps, expected {len(counts)}"
    return {"speed": sum(counts[1:]) / (watch.times[-1] - watch.times[0]), "peak": watch.peak, "loss": loss}


def ours(model: str, store: Path, retain: str, epochs: int, fields: dict[str, Any]) -> float:
    from tu_train.config import UnlearnConfig
    from tu_train.run import run_unlearn

    with tempfile.TemporaryDirectory() as folder:
        out = run_unlearn(UnlearnConfig(
            model=model, scores=str(store), retain=retain, out=f"{folder}/model", method="npo", options={"beta": BETA}, gamma=1.0,
            alpha=1.0, tokens="all", epochs=epochs, batch_size=BATCH, learning_rate=LEARNING_RATE, seed=SEED, device="cpu", **fields,
        ))  # fmt: skip
        return json.loads((out / "log.jsonl").read_text().splitlines()[0])["loss"]


def ask(name: str, arguments: argparse.Namespace, store: Path) -> dict[str, float]:
    """`variant` (or `score`) in a process of its own, whose memory is then its own too."""
    same = (f"--{k}={getattr(arguments, k)}" for k in ("model", "data", "retain", "rows", "steps"))
    words = ["--run", name, "--store", str(store), *same]
    words += ["--processor"] if arguments.processor else []
    done = subprocess.run([sys.executable, "-m", "benchmarks.train", *words], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(results: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """The ratios. Raises SystemExit where the first losses differ."""
    expected, found = results["baseline"][0]["loss"], results["f32"][0]["loss"]
    if not abs(found - expected) <= AGREE * abs(expected):
        raise SystemExit(f"loss of the first batch: ours {found}, baseline {expected}; they do not compute the same thing")
    of = {name: {key: median(r[key] for r in runs) for key in ("speed", "peak")} for name, runs in results.items()}
    return {
        "npo_f32": of["f32"]["speed"] / of["baseline"]["speed"],
        "npo_bf16": of["bf16"]["speed"] / of["baseline"]["speed"],
        "peak_memory": of["f32"]["peak"] / of["baseline"]["peak"],
        "lora": of["lora"]["speed"] / of["f32"]["speed"],
        "kept_f32": of["kept"]["speed"] / of["baseline"]["speed"],
        "kept_peak_memory": of["kept"]["peak"] / of["baseline"]["peak"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object (else one line a key)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of all variants")
    parser.add_argument("--steps", type=int, default=4, help="timed steps at least; whole passes over the rows are made")
    parser.add_argument("--rows", type=int, default=40, help="forget rows")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--data", default="tofu:forget01")
    parser.add_argument("--retain", default="tofu:retain99")
    parser.add_argument("--processor", action="store_true", help="count processor seconds: on a machine that others use, with one thread")
    parser.add_argument("--run", choices=[*VARIANTS, "score"], help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run == "score":
        score(arguments.store, arguments.model, arguments.data, arguments.rows)
        print("{}")
        return
    if arguments.run:
        epochs = -(-(arguments.steps + 1) // -(-arguments.rows // BATCH))
        print(json.dumps(variant(arguments.run, arguments.model, arguments.store, arguments.retain, epochs,
                                 processor=arguments.processor)))  # fmt: skip
        return
    from shared.lm.smollm2 import cache_folder

    parts = (arguments.model, arguments.data, str(arguments.rows))
    store = cache_folder() / "benchmarks" / "-".join(part.strip("/").replace("/", "_").replace(":", "_") for part in parts)
    ask("score", arguments, store)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for number in range(arguments.rounds):
        for name, runs in results.items():
            found = ask(name, arguments, store)
            runs.append(found)
            say(f"round {number + 1}, {name}: {found['speed']:.1f} tokens/s, {found['peak']:.0f} MiB, first loss {found['loss']:.6f}")
    rounded = {k: float(f"{v:.4g}") for k, v in compare(results).items()}
    print(json.dumps(rounded) if arguments.json else "\n".join(f"{k} {v}" for k, v in rounded.items()))


if __name__ == "__main__":
    main()
