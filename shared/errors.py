"""The error tree. A message says what, where, got, expected and the next step, in one line; commands print it and exit with code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: bad input, a missing file, an impossible combination of options."""


class ConfigError(UserError):
    """A flag, a --set or a TOML value that does not fit."""


class DataError(UserError):
    """Input rows that cannot be used."""


class ModelError(UserError):
    """A model or tokenizer that cannot be loaded or does not fit."""


class StoreError(UserError):
    """A score store, checkpoint or result folder that is unfinished, damaged or foreign."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest known name, else the list of known names in brackets."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(known)})"
