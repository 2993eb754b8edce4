"""JSON that somebody else may have written, read within bounds: what an evaluation, an index or another tool left in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from shared.console import readable_bytes
from shared.errors import StoreError

LARGEST = 1 << 28
"""bytes; a summary has some thousands, a log of OpenUnlearning some millions"""
DEEPEST = 32
"""levels; those written here have at most six"""


def read_bounded(path: Path, *, hint: str, constants: bool = False) -> Any:
    """Raises StoreError with `hint` as next step for what is no file, too large, no JSON, nested too deeply, or holds half a character.
    `constants`: NaN and Infinity are taken, as Python writes them."""

    def refuse(what: str) -> NoReturn:
        raise StoreError(f"{path}: {what}; {hint}") from None

    def no_number(name: str) -> NoReturn:
        refuse(f"holds {name}, which is no number")

    if not path.is_file():
        refuse("is no file")
    if path.stat().st_size > LARGEST:
        refuse(f"has {readable_bytes(path.stat().st_size)}, at most {readable_bytes(LARGEST)} are read")
    try:
        value = json.loads(path.read_bytes().decode("utf-8"), parse_constant=None if constants else no_number)
    except UnicodeDecodeError:
        refuse("is not UTF-8 text")
    except json.JSONDecodeError as error:
        refuse(f"not valid JSON ({error.msg}, line {error.lineno})")
    except RecursionError:
        refuse("is nested too deeply")
    except ValueError:
        refuse("holds a number of too many digits")
    problem = _beyond(value)
    if problem:
        refuse(problem)
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
