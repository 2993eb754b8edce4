"""The code on which measurements depend, as a hash of its source text: what is kept of earlier code is not taken for
what this code would measure.

Any change of a source changes its hash, also one that changes no number. SAME says of which sources the numbers are
those of an earlier version: an edit without that decision measures anew.

    python -m tu_eval.measure.source_code      prints the lines of SAME for the sources as they are; whether their
                                               numbers are the same is for the golden files' tests to say
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import shared
from shared.files.fs import hash_json


@dataclass(frozen=True)
class Sources:
    """Patterns of files, from the folder of their package on. Each must match a file."""

    tu_eval: tuple[str, ...]
    shared: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    """names of files that a pattern matches, and that change no number"""


MEASURED = Sources(
    ("measure/pieces.py", "measure/drawing.py", "measure/rounding.py", "measure/more.py", "suites/variants.py", "metrics/*.py"),
    (
        "engines/*.py", "data/examples.py", "data/layout.py", "data/placed.py", "data/raw_text.py", "data/words.py",
        *(f"lm/{name}.py" for name in ("attention", "forest", "logprobs", "models", "packed", "products")),
    ),
    without=("tu_eval/metrics/separation.py",),
)  # fmt: skip
"""log-probabilities, greedy answers and gradient norms"""
ATTACKS = Sources(
    ("attacks/*.py", "measure/drawing.py", "suites/prompts.py"),
    without=("tu_eval/attacks/run.py", "tu_eval/attacks/config.py", "tu_eval/attacks/kept.py"),
)
"""what an attack does to a model; how it is measured is in MEASURED, and the settings are in the key themselves"""
ANSWERS = Sources(("judge/answers.py",))
"""what a model is asked whose answers are graded"""

BEFORE = {
    "code": "d8cae1a8568cafbe0eb244d8305b653482b8611e36f2d86624c01dacddffdad4",
    "attack_code": "381e65d75f221a225e9b8eb71d64bc4277604448a9b51ff9f237a1e73e9273a1",
    "answer_code": "d08d0bbfcf6807834123c2b3cbef0e5fb9f00a7b5db960809aee3728a975627a",
}
"""field of an identity -> the hash of its sources in the last version before they moved to folders"""
SAME = {
    "answer_code": "0cf69090a86fd9c57247a3bb22923031a23724b9c7eef729d380487af511ce02",
}
"""the same fields -> the hash of the sources that were found to give the same numbers as those of BEFORE, bit for bit.
A line that is missing, or that does not name the sources as they are, says nothing"""


@cache
def code_version() -> str:
    """sha256 over the sources that compute the pieces of an evaluation."""
    return _hash(MEASURED)


@cache
def attack_version() -> str:
    """sha256 over the sources of the attacks."""
    return _hash(ATTACKS)


@cache
def answer_version() -> str:
    """sha256 over the source that writes the answers to be graded."""
    return _hash(ANSWERS)


VERSIONS = {"code": code_version, "attack_code": attack_version, "answer_code": answer_version}


def earlier(identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the version of BEFORE called the same measurements; None where the sources were edited since SAME was."""
    fields = [name for name in BEFORE if name in identity]
    if any(identity[name] != SAME.get(name) for name in fields):
        return None
    return {**identity, **{name: BEFORE[name] for name in fields}}


def files_of(sources: Sources) -> dict[str, Path]:
    """By name, `tu_eval/metrics/rouge.py`. A pattern that matches no file is an error of this list: a file that moved
    would leave the key without a word."""
    files: dict[str, Path] = {}
    for package, patterns in ((sys.modules["tu_eval"], sources.tu_eval), (shared, sources.shared)):
        root = Path(package.__path__[0])
        for pattern in patterns:
            paths = list(root.glob(pattern))
            assert paths, f"{package.__name__} has no {pattern}, on which measurements depend; name where it is now"
            files |= {f"{package.__name__}/{path.relative_to(root).as_posix()}": path for path in paths}
    return {name: files[name] for name in sorted(files) if name not in sources.without}


def _hash(sources: Sources) -> str:
    digest = hashlib.sha256()
    for name, path in files_of(sources).items():
        digest.update(hash_json([name, path.read_text(encoding="utf-8")]).encode())
    return digest.hexdigest()


if __name__ == "__main__":
    for field, version in VERSIONS.items():
        print(f'    "{field}": "{version()}",')
