"""Where the torch engine's time goes: shares of a profile, and the tokens that the padded loop and the forest read.

    TU_TOFU_DIR=... python -m benchmarks.where_time_goes

The workloads of benchmarks/score.py in float32; prints what docs/performance.md says.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.baseline import variants_in_full
from benchmarks.score import Workload, matrix_rate, score, timed, workload
from shared.engines.torch import TorchEngine
from shared.forest import pack
from shared.models import load_model, load_tokenizer, locate
from shared.packed import PackedModel

KINDS = {"aten::mm": "matrix products", "aten::addmm": "matrix products", "aten::_scaled_dot_product_flash_attention_for_cpu": "attention"}


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
    """The head on 270 rows and a layer's widest product on 2,048, over the rate of a 2048-cube product."""
    cube, out = matrix_rate(torch.float32), {}
    for name, rows, weight in (
        ("head", 270, model.get_output_embeddings().weight),
        ("layer", 2048, model.base_model.layers[0].mlp.up_proj.weight),
    ):
        hidden = torch.randn(rows, weight.shape[1])
        seconds = min(timed(lambda hidden=hidden, weight=weight: torch.nn.functional.linear(hidden, weight))[0] for _ in range(9))
        out[name] = 2 * rows * weight.numel() / seconds / cube
    return out


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
    print("over a 2048-cube product: " + ", ".join(f"{name} {rate:.2f}" for name, rate in product_rates(model).items()))


if __name__ == "__main__":
    main()
