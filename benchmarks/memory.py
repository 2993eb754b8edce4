"""The peak memory that `tu-train run --dry-run` predicts against that of real runs, mode by mode.

    python -m benchmarks.memory [--modes float32 kept ...] > memory.json

A random model of 42 M parameters trains three steps in a process of its own. `measured` is what the process has
allocated (glibc's count of bytes in use), looked at every few milliseconds, over what it held after a run of the same
kind with a small model: so that the interpreter, the libraries and their first buffers do not count. `resident` is its
anonymous memory beyond that, in which glibc's heap also has holes that nothing fits into. The model is stored in
another dtype than it trains in, so that its weights are no pages of a file. Linux with glibc; a few minutes for all
modes.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

MODES: dict[str, dict[str, Any]] = {
    "float32": {},
    "kept": {"checkpointing": False},
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16, kept": {"dtype": "bfloat16", "checkpointing": False},
    "bfloat16 weights": {"dtype": "bfloat16", "weights": "bfloat16"},
    "8-bit moments": {"dtype": "bfloat16", "weights": "bfloat16", "moments": "8bit"},
    "4-bit moments": {"dtype": "bfloat16", "weights": "bfloat16", "moments": "4bit"},
    "moments on the CPU": {"moments_on": "cpu"},
    "lora": {"lora": 8},
    "lora over bfloat16": {"dtype": "bfloat16", "weights": "bfloat16", "lora": 8},
    "lora over nf4": {"dtype": "bfloat16", "weights": "nf4", "lora": 8},
    "lora, checkpointed": {"lora": 8, "checkpointing": True},
    "reference": {"method": "undial"},
}
WORLD = "people=20,facts_per_person=5,forget_people=8,holdout_people=1"
LOOK_S = 0.003


def make_model(folder: Path, blocks: int, vocabulary: int, dtype: str) -> None:
    """With a token for every byte."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<end>"]
    core = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=core, **dict.fromkeys(("eos_token", "pad_token"), names[-1])).save_pretrained(folder)
    config = LlamaConfig(vocab_size=vocabulary, hidden_size=512, num_hidden_layers=blocks, num_attention_heads=8, num_key_value_heads=4,
                         intermediate_size=1536, max_position_embeddings=512, eos_token_id=256, pad_token_id=256)  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(folder)


class Counts(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
    )]  # fmt: skip


class Looking:
    """Peaks of a process, from now on until the block ends; `libc`: the C library."""

    def __init__(self, libc: Any):
        libc.mallinfo2.restype = Counts
        self.libc, self.over, self.thread = libc, threading.Event(), threading.Thread(target=self.look)
        self.before = self.most = self.now()

    def now(self) -> tuple[int, int]:
        """Bytes that are allocated, and bytes of resident memory that are no pages of files."""
        counts: Any = self.libc.mallinfo2()
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
        return counts.uordblks + counts.hblkhd, int(line.split()[1]) << 10

    def look(self) -> None:
        while not self.over.is_set():
            allocated, resident = self.now()
            self.most = max(self.most[0], allocated), max(self.most[1], resident)
            time.sleep(LOOK_S)

    def __enter__(self) -> Looking:
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.over.set()
        self.thread.join()


def measure(folder: Path, fields: dict[str, Any]) -> dict[str, Any]:
    import torch

    from tu_train.config import UnlearnConfig
    from tu_train.estimate import estimate
    from tu_train.run import run_unlearn

    torch.set_num_threads(1)

    def config(model: str) -> UnlearnConfig:
        usual = {"forget": f"atlas:forget:{WORLD}", "retain": f"atlas:retain:{WORLD}", "method": "graddiff", "tokens": "all"}
        entries = {**usual, "device": "cpu", "steps": 3, "batch_size": 16, **fields}
        return UnlearnConfig(model=str(folder / model), out=str(folder / f"out-{model}"), **entries)

    predicted = estimate(config("whole")).memory.peak
    run_unlearn(config("small"))
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.malloc_trim(0)  # what is freed stays with a process that trains (shared/lm/memory.py)
    with Looking(libc) as looking:
        run_unlearn(config("whole"))
    measured, resident = (most - before for most, before in zip(looking.most, looking.before, strict=True))
    return {"predicted": predicted, "measured": measured, "resident": resident, "error": predicted / measured - 1}


def main() -> None:
    parser = argparse.ArgumentParser(description="Predicted and measured peak memory of training.")
    parser.add_argument("--modes", nargs="*", choices=list(MODES), default=list(MODES))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        folder, fields = json.loads(given.child)
        print(json.dumps(measure(Path(folder), fields)))
        return
    found = {}
    for mode in given.modes:
        with tempfile.TemporaryDirectory() as folder:
            dtype = "float32" if "weights" in MODES[mode] else "bfloat16"
            make_model(Path(folder) / "small", 1, 512, dtype)
            make_model(Path(folder) / "whole", 8, 16_384, dtype)
            child = [sys.executable, "-m", "benchmarks.memory", "--child", json.dumps([folder, MODES[mode]])]
            found[mode] = json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE).stdout)
        print(f"{mode}: {found[mode]['error']:+.1%}", file=sys.stderr)
    print(json.dumps({**found, "prediction_error": max(abs(mode["error"]) for mode in found.values())}, indent=1))


if __name__ == "__main__":
    main()
