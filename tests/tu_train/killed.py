"""What the fork server of test_resume.py holds ready, so that the real command starts in milliseconds: its imports.

Each trial is a forked child that runs `tu-train` with its own arguments, and may get a signal before a forward pass, or at any moment.
"""

import faulthandler
import os
import sys
import threading
import time

import torch

from tu_train import cli, loop, run

torch.set_num_threads(1)  # in every trial: the order of sums is part of the bytes
assert run.train is loop.train


def trial(said: str, arguments: list[str], at_pass: int | None, delay: float | None, number: int) -> None:
    """`tu-train ARGUMENTS`, with signal `number` before forward pass `at_pass` (from 0), or `delay` seconds after the start, or never."""
    sys.stdout = sys.stderr = open(said, "a", buffering=1)  # noqa: SIM115 - until the process ends
    faulthandler.dump_traceback_later(15, exit=True)
    sys.argv = ["tu-train", *arguments]
    look, passes = loop.look, []

    def counted(*given, **more):
        passes.append(None)
        if len(passes) - 1 == at_pass:
            os.kill(os.getpid(), number)
        return look(*given, **more)

    loop.look = counted
    if delay is not None:
        threading.Thread(target=lambda: (time.sleep(delay), os.kill(os.getpid(), number)), daemon=True).start()
    cli.main()
