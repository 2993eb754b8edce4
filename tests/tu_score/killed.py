"""What the fork server of test_resume.py holds ready, so that a scoring run starts in milliseconds: packages,
tokenizer, engine.

Each trial is a forked child that runs `run_score` for real, but for `open_engine` and the loading of a tokenizer, which
hand out what the server has loaded already.
"""

import functools
import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch

from shared.engines import torch as engine_module
from shared.lm import models
from tu_score import count, part, plan, run
from tu_score.config import ScoreConfig

STEPS = ((Path, "write_bytes"), (os, "replace"), (os, "unlink"), (os, "rmdir"))
"""calls between which the disk stands still: a temporary file, its rename, the end of records, leftovers, folders and
the lock"""


def prepare() -> None:
    """In the server: loaded once, shared by all children. One thread, as in every trial: the order of sums is part of
    the bytes."""
    torch.set_num_threads(1)
    models.load_tokenizer = count.load_tokenizer = functools.cache(models.load_tokenizer)
    plan.model_fingerprint = functools.cache(plan.model_fingerprint)
    part.open_engine = functools.cache(part.open_engine)
    engine_module.TorchEngine.close = lambda self: None
    for name in filter(None, os.environ.get("TU_KILL_MODELS", "").split(os.pathsep)):
        models.load_tokenizer(Path(name))
        part.open_one(ScoreConfig(model=name, data="", out=""), Path(name))


def trial(folder: str, config: ScoreConfig, step: int | None, delay: float | None) -> None:
    """A run that is killed before its `step`-th step (from 0), or `delay` seconds after its start, or not at all.

    The steps that were done stand in the file `steps`, in words.
    """
    os.chdir(folder)
    sys.stderr = open("said", "w")  # noqa: SIM115 - until the process ends
    steps: list[str] = []
    for holder, name in STEPS:
        setattr(holder, name, _counted(getattr(holder, name), name, steps, step))
    if delay is not None:
        threading.Thread(target=lambda: (time.sleep(delay), die()), daemon=True).start()
    run.run_score(config)
    Path("steps").write_text("\n".join(steps))


def _counted(call, name: str, steps: list[str], step: int | None):
    def counted(*arguments, **more):
        if len(steps) == step:
            die()
        steps.append(f"{name} {arguments[1] if name == 'replace' else arguments[0]}")
        return call(*arguments, **more)

    return counted


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(10)


if os.environ.get("TU_KILL_MODELS"):
    prepare()
