"""The code on which measurements depend, as a hash of its source text: what is kept of earlier code is not taken for
what this code would measure.

Any change of a source changes its hash, also one that changes no number. SAME says of which earlier code the numbers are
the same: an edit without that decision measures anew.

    python -m tu_eval.measure.source_code      the lines of SAME for the sources as they are, if their numbers are still the same
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import shared
import tu_eval
from shared.files.fs import hash_json


@dataclass(frozen=True)
class Sources:
    """Patterns of files, from the folder of their package on. Each must match a file."""

    tu_eval: tuple[str, ...]
    shared: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    """files of tu_eval that a pattern matches, and that change no number"""


MEASURED = Sources(
    ("measure/pieces.py", "suites/variants.py", "metrics/*.py"),
    (
        "engines/*.py", "data/examples.py", "data/layout.py", "data/words.py",
        *(f"lm/{name}.py" for name in ("attention", "forest", "logprobs", "models", "packed", "products")),
    ),
)  # fmt: skip
"""log-probabilities, greedy answers and gradient norms"""
ATTACKS = Sources(("attacks/*.py",), without=("attacks/run.py", "attacks/config.py"))
"""what an attack does to a model; how it is measured is in MEASURED, and the settings are in the key themselves"""
ANSWERS = Sources(("judge/answers.py",))
"""what a model is asked whose answers are graded"""

SAME = {
    "code": ("", "d8cae1a8568cafbe0eb244d8305b653482b8611e36f2d86624c01dacddffdad4"),
    "attack_code": ("", "381e65d75f221a225e9b8eb71d64bc4277604448a9b51ff9f237a1e73e9273a1"),
    "answer_code": ("", "d08d0bbfcf6807834123c2b3cbef0e5fb9f00a7b5db960809aee3728a975627a"),
}
"""field of an identity -> the hash of its sources now, and that of the version before its files moved to folders, whose
numbers are the same bit for bit. A line whose first hash is not that of the sources says nothing"""


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
    """What the version in SAME called the same measurements; None where their sources have changed since the decision."""
    fields = [name for name in SAME if name in identity]
    if any(identity[name] != SAME[name][0] for name in fields):
        return None
    return {**identity, **{name: SAME[name][1] for name in fields}}


def _hash(sources: Sources) -> str:
    digest = hashlib.sha256()
    for package, patterns in ((tu_eval, sources.tu_eval), (shared, sources.shared)):
        root = Path(package.__path__[0])
        matched = {pattern: set(root.glob(pattern)) for pattern in patterns}
        gone = [pattern for pattern, paths in matched.items() if not paths]
        assert not gone, f"{package.__name__} has no {gone[0]}: a file that moved would leave the key without a word"
        names = {path.relative_to(root).as_posix(): path for paths in matched.values() for path in paths}
        for name in sorted(names.keys() - set(sources.without)):
            digest.update(hash_json([package.__name__, name, names[name].read_text(encoding="utf-8")]).encode())
    return digest.hexdigest()


if __name__ == "__main__":
    for field, version in VERSIONS.items():
        print(f'    "{field}": ("{version()}", "{SAME[field][1]}"),')
