"""The README's first story, word for word: its commands from data to verdict, run one after another in an empty folder.

    python -m benchmarks.readme --out WORK

Prints the seconds of each as one JSON object, and writes what a user sees, 100 columns wide, to WORK/story.txt
(`python -m benchmarks.pictures` makes the pictures of it). A command that fails ends it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path
from typing import TextIO

from docs.shown import shown

ROOT = Path(__file__).parents[1]
HEADING = "## From data to a verdict"


def commands(page: str) -> list[str]:
    """Those of the story: behind its heading, before the next."""
    return shown(page.split(HEADING, 1)[1].split("\n## ", 1)[0])


def run(line: str, place: Path, story: TextIO) -> None:
    """One command in `place`; it and what it says go to stderr and to `story`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, "COLUMNS": "100"}
    with subprocess.Popen(
        shlex.split(line), cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
    ) as process:
        for said in chain([f"$ {line}\n"], process.stdout or ()):
            print(said, end="", file=sys.stderr, flush=True)
            story.write(said)
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}: {line}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to work in; examples/ is linked into it")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "examples").exists():
        (out / "examples").symlink_to(ROOT / "examples")
    seconds = {}
    with open(out / "story.txt", "w", encoding="utf-8") as story:
        for line in commands((ROOT / "README.md").read_text(encoding="utf-8")):
            started = time.monotonic()
            run(line, out, story)
            seconds[line] = round(time.monotonic() - started, 1)
    print(json.dumps({"commands": seconds, "minutes": round(sum(seconds.values()) / 60, 1)}, indent=1))


if __name__ == "__main__":
    main()
