"""Where the torch engine's time goes: shares of a profile, and the tokens that the padded loop and the forest read.

    TU_TOFU_DIR=... python -m benchmarks.where_time_goes

The workloads of benchmarks/score.py in float32; prints what docs/performance.md says.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.baseline import variants_in_full
from benchmarks.score import Workload, matrix_rate, score, timed, workload
from shared.engines.torch import TorchEngine
from shared.lm.forest import pack
from shared.lm.memory import keep_freed_memory
from shared.lm.models import load_model, load_tokenizer, locate
from shared.lm.packed import PackedModel
from shared.lm.products import linear

PRODUCTS, ATTENTION = "matrix products", "attention"
KINDS = {
    **dict.fromkeys(("aten::mm", "aten::addmm", "mkldnn::_linear_pointwise"), PRODUCTS),
    **dict.fromkeys(("aten::_scaled_dot_product_flash_attention_for_cpu", "aten::_softmax"), ATTENTION),
}
"""those of large segments, which attend by products of their own, count as products"""


def shares(engine: TorchEngine, load: Workload) -> dict[str, float]:
    """Share of the operators' own time."""
    score(engine, load)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        score(engine, load)
    spent: dict[str, float] = {}
    for event in profiled.key_averages():
        kind = KINDS.get(event.key, "everything else")
        spent[kind] = spent.get(kind, 0.0) + event.self_cpu_time_total
    return {kind: time / sum(spent.values()) for kind, time in spent.items()}


def tokens_read(engine: TorchEngine, load: Workload) -> tuple[int, int]:
    """By the padded loop (padding not counted), and by the forest."""
    examples, _, masking = load
    loop = sum(len(s) for e in examples for s in variants_in_full(e, masking))
    read = [e.input_ids[:-1] for e in examples]
    for example in examples:
        requests = [masking.replacement.request(example, span, wanted) for span, wanted in masking.reads(example)]
        read += [r.ids[: max(r.wanted)] for r in requests]
    return loop, sum(len(pack([read[i] for i in batch]).ids_L) for batch in engine._batches(read))


def product_rates(model: Any) -> dict[str, float]:
    """The head on 512 rows in blocks of 2,048 tokens and a layer's widest product on 2,048, over torch's own 2048-cube
    product."""
    cube, out = matrix_rate(torch.float32), {}
    for name, rows, weight in (
        ("head", 512, model.get_output_embeddings().weight),
        ("layer", 2048, model.base_model.layers[0].mlp.up_proj.weight),
    ):
        hidden = torch.randn(rows, weight.shape[1])
        blocks = weight.split(2048)

        def product(hidden=hidden, blocks=blocks) -> None:
            for block in blocks:
                linear(hidden, block)

        seconds = min(timed(product)[0] for _ in range(9))
        out[name] = 2 * rows * weight.numel() / seconds / cube
    return out


def time_plain(kept: bool) -> float:
    """Seconds of the plain workload, the best of three, with or without freed memory kept."""
    folder = locate("smollm2")
    if kept:
        keep_freed_memory()
    engine = TorchEngine(PackedModel(load_model(folder, dtype=torch.float32, device=torch.device("cpu"))))
    load = workload("plain", 40, load_tokenizer(folder), folder)
    return min(timed(lambda: score(engine, load))[0] for _ in range(3))


def gain_of_kept_memory(rounds: int = 2) -> float:
    """Each turn in a process of its own, since the setting cannot be taken back."""
    best = {True: float("inf"), False: float("inf")}
    for _ in range(rounds):
        for kept in best:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                best[kept] = min(best[kept], pool.submit(time_plain, kept).result())
    return best[False] / best[True]


def gains(engine: TorchEngine, load: Workload, rounds: int = 2) -> dict[str, float]:
    """Time of a workload without one of our ways over the time with all: products by oneDNN, large segments alone."""
    without = {"all": (), "oneDNN": (("shared.lm.products.available", lambda: False), ("shared.lm.packed.available", lambda: False)),
               "segments alone": (("shared.lm.forest.ALONE", 1 << 60),)}  # fmt: skip
    best = dict.fromkeys(without, float("inf"))
    for _ in range(rounds):
        for name, changes in without.items():
            with contextlib.ExitStack() as stack:
                for target, value in changes:
                    stack.enter_context(patch(target, value))
                best[name] = min(best[name], timed(lambda: score(engine, load))[0])
    return {name: seconds / best["all"] for name, seconds in best.items() if name != "all"}


@torch.inference_mode()
def main() -> None:
    folder = locate("smollm2")
    tokenizer, model = load_tokenizer(folder), load_model(folder, dtype=torch.float32, device=torch.device("cpu"))
    engine = TorchEngine(PackedModel(model))
    for name, rows in (("plain", 40), ("masked", 40), ("long", 512)):
        load = workload(name, rows, tokenizer, folder)
        loop, forest = tokens_read(engine, load)
        told = ", ".join(f"{kind} {share:.2f}" for kind, share in sorted(shares(engine, load).items(), key=lambda item: -item[1]))
        print(f"{name}: the loop reads {loop:,} tokens, the forest {forest:,}; {told}", flush=True)
    for name, rows in (("masked", 10), ("long", 1024)):
        found = gains(engine, workload(name, rows, tokenizer, folder))
        print(f"{name}, {rows}: time without over time with " + ", ".join(f"{n} {x:.2f}" for n, x in found.items()), flush=True)
    print(f"plain pass, time with freed memory returned over time with it kept: {gain_of_kept_memory():.2f}", flush=True)
    print("over a 2048-cube product: " + ", ".join(f"{name} {rate:.2f}" for name, rate in product_rates(model).items()))


if __name__ == "__main__":
    main()
