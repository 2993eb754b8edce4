"""How fast scoring is, against what a user would write today (benchmarks/baseline.py) on the same model, data and
machine in the same run.

    TU_TOFU_DIR=... python benchmarks/score.py --json [--rows 40] [--rounds 3]

SmolLM2-135M, tofu:forget01. Baseline and engine take turns; a ratio is the shortest of the baseline's times over the
shortest of the engine's. Both compute the same numbers, which is checked. `flops_share` is the useful floating-point
work a second (each distinct prefix token once, no padding, the head once a distinct position) over the rate of a
2048-cube matrix product in the same process. Needs vLLM's CPU build for the vLLM keys (--no-vllm leaves them out).
Lines on stderr tell what goes on; stdout holds the JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks import read_store
from benchmarks.baseline import delta, padded_loop, variants_in_full
from shared.data.datasets import Row, load_rows
from shared.data.examples import Example, make_examples
from shared.engines.interface import Engine, ignore
from shared.engines.open import open_engine
from shared.lm.models import context_length, load_model, load_tokenizer, locate
from shared.weighting.importance import importance
from shared.weighting.weights import Selection, token_weights
from tu_score.config import ScoreConfig
from tu_score.signals import score_examples
from tu_score.spans import Masking, plan_masking

SPANS: dict[str, dict[str, Any]] = {
    "plain": {"spans": "none"},
    "masked": {"spans": "window", "window_length": 4, "window_stride": 4},
    "long": {"spans": "window", "window_length": 16, "window_stride": 16},
}
AGREE_NATS = 2e-3
"""float32; both sides sum in another order"""
LENGTHS = (512, 1024, 2048)
Workload = tuple[list[Example], ScoreConfig, Masking]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def workload(name: str, rows: int, tokenizer: Any, folder: Any) -> Workload:
    """The first `rows` of tofu:forget01; for `long` its answers as text of `rows` tokens."""
    config = ScoreConfig(model="smollm2", data="tofu:forget01", out="-", max_spans=0, **SPANS[name])
    data = load_rows(config.data, limit=None if name == "long" else rows)
    if name == "long":
        text = " ".join(f"{r.question} {r.answer}" for r in data)
        whole = make_examples([Row("text/0", None, text)], tokenizer, context=None, text_length=rows)
        examples = [next(e for e in whole if len(e.input_ids) == rows)]
    else:
        examples = make_examples(data, tokenizer, context=context_length(folder))
    return examples, config, plan_masking(config, tokenizer, examples, context_length(folder))


def score(engine: Engine, load: Workload) -> list[dict[str, Any]]:
    examples, config, masking = load
    return score_examples(examples, engine, config, masking, ignore)


def baseline(model, load: Workload) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Answers to each example and its variants."""
    examples, _, masking = load
    groups = [variants_in_full(e, masking) for e in examples]
    answers = iter(padded_loop(model, [s for group in groups for s in group]))
    return [[next(answers) for _ in group] for group in groups]


def check(load: Workload, theirs: Sequence, ours: Sequence[dict[str, Any]]) -> None:
    """Baseline and engine computed the same thing."""
    examples, _, masking = load
    for example, answers, columns in zip(examples, theirs, ours, strict=True):
        for name, expected in (("logprob", answers[0][0]), ("entropy", answers[0][1])):
            assert np.abs(columns[name][1:] - expected).max() < AGREE_NATS, f"{example.id}: {name} differs from the baseline"
        if masking.spans[example.id]:
            at = np.array(example.is_target) & ~np.isnan(columns["delta"])
            gap = np.abs(np.abs(columns["delta"][at]) - np.abs(delta(example, masking, answers)[at]))
            assert gap.max() < AGREE_NATS, f"{example.id}: delta differs from the baseline"


def ratio(name: str, theirs: Callable[[], Any], ours: Callable[[], Any], rounds: int) -> tuple[float, float, Any, Any]:
    """Baseline over engine, the engine's shortest time, and what both computed. `ours` gives (seconds, result)."""
    pairs = []
    for _ in range(rounds):
        slow, expected = timed(theirs)
        fast, found = ours()
        pairs.append((slow, fast))
        say(f"{name}: baseline {slow:.2f} s, engine {fast:.2f} s, ratio {slow / fast:.2f}")
    slow, fast = (min(times) for times in zip(*pairs, strict=True))
    return slow / fast, fast, expected, found


def matrix_rate(dtype: torch.dtype) -> float:
    """Floating-point operations a second of a 2048-cube product, the best of seven."""
    a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
    return 2 * 2048**3 / min(timed(lambda: a @ b)[0] for _ in range(7))


def useful_work(model, sequences: Sequence[list[int]], *, shared: bool) -> float:
    """Floating-point operations that answering all positions of these sequences takes; `shared`: each distinct prefix
    once."""
    prefixes = [tuple(s[: i + 1]) for s in sequences for i in range(len(s) - 1)]
    depths = [len(p) for p in (set(prefixes) if shared else prefixes)]
    targets = len({(p, s[len(p)]) for s in sequences for p in (tuple(s[: i + 1]) for i in range(len(s) - 1))}) if shared else len(depths)
    config, head = model.config, model.get_output_embeddings()
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head)
    attention = 2 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * sum(depths)
    return 2.0 * (linear * len(depths) + attention + head.weight.numel() * targets)


