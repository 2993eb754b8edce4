"""The error tree. A message says what, where, got, expected and the next step, in one line; commands print it and exit
with code 2."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: bad input, a missing file, an impossible combination of options."""


class ConfigError(UserError, ValueError):
    """A setting that does not fit, from a flag, --set, TOML or Python."""


class DataError(UserError):
    """Input rows that cannot be used."""


class ModelError(UserError):
    """A model or tokenizer that cannot be loaded or does not fit."""


class StoreError(UserError):
    """A score store, checkpoint or result folder that is unfinished, damaged or foreign."""


def printable(text: str) -> str:
    """The text on one line and without power over the terminal: control characters, line ends and changes of direction
    are spelled out."""
    return "".join(repr(c)[1:-1] if unicodedata.category(c) in UNPRINTABLE or c in DIRECTIONS else c for c in text)


UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories: controls, halves of a pair, line and paragraph ends"""
DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""they make what follows read backwards, a file name for instance"""
MANY = 12
"""names that a person reads in one line"""


def nearest(name: str, known: Iterable[str], *, listed: str = "") -> str:
    """` (did you mean 'x'?)` for the closest known name, else the known names in brackets: all, or of many the three
    nearest.

    `listed`: where all of many stand.
    """
    known = [printable(name) for name in known]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f" (did you mean {close[0]!r}?)"
    if len(known) <= MANY:
        return f" (known: {', '.join(known)})"
    few = difflib.get_close_matches(name, known, n=3, cutoff=0)
    return f" (nearest of {len(known)}: {', '.join(few)}{f'; {listed}' if listed else ''})"
