"""What each memory mode takes a parameter, and how NPO forgets in it, on SmolLM2-135M.

    TU_TOFU_DIR=... python -m benchmarks.modes [--modes "8-bit moments" ...] [--steps 4] [--rows 8] [--store STORE]

    bytes      of weights, gradients and moments that a step holds together, over the model's parameters; activations,
               blocks of logits and what a product makes for itself come on top
    forget     probability of a forget token before each step, geometric mean
    off        the largest distance of `forget` from that of float32 (LoRA: of LoRA over float32), relative

Prints one JSON object. The model's parameters are counted before any of them is put into four bits. A mode runs in a
process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.train import say, score

BFLOAT16 = {"dtype": "bfloat16", "weights": "bfloat16"}
MODES: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": BFLOAT16,
    "8-bit moments": {**BFLOAT16, "moments": "8bit"},
    "4-bit moments": {**BFLOAT16, "moments": "4bit"},
    "lora": {"lora": 8},
    "lora over bfloat16": {**BFLOAT16, "lora": 8},
    "lora over nf4": {**BFLOAT16, "weights": "nf4", "lora": 8},
}
RATE, LORA_RATE = 1e-5, 1e-3


def measure(fields: dict[str, Any], steps: int, store: str) -> dict[str, Any]:
    """One run of this process."""
    import torch

    import tu_train.loop
    from tu_train.config import UnlearnConfig
    from tu_train.model.peak import bytes_of
    from tu_train.run import run_unlearn

    torch.set_num_threads(1)
    held: list[float] = []
    made: list[Any] = []
    make, backward = tu_train.loop.make_optimizer, tu_train.loop.backward

    def kept(*arguments: Any, **more: Any) -> Any:
        made.append(make(*arguments, **more))
        return made[0]

    def watched(packed: Any, *more: Any) -> Any:
        came_to = backward(packed, *more)
        parameters = [*packed.model.parameters()]
        moments = [t for entry in made[0].state.values() for t in entry.values() if hasattr(t, "untyped_storage")]
        everything = [*parameters, *packed.model.buffers(), *(p.grad for p in parameters if p.grad is not None), *moments]
        held.append(bytes_of(everything))
        return came_to

    tu_train.loop.make_optimizer, tu_train.loop.backward = kept, watched
    rate = LORA_RATE if "lora" in fields else RATE
    with tempfile.TemporaryDirectory() as folder:
        out = run_unlearn(UnlearnConfig(
            model="smollm2", scores=store, retain="tofu:retain99", out=f"{folder}/out", method="npo", tokens="all", steps=steps,
            batch_size=4, learning_rate=rate, schedule="constant", device="cpu", **fields,
        ))  # fmt: skip
        entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {"bytes": max(held) / parameters_of(), "forget": [math.exp(-entry["forget_nll"]) for entry in entries]}


def parameters_of() -> int:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from shared.lm.models import locate

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(locate("smollm2"))).num_parameters()


def ask(mode: str, steps: int, store: Path) -> dict[str, Any]:
    """`measure` in a process of its own."""
    child = [sys.executable, "-m", "benchmarks.modes", "--steps", str(steps), "--store", str(store), "--child", mode]
    found = json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    say(f"{mode}: {found['bytes']:.2f} bytes a parameter, forget probability {found['forget'][0]:.4f} to {found['forget'][-1]:.4f}")
    return found


def off(mine: list[float], whole: list[float]) -> float:
    return max(abs(a / b - 1) for a, b in zip(mine, whole, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--modes", nargs="*", choices=list(MODES), default=list(MODES))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rows", type=int, default=8, help="forget rows")
    parser.add_argument("--store", type=Path, help="score store of them; unless given, made and thrown away")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(MODES[given.child], given.steps, str(given.store))))
        return
    with tempfile.TemporaryDirectory() as folder:
        store = given.store or Path(folder) / "store"
        if given.store is None:
            score(store, "smollm2", "tofu:forget01", given.rows)
        found = {mode: ask(mode, given.steps, store) for mode in given.modes}
    for mode, each in found.items():
        base = found.get("lora" if "lora" in mode else "float32")
        if base is not None:
            each["off"] = off(each["forget"], base["forget"])
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
