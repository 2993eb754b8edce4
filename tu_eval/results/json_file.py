"""JSON that somebody else may have written, read within bounds: what an evaluation, an index or another tool left in a
file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.errors import StoreError
from shared.files.fs import read_json

DEEPEST = 32
"""levels; those written here have at most six"""


def read_bounded(path: Path, *, hint: str, foreign: bool = False) -> Any:
    """Raises StoreError with `hint` as next step for what is no file or no JSON, nested too deeply, or holds half a
    character. `foreign`: Infinity and NaN are taken, as others write them."""
    if not path.is_file():
        raise StoreError(f"{path}: is no file; {hint}")
    value = read_json(path, foreign=foreign)
    if problem := _beyond(value):
        raise StoreError(f"{path}: {problem}; {hint}")
    return value


def read_object(path: Path, *, hint: str) -> dict[str, Any]:
    """The same; its outermost value must be an object."""
    value = read_bounded(path, hint=hint)
    if not isinstance(value, dict):
        raise StoreError(f"{path}: expected an object with named values; {hint}")
    return value


def _beyond(value: Any) -> str:
    """What no code of ours could take, or nothing. Without recursion, which deep values would end."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            return "is nested too deeply"
        inner: list[Any] = []
        for held in level:
            if isinstance(held, str) and not _whole(held):
                return "holds half of a character (a lone surrogate)"
            if isinstance(held, dict):
                inner += [*held, *held.values()]
            elif isinstance(held, list):
                inner += held
        level = inner
    return ""


def _whole(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
