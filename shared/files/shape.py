"""JSON that came from somewhere else: read within bounds, and compared with the form that this version reads. The first
thing that does not fit is named by its path.

A form is a type, None (null), a tuple of forms (any of them), `[form]` (a list of it), `{name: form}` (an object with
at least these names, `Maybe(form)` where one may be missing), a Named (an object with any names), a Count, a Text or
PLAIN (any value within bounds).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from shared.errors import StoreError

LARGEST = 2**53 - 1
"""of a whole number: beyond it JSON readers disagree"""
DEEPEST = 64
"""levels of lists and objects in one another; what is written here has at most six"""
LONGEST = 4096
"""characters of a name, and names of an object; more is no name"""
DAMAGED = "the file is damaged, make it again"
KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


@dataclass(frozen=True)
class Count:
    """A whole number from `low` to `high`."""

    low: int = 0
    high: int = LARGEST


@dataclass(frozen=True)
class Text:
    """Of at most `longest` characters."""

    longest: int = LONGEST


@dataclass(frozen=True)
class Maybe:
    """A name that may be missing."""

    form: Any


@dataclass(frozen=True)
class Named:
    """An object with at most `most` names of its own choice, each of at most LONGEST characters, and one form of
    value."""

    form: Any
    most: int = LONGEST


@dataclass(frozen=True)
class Plain:
    """A value that is finite and not too long, and lists and objects of such values."""


PLAIN = Plain()


def parse(data: bytes, where: str, *, hint: str = DAMAGED, foreign: bool = False) -> Any:
    """The value of a JSON file, one that could be written again. `foreign`: written by others, who may have numbers
    like Infinity.

    Raises StoreError naming the file (`where`), with `hint` as next step, for what is no JSON in UTF-8, lies more than
    DEEPEST levels deep, or holds half of a character (a lone surrogate).
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=float if foreign else _no_number)
        if depth(value) > DEEPEST:
            raise RecursionError
        json.dumps(value, ensure_ascii=False, allow_nan=foreign).encode()
        return value
    except RecursionError:
        why = "nested too deeply"
    except UnicodeEncodeError:
        why = "half of a character in it"
    except ValueError as error:  # of json, of UTF-8, of numbers with thousands of digits
        why = str(error)[:200]
    raise StoreError(f"{where}: not valid JSON ({why}); {hint}")


def misfit(value: Any, form: Any, path: str = "") -> str | None:
    """What does not fit, as in `parts.3.rows is text, expected a whole number from 0 on`; None where all of it does."""
    if isinstance(form, Plain):
        return misfit(value, (None, bool, float, Text(), [PLAIN], Named(PLAIN)), path)
    if isinstance(form, Named) and isinstance(value, dict):
        return _named_misfit(value, form, path)
    if isinstance(form, dict) and isinstance(value, dict):
        return _object_misfit(value, form, path)
    if isinstance(form, list) and isinstance(value, list):
        return next((wrong for i, entry in enumerate(value) if (wrong := misfit(entry, form[0], _join(path, i)))), None)
    if isinstance(form, tuple):
        tried = [misfit(value, one, path) for one in form]
        nearer = next((wrong for wrong, one in zip(tried, form, strict=True) if wrong and isinstance(value, _holder(one))), None)
        return None if None in tried else nearer or f"{_said(path, value)}, expected {' or '.join(map(_form, form))}"
    return None if _is(value, form) else f"{_said(path, value)}, expected {_form(form)}"


def depth(value: Any) -> int:
    """How deeply lists and objects lie in one another, at most DEEPEST + 1; without recursion, which such values bring
    to its end."""
    level, layer = 0, [value] if isinstance(value, (dict, list)) else []
    while layer and level <= DEEPEST:
        level += 1
        entries = [inner for outer in layer for inner in (outer.values() if isinstance(outer, dict) else outer)]
        layer = [inner for inner in entries if isinstance(inner, (dict, list))]
    return level


def _named_misfit(value: dict[str, Any], form: Named, path: str) -> str | None:
    if len(value) > form.most or any(len(name) > LONGEST for name in value):
        return f"{path or 'it'} has more than {form.most} names, or one of more than {LONGEST} characters"
    return next((wrong for name, entry in value.items() if (wrong := misfit(entry, form.form, _join(path, name)))), None)


def _object_misfit(value: dict[str, Any], form: dict[str, Any], path: str) -> str | None:
    for name, inner in form.items():
        if name not in value:
            if isinstance(inner, Maybe):
                continue
            return f"{_join(path, name)} is missing"
        wrong = misfit(value[name], inner.form if isinstance(inner, Maybe) else inner, _join(path, name))
        if wrong:
            return wrong
    return None


def _is(value: Any, form: Any) -> bool:
    if form is None or isinstance(form, dict | Named | list):
        return value is None and form is None
    if isinstance(form, Count):
        return type(value) is int and form.low <= value <= form.high
    if isinstance(form, Text):
        return isinstance(value, str) and len(value) <= form.longest
    if form is float:
        return type(value) in (int, float) and abs(value) <= 1e300 and math.isfinite(value)
    if form is int:
        return type(value) is int and abs(value) < 2**63
    return type(value) is form


def _form(form: Any) -> str:
    if isinstance(form, Count):
        return f"a whole number from {form.low} {'on' if form.high == LARGEST else f'to {form.high}'}"
    if isinstance(form, Text):
        return f"text of at most {form.longest} characters"
    if form is float:
        return "a number of at most 1e300"
    kind = _holder(form) or (type(None) if form is None else form)
    return KINDS.get(kind, kind.__name__)


def _holder(form: Any) -> Any:
    """The type of what a form looks into, or ()."""
    return dict if isinstance(form, dict | Named) else list if isinstance(form, list) else ()


def _said(path: str, value: Any) -> str:
    shown = f" ({value})" if type(value) in (int, float, bool) and len(repr(value)) < 30 else ""
    return f"{path or 'it'} is {KINDS.get(type(value), type(value).__name__)}{shown}"


def _join(path: str, name: Any) -> str:
    return f"{path}.{str(name)[:60]}" if path else str(name)[:60]


def _no_number(name: str) -> Any:
    raise ValueError(f"holds {name}")
