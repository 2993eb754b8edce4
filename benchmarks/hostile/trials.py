"""One command in one process, forked from a program that has imported everything and computed nothing: a trial starts
in milliseconds.

The parent runs no operation of torch and has no threads; a fork after either may wait for what the child does not have.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

LATER = (
    "matplotlib.backends.backend_agg", "matplotlib.figure", "pandas", "rich.console", "rich.progress", "rich.table",
    "scipy.stats", "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama", "datasets", "pydantic", "rich._emoji_codes", "rouge_score.rouge_scorer",
    "PIL.PngImagePlugin", "shared.engines.torch", "shared.engines.torch_generate", "tu_eval.attacks.run", "tu_eval.choices.run",
    "tu_eval.compare.comparison", "tu_eval.evidence.report", "tu_eval.compare.export", "tu_eval.judge.run",
    "tu_eval.suites.suite_file", "tu_eval.measure.muse", "tu_eval.measure.questions", "tu_eval.compare.table",
    "tu_score.agree", "tu_score.estimate", "tu_score.inspect", "tu_score.recipe", "tu_score.run",
    "tu_score.verify", "tu_train.saving.card", "tu_train.saving.curves", "tu_train.diagnose.run", "tu_train.many.run",
    "tu_train.saving.output", "tu_train.run",
)  # fmt: skip
"""what the commands import where they need it"""
COMMANDS = {"tu-score": "tu_score.cli", "tu-train": "tu_train.cli", "tu-eval": "tu_eval.cli"}
ADDRESS_SPACE = 24 << 30
"""bytes; a net under the bound on memory, which is measured"""


def prepare() -> None:
    """Imports what trials need. To be called once, before the first trial."""
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    import torch

    torch.set_num_threads(1)
    for name in (*COMMANDS.values(), *LATER):
        importlib.import_module(name)
    for command in COMMANDS:  # what typer imports where it needs it
        sys.argv = [command, "no such command"]
        with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
            run_command()
    gc.freeze()  # the collector of a child would touch, and so copy, every page
    atexit.register(gc.unfreeze)


@dataclass(frozen=True)
class Outcome:
    code: int
    """exit code; the negative number of a signal (-14: it ran out of time)"""
    peak_bytes: int
    """of memory in use"""
    said: str
    """stdout and stderr"""

    @property
    def traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.said


class Trial:
    """`arguments`: a command and its own. Everything it prints goes to the file `said`."""

    def __init__(self, arguments: Sequence[str], said: Path, *, cwd: Path, seconds: int = 60):
        self.said = said
        self.pid = _fork(lambda: _command(list(arguments)), said, cwd, seconds)

    def end(self) -> Outcome:
        """Waits for it."""
        _, status, used = os.wait4(self.pid, 0)
        return Outcome(os.waitstatus_to_exitcode(status), used.ru_maxrss * 1024, self.said.read_text(encoding="utf-8", errors="replace"))


def call(function: Callable[[], object], said: Path) -> Outcome:
    """A function in a process of its own: for what computes."""
    trial = Trial.__new__(Trial)
    trial.said, trial.pid = said, _fork(function, said, said.parent, 600)
    return trial.end()


def run_command() -> None:
    """What sys.argv asks for."""
    importlib.import_module(COMMANDS[sys.argv[0]]).main()


def _command(arguments: list[str]) -> None:
    sys.argv = arguments
    run_command()


def _fork(run: Callable[[], object], said: Path, cwd: Path, seconds: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(cwd)
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(seconds)
        sys.stdout, sys.stderr = (open(n, "w", buffering=1, encoding="utf-8", closefd=False) for n in (1, 2))  # noqa: SIM115
        run()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
