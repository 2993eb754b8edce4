"""What one of the three programs does in the name of another, none of which imports another: a command in a process of
its own, and settings as another command takes them."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import shared
from shared.config import as_dict, resolve, toml_of
from shared.console import ERROR, say
from shared.errors import ConfigError, UserError
from shared.settings import harmless
from shared.study import MEASURES, PLACED, Study

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
"""of the environment of one of several ranks; a command of another program is none of them"""


def run_command(
    command: str, settings: Mapping[str, Any], *, what: str, tell: Callable[[str], None] = say,
    ending: Callable[[subprocess.Popen], AbstractContextManager[None]] | None = None,
) -> None:  # fmt: skip
    """Runs `tu-score run` and the like with the settings as its configuration; what it says goes to `tell`. Raises
    UserError, beginning with `what`, with the command's own line if it fails.

    `ending`: who ends it when we are told to stop, which is then said to us alone."""
    program, name = command.split(" ")
    said = ""
    with _written(settings) as file:
        child = subprocess.Popen(  # noqa: S603 (our own program)
            [sys.executable, "-P", "-m", program.replace("-", "_"), name, "--config", str(file)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", env=_environment(),
            start_new_session=ending is not None,
        )  # fmt: skip
        assert child.stderr is not None
        with (ending or _ends_with_us)(child):
            for line in child.stderr:
                if line.startswith(ERROR):
                    said = line.removeprefix(ERROR).strip().replace(f"{file}: ", "")
                else:
                    tell(line.rstrip("\n"))
            code = child.wait()
    if code:
        raise UserError(f"{what}: {said or _ended(command, code)}")


def _ended(command: str, code: int) -> str:
    """Of a command that has said nothing; a negative code is the signal that ended it."""
    if code != -signal.SIGKILL:
        return f"{command} ended with code {code}"
    return f"{command} was killed (SIGKILL), as the system does where memory runs out; free some, or let it take less"


def run_shown(command: str, arguments: Sequence[str]) -> int:
    """Runs `tu-eval many` and the like with arguments of its command line; both of its streams are ours. -> its exit
    code."""
    program, name = command.split(" ")
    sys.stdout.flush()
    child = subprocess.Popen(  # noqa: S603 (our own program)
        [sys.executable, "-P", "-m", program.replace("-", "_"), name, *arguments], env=_environment()
    )
    with _ends_with_us(child):
        return child.wait()


def resolved(kind: str, settings: Mapping[str, Any], *, what: str) -> dict[str, Any]:
    """What the settings come to in the configuration `module:Class`, without those that change no result. Raises
    ConfigError, beginning with `what`, for a field or value that it does not know."""
    module, _, name = kind.partition(":")
    try:
        config = resolve(getattr(importlib.import_module(module), name), flags=settings)
    except ConfigError as error:
        raise ConfigError(f"{what}: {str(error).removeprefix('command line: ')}") from None
    return {k: v for k, v in as_dict(config).items() if k not in harmless(config)}


def check_measures(study: Study) -> None:
    """Asks each command about what the study has it measure; the models come later. Raises ConfigError naming the file,
    the table and the field."""
    any_model = dict.fromkeys(PLACED, "-")
    for name, settings in study.measures.items():
        resolved(MEASURES[name][1], {**settings, **any_model}, what=f"{study.path}: {name}")
        if name == "eval":
            _check_rows(settings, any_model, what=f"{study.path}: {name}")


def _check_rows(settings: Mapping[str, Any], any_model: Mapping[Any, str], *, what: str) -> None:
    """The suite is known, or the files are there and can be read. Raises ConfigError, beginning with `what`."""
    config = resolve(importlib.import_module("tu_eval.measure.config").EvalConfig, flags={**settings, **any_model})
    try:
        importlib.import_module("tu_eval.measure.run").check_rows(config)
    except UserError as error:
        raise ConfigError(f"{what}: {error}") from None


@contextmanager
def _written(settings: Mapping[str, Any]) -> Iterator[Path]:
    """A file that we alone can read, for as long as it is needed: settings may hold credentials."""
    handle, name = tempfile.mkstemp(suffix=".toml")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(toml_of(settings))
        yield Path(name)
    finally:
        Path(name).unlink()


def _environment() -> dict[str, str]:
    """The child imports the packages that we are."""
    root = str(Path(shared.__file__).parents[1])
    ours = {name: value for name, value in os.environ.items() if name not in TORCHRUN}
    return {**ours, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}


@contextmanager
def _ends_with_us(child: subprocess.Popen) -> Iterator[None]:
    """SIGTERM is passed on, and whatever ends us early ends the child too."""
    earlier = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)
        if child.poll() is None:
            child.terminate()
            child.wait()
