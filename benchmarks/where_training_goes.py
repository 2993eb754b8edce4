"""Where the time of a training step goes, as shares of a profile, and how long the host packs it.

    TU_TOFU_DIR=... python -m benchmarks.where_training_goes [--threads 1]

NPO on SmolLM2-135M with the rows of benchmarks/train.py, eight and eight: the third step, of float32 and of bfloat16
autocast, with activations computed again and with activations kept. Prints one JSON object. The store is the one that
benchmarks/train.py keeps.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_speed import packing_ms
from benchmarks.train import BATCH, BETA, LEARNING_RATE, pairs_of, score
from shared.lm.memory import keep_freed_memory
from shared.lm.models import load_model, locate
from shared.lm.packed import PackedModel
from tu_train.config import LoopConfig
from tu_train.data.batches import PassRows
from tu_train.loop import train
from tu_train.methods.table import METHODS
from tu_train.objective import Objective

WARM = 2
"""steps before the one that is looked at: by then memory has been touched and kernels are made"""
FLASH = "aten::_scaled_dot_product_flash_attention_for_cpu"
KINDS = {
    **dict.fromkeys(("aten::mm", "aten::addmm", "aten::bmm", "mkldnn::_linear_pointwise"), "matrix products"),
    **dict.fromkeys((FLASH, f"{FLASH}_backward"), "attention"),
    "aten::_fused_adamw_": "optimizer",
    **dict.fromkeys(("aten::copy_", "aten::fill_", "aten::cat", "aten::index_select"), "copies"),
}
"""everything else: products of entries, norms, activation functions, sums, the head's exponentials"""


def shares(pairs: list[tuple[Any, Any]], **fields: Any) -> dict[str, float]:
    """Of the operators' own time in one step."""
    packed = PackedModel(load_model(locate("smollm2"), dtype=torch.float32, device=torch.device("cpu")))
    passes = [[PassRows([a for a, _ in step], [b for _, b in step])] for step in groups(pairs)[: WARM + 1]]
    profiler = profile(activities=[ProfilerActivity.CPU])

    def steps(first: int) -> Iterator[list[PassRows]]:
        yield from passes[:WARM]
        with profiler:
            yield passes[WARM]

    config = LoopConfig(model="", out="", learning_rate=LEARNING_RATE, **fields)
    train(packed, steps, len(passes), Objective(METHODS["npo"], {"beta": BETA}), config, None)
    spent: dict[str, float] = {}
    for event in profiler.key_averages():
        kind = KINDS.get(event.key, "everything else")
        spent[kind] = spent.get(kind, 0.0) + event.self_cpu_time_total
    return {kind: round(time / sum(spent.values()), 3) for kind, time in sorted(spent.items(), key=lambda one: -one[1])}


def groups(pairs: list[tuple[Any, Any]]) -> list[list[tuple[Any, Any]]]:
    return [pairs[at : at + BATCH] for at in range(0, len(pairs), BATCH)]


def main() -> None:
    from shared.lm.smollm2 import cache_folder

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    keep_freed_memory()
    store: Path = cache_folder() / "benchmarks" / "smollm2-tofu_forget01-40"
    score(store, "smollm2", "tofu:forget01", 40)
    pairs = pairs_of("smollm2", store, "tofu:retain99", 1)
    found: dict[str, Any] = {"packing_ms_a_step": round(packing_ms(groups(pairs), torch.device("cpu")), 2)}
    for dtype in ("float32", "bfloat16"):
        for checkpointing in (True, False):
            found[f"{dtype}{'' if checkpointing else ', kept'}"] = shares(pairs, dtype=dtype, checkpointing=checkpointing)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
