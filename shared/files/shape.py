"""Does JSON that came from somewhere else have the form that this version reads? The first thing that has not is named
by its path.

A form is a type, None (null), a tuple of forms (any of them), `[form]` (a list of it), `{name: form}` (an object with
at least these names, `Maybe(form)` where one may be missing), `{str: form}` (an object with any names) or a Count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

LARGEST = 2**53 - 1
"""of a whole number: beyond it JSON readers disagree"""
DEEPEST = 64
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
class Maybe:
    """A name that may be missing."""

    form: Any


def misfit(value: Any, form: Any, path: str = "") -> str | None:
    """What does not fit, as in `parts.3.rows is text, expected a whole number from 0 on`; None where all of it does."""
    if isinstance(form, dict) and isinstance(value, dict):
        return _object_misfit(value, form, path)
    if isinstance(form, list) and isinstance(value, list):
        return next((wrong for i, entry in enumerate(value) if (wrong := misfit(entry, form[0], _join(path, i)))), None)
    if isinstance(form, tuple):
        tried = [misfit(value, one, path) for one in form]
        nearer = next((wrong for wrong, one in zip(tried, form, strict=True) if wrong and isinstance(value, type(one))), None)
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


def _object_misfit(value: dict[str, Any], form: dict[Any, Any], path: str) -> str | None:
    if str in form:
        return next((wrong for name, entry in value.items() if (wrong := misfit(entry, form[str], _join(path, name)))), None)
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
    if form is None or isinstance(form, (dict, list)):
        return value is None and form is None
    if isinstance(form, Count):
        return type(value) is int and form.low <= value <= form.high
    if form is float:
        return type(value) in (int, float) and abs(value) <= 1e300 and math.isfinite(value)
    if form is int:
        return type(value) is int and abs(value) < 2**63
    return type(value) is form


def _form(form: Any) -> str:
    if isinstance(form, Count):
        return f"a whole number from {form.low} {'on' if form.high == LARGEST else f'to {form.high}'}"
    kind = type(form) if isinstance(form, (dict, list)) or form is None else form
    return KINDS.get(kind, kind.__name__)


def _said(path: str, value: Any) -> str:
    shown = f" ({value})" if type(value) in (int, float, bool) and len(repr(value)) < 30 else ""
    return f"{path or 'it'} is {KINDS.get(type(value), type(value).__name__)}{shown}"


def _join(path: str, name: Any) -> str:
    return f"{path}.{str(name)[:60]}" if path else str(name)[:60]
