"""What ranks really hold while they train: of Linux with glibc, which counts the bytes that it has given out.

Each is a child of the fork server that has imported all of it already (killed.py).
"""

import ctypes
import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

import tu_train.loop
from benchmarks.memory import Counts
from tu_train.config import UnlearnConfig
from tu_train.gather import gather_unlearning
from tu_train.load import load
from tu_train.model.peak import bytes_of
from tu_train.model.sharded import here
from tu_train.plan import plan_unlearning
from tu_train.ranks import Ranks, joined


def allocator() -> Callable[[], int]:
    """Gives the bytes that this process has allocated."""
    libc: Any = ctypes.CDLL(None)
    libc.mallinfo2.restype = Counts
    libc.malloc_trim(0)

    def now() -> int:
        counts = libc.mallinfo2()
        return counts.uordblks + counts.hblkhd

    return now


class Allocated(TorchDispatchMode):
    """Looks after every operation of torch."""

    def __init__(self, now: Callable[[], int]) -> None:
        super().__init__()
        self.now, self.most = now, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        out = func(*args, **(kwargs or {}))
        self.most = max(self.most, self.now())
        return out


def measure(fields: dict[str, Any], ranks: Ranks) -> dict[str, int]:
    """Bytes: of weights, gradients and moments in the last step, and of all that was allocated at the worst moment."""
    config = UnlearnConfig(out="-", **fields).filled()
    plan, found, make = plan_unlearning(config, gather_unlearning(config)), {}, tu_train.loop.make_optimizer

    def watched(parameters: Any, *given: Any, **more: Any) -> Any:
        def before(optimizer: Any, *_: Any) -> None:
            found["gradients"] = sum(here(p.grad).nbytes for p in parameters)

        def after(optimizer: Any, *_: Any) -> None:
            kept = [here(t) for entry in optimizer.state.values() for t in entry.values()]
            found["moments"] = sum(t.nbytes for t in kept if t.ndim)

        optimizer = make(parameters, *given, **more)
        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)
        return optimizer

    gc.collect()
    now = allocator()
    start, looking = now(), Allocated(now)
    loaded = load(plan, ranks)
    tu_train.loop.make_optimizer = watched
    try:
        with looking:
            tu_train.loop.train(
                loaded.packed, plan.stream, plan.steps, plan.objective, config, None, reference=loaded.reference, ranks=ranks
            )
    finally:
        tu_train.loop.make_optimizer = make
    model = loaded.packed.model
    return {**found, "weights": bytes_of(map(here, [*model.parameters(), *model.buffers()])), "peak": looking.most - start}


def rank(folder: Path, runs: list[dict[str, Any]], env: dict[str, str]) -> None:
    """One of several, on every run, one after another; what rank R finds is folder/R.json."""
    os.environ.update(env)
    sys.stdout = sys.stderr = open(folder / f"said-{env['RANK']}", "w", buffering=1)  # noqa: SIM115 - until the process ends
    torch.set_num_threads(1)
    with joined() as ranks:
        found = [measure(fields, ranks) for fields in runs]
    (folder / f"{ranks.number}.json").write_text(json.dumps(found))