def engine_side(pipe, engine_name: str, dtype: str, loads: dict[str, Workload], folder: Any) -> None:
    """In a process of its own, so that its threads and memory are not the baseline's: scores what it is told to, sends
    times back."""
    engine = open_engine(engine_name, folder, dtype=dtype, device="cpu", batch_tokens=2048)
    score(engine, loads["plain"])  # warm
    pipe.send("ready")
    for name in iter(pipe.recv, None):
        pipe.send(matrix_rate(torch.float32) if name == "matrix" else timed(lambda name=name: score(engine, loads[name])))


class Side:
    """An engine in a process of its own; `ask(name)` gives (seconds, result) of a workload, `ask("matrix")` the rate of
    the product."""

    def __init__(self, *arguments: Any):
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.child = spawn.Process(target=engine_side, args=(theirs, *arguments), daemon=True)
        self.child.start()
        theirs.close()
        self.pipe.recv()

    def ask(self, name: str) -> Any:
        self.pipe.send(name)
        return self.pipe.recv()

    def close(self) -> None:
        self.pipe.send(None)
        self.child.join()


def keys_of(engine: str, dtype: str, folder: Any, loads: dict[str, Workload], rounds: int, *, long: bool) -> tuple[dict[str, float], list]:
    """Ratios of an engine, and the masked run's columns."""
    short = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    model = load_model(folder, dtype=getattr(torch, dtype), device=torch.device("cpu"))
    side, out, columns = Side(engine, dtype, loads, folder), {}, []
    for name in ("plain", "masked", *(["long"] if long else [])):
        key = f"{'masked_long' if name == 'long' else name}_{engine}_{short}"
        load = loads[name]
        out[key], seconds, theirs, found = ratio(key, lambda load=load: baseline(model, load), lambda name=name: side.ask(name), rounds)
        if dtype == "float32":
            check(load, theirs, found)
        if name == "plain" and dtype == "float32":
            work = useful_work(model, [e.input_ids for e in load[0]], shared=engine == "torch")
            out[f"flops_share_{engine}_f32"] = work / seconds / side.ask("matrix")
        columns = found if name == "masked" else columns
    if long:
        out |= cost_of_length(side)
    side.close()
    return out, columns


def cost_of_length(side: Side) -> dict[str, float]:
    """Seconds a token of raw text, windows of 16 every 16, default horizon: the longest over the shortest."""
    seconds = {length: min(side.ask(f"text-{length}")[0] for _ in range(2)) / length for length in LENGTHS}
    for length, value in seconds.items():
        say(f"text of {length} tokens: {1000 * value:.2f} ms a token")
    return {f"cost_{n}_over_{LENGTHS[0]}_torch_f32": seconds[n] / seconds[LENGTHS[0]] for n in LENGTHS[1:]}


def flips(load: Workload, first: Sequence[dict], second: Sequence[dict], keep: float) -> float:
    """Share of target tokens whose hard selection differs between two runs, default recipe."""
    examples, config, _ = load
    differ = total = 0
    for example, one, other in zip(examples, first, second, strict=True):
        at, picks = example.targets, []
        for columns in (one, other):
            values = importance({n: columns[n][at] for n in config.columns()}, np.array([0, len(at)]), config.recipe)
            picks.append(token_weights(values, len(at), Selection(tokens="hard", keep=keep), where=example.id) > 0)
        differ, total = differ + int((picks[0] != picks[1]).sum()), total + len(at)
    return differ / total


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object (else one line a key)")
    parser.add_argument("--rows", type=int, default=40, help="rows of tofu:forget01")
    parser.add_argument("--rounds", type=int, default=3, help="turns of baseline and engine")
    parser.add_argument("--read-tokens", type=int, default=50_000_000, help="tokens of the synthetic store that is streamed")
    parser.add_argument("--no-vllm", action="store_true", help="leave the vLLM keys out")
    arguments = parser.parse_args()
    folder = locate("smollm2")
    tokenizer = load_tokenizer(folder)
    short = {name: workload(name, arguments.rows, tokenizer, folder) for name in ("plain", "masked")}
    texts = {f"text-{length}": workload("long", length, tokenizer, folder) for length in LENGTHS}
    loads = {**short, **texts, "long": texts[f"text-{LENGTHS[0]}"]}
    out, full = keys_of("torch", "float32", folder, loads, arguments.rounds, long=True)
    if not arguments.no_vllm:
        out |= keys_of("vllm", "float32", folder, short, arguments.rounds, long=False)[0]
    more, low = keys_of("torch", "bfloat16", folder, short, arguments.rounds, long=False)
    out |= more | {f"flips_keep{round(100 * keep)}": flips(loads["masked"], full, low, keep) for keep in (0.3, 0.5)}
    out |= read_store.run(arguments.read_tokens)
    rounded = {k: float(f"{v:.4g}") for k, v in out.items()}
    print(json.dumps(rounded) if arguments.json else "\n".join(f"{k} {v}" for k, v in rounded.items()))


if __name__ == "__main__":
    main()
