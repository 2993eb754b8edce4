"""The real commands, called inside this process: torch is imported once for all of them."""

from __future__ import annotations

import contextlib
import gc
import io
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from shared.errors import UserError


def command(words: Sequence[str], log: Path | None = None) -> str:
    """Runs it and returns what it printed, which also goes to the end of `log`. A UserError names the command."""
    from tu_eval.cli import app as tu_eval
    from tu_score.cli import app as tu_score
    from tu_train.cli import app as tu_train

    said, app = io.StringIO(), {"tu-score": tu_score, "tu-train": tu_train, "tu-eval": tu_eval}[words[0]]
    started = time.monotonic()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            app(list(words[1:]), standalone_mode=False)
    except UserError as error:
        raise UserError(f"{shlex.join(words)}: {error}") from None
    finally:
        gc.collect()
        if log is not None:
            with log.open("a", encoding="utf-8") as file:
                file.write(f"$ {shlex.join(words)}\n{said.getvalue()}({time.monotonic() - started:.0f} s)\n")
    return said.getvalue()


def say(text: str) -> None:
    print(text, file=sys.__stdout__, flush=True)


def train(words: Sequence[str], out: Path, log: Path | None = None) -> None:
    """tu-train, unless its folder is there; an unfinished run goes on."""
    if not out.exists():
        resume = ["--resume"] if out.with_name(f"{out.name}.unfinished").exists() else []
        command([*words, "--out", str(out), *resume], log)


@contextlib.contextmanager
def dropped(folder: Path) -> Iterator[Path]:
    """A folder that is deleted when the block is done; kept when it fails."""
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
