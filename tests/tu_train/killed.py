"""What the fork server of test_resume.py holds ready, so that the real command starts in milliseconds: its imports, and
no more.

Each trial is a forked child that runs `tu-train` with its own arguments and gets a signal at a named moment, or at any,
or never. The server itself runs no operation of torch: a fork after one may wait for threads that the child does not
have.
"""

import importlib
import os
import re
import resource
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

import shared
from tu_train import cli, loop, run
from tu_train.saving import checkpoint

torch.set_num_threads(1)  # in every trial: the order of sums is part of the bytes
assert run.train is loop.train
LATER = (
    "matplotlib.backends.backend_agg", "matplotlib.figure", "sklearn", "tu_train.saving.card", "tu_train.saving.curves",
    "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto", "transformers.models.llama.modeling_llama",
)  # fmt: skip
for name in LATER:  # what the command imports where it needs it
    importlib.import_module(name)

MOMENTS: dict[str, tuple[Any, str]] = {
    "pass": (loop, "forward_pass"),
    "sync": (os, "fsync"),
    "rename": (os, "replace"),
    "remove": (shutil, "rmtree"),
    "unlink": (Path, "unlink"),
    "tear": (checkpoint, "save_file"),
}
"""functions before which a signal may come; a torn file is cut in half first"""


def trial(said: str, arguments: list[str], at: tuple[str, int | str] | None, delay: float | None, number: int, most: int | None) -> None:
    """`tu-train ARGUMENTS`, with signal `number` `delay` seconds after the start, or at a moment: before a function's
    n-th call (from 0), or before its first call with a path that ends in a text. No file may grow beyond `most` bytes:
    what a full disk is like."""
    sys.stdout = sys.stderr = open(said, "w", buffering=1)  # noqa: SIM115 - until the process ends
    sys.argv = ["tu-train", *arguments]
    if at is not None:
        _arrange(*at, number)
    if delay is not None:
        threading.Thread(target=lambda: (time.sleep(delay), os.kill(os.getpid(), number)), daemon=True).start()
    if most is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    cli.main()


def _arrange(moment: str, which: int | str, number: int) -> None:
    holder, name = MOMENTS[moment]
    real, calls = getattr(holder, name), []

    def watched(*given, **more):
        paths = [re.sub("-[0-9a-f]{16}(?=/|$)", "", str(a)) for a in given if isinstance(a, (str, Path))]  # random ends of temporary names
        if which == len(calls) or (isinstance(which, str) and any(p.endswith(which) for p in paths)):
            if moment == "tear":
                real(*given, **more)
                os.truncate(given[1], os.path.getsize(given[1]) // 2)
            os.kill(os.getpid(), number)
        calls.append(None)
        return real(*given, **more)

    setattr(holder, name, watched)


def rank(said: str, arguments: list[str], env: dict[str, str], folder: str, version: str | None, *how: Any) -> None:
    """A trial that is one of several ranks, started in a folder of its own; `version`: of token-unlearn, where it has
    another."""
    os.environ.update(env)
    os.chdir(folder)
    if version is not None:
        shared.__version__ = version
    trial(said, arguments, *how)
