"""A command in a process of its own: what one of the three programs does in the name of another, none of which imports
another.

    python -m shared.process MODULE:CLASS FILE.toml     prints what the file comes to, as JSON, or an error
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import shared
from shared.config import as_dict, resolve, toml_of
from shared.console import say
from shared.errors import ConfigError, UserError
from shared.settings import harmless

ERROR = "error: "
UNRESOLVED = 2


def run_command(command: str, settings: Mapping[str, Any], *, what: str) -> None:
    """Runs `tu-score run` and the like with the settings as its configuration; what it says goes to our stderr. Raises
    UserError, beginning with `what`, with the command's own line if it fails."""
    program, name = command.split(" ")
    said = ""
    with _written(settings) as file:
        child = subprocess.Popen(  # noqa: S603 (our own program)
            [sys.executable, "-P", "-m", program.replace("-", "_"), name, "--config", str(file)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", env=_environment(),
        )  # fmt: skip
        assert child.stderr is not None
        with _ends_with_us(child):
            for line in child.stderr:
                if line.startswith(ERROR):
                    said = line.removeprefix(ERROR).strip().replace(f"{file}: ", "")
                else:
                    say(line.rstrip("\n"))
            code = child.wait()
    if code:
        raise UserError(f"{what}: {said or f'{command} ended with code {code}'}")


def resolved(kind: str, settings: Mapping[str, Any], *, what: str) -> dict[str, Any]:
    """What the settings come to in the configuration `module:Class`, without those that change no result. Raises
    ConfigError, beginning with `what`, for a field or value that it does not know."""
    with _written(settings) as file:
        asked = [sys.executable, "-P", "-m", "shared.process", kind, str(file)]
        done = subprocess.run(asked, capture_output=True, text=True, env=_environment(), check=False)  # noqa: S603
        if done.returncode:
            said = next((line for line in done.stderr.splitlines() if line.startswith(ERROR)), done.stderr.strip()[-200:])
            raise ConfigError(f"{what}: {said.removeprefix(ERROR).replace(f'{file}: ', '')}")
    return json.loads(done.stdout)


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
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}


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


def main() -> None:
    module, _, name = sys.argv[1].partition(":")
    try:
        config = resolve(getattr(importlib.import_module(module), name), config=Path(sys.argv[2]))
    except UserError as error:
        say(ERROR + " ".join(str(error).split()))
        sys.exit(UNRESOLVED)
    print(json.dumps({k: v for k, v in as_dict(config).items() if k not in harmless(config)}))


if __name__ == "__main__":
    main()
