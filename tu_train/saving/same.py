"""Whether a run goes on as it was begun: its settings and fingerprints then and now, compared field by field."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping
from typing import Any

from shared.config import assignment
from shared.errors import ConfigError
from shared.secret import without_secrets_in
from tu_train.config import NEWER

SHA256 = re.compile(r"[0-9a-f]{64}")
SETTINGS = "settings."
MEASURED = ("eval_tokens", "paraphrases")
"""names that earlier versions did not write, and that no run has which evaluates nothing: nothing can be said of them
where they are missing"""


def check_same(then: Mapping[str, Any], now: Mapping[str, Any], overridable: Collection[str]) -> None:
    """Refuses to go on with other settings, or from another store, model or data, than the checkpoint was made with.

    `overridable`: settings that may differ, because they change no result. Raises
    ConfigError naming the field, both values, and how to give the old one. Settings come first: they are the user's
    words for what a fingerprint stands for. Credentials in URLs are no difference, and are not shown.
    """
    old, new = flat(without_secrets_in(dict(then))), flat(without_secrets_in(dict(now)))
    for values in (old, new):
        for name, usual in NEWER.items() if any(name.startswith(SETTINGS) for name in values) else ():
            values.setdefault(SETTINGS + name, usual)
    for name in sorted(old.keys() | new.keys(), key=lambda n: (not n.startswith(SETTINGS), n)):
        last = name.rpartition(".")[2]
        before, after = old.get(name), new.get(name)
        if before == after or name.removeprefix(SETTINGS) in overridable or (name in MEASURED and None in (before, after)):
            continue
        if name.startswith(SETTINGS):
            way = _way_back(name.removeprefix(SETTINGS), before, then["settings"])
            raise ConfigError(f"--resume: {last} is {_shown(after)}, but the run was started with {_shown(before)}; {way}, or start anew "
                              "with another --out")  # fmt: skip
        what = name.replace("_", " ")
        raise ConfigError(f"--resume: the {what} is {_shown(after)}, but the run was started with {_shown(before)}; "
                          f"give the {what} it was started with, or start anew with another --out")  # fmt: skip


def _way_back(field: str, before: Any, then: Mapping[str, Any]) -> str:
    """What to type to get the old value; of an entry of a table the whole table as it was."""
    table, dot, entry = field.partition(".")
    if table == "options" and dot:
        name = entry if entry in then[table] else entry.partition(".")[0]
        return f"--option {_typed(name, then[table][name])}" if name in then[table] else f"leave out --option {name}"
    if before is None:
        return f"leave out {entry} of {table}" if dot and table in then else f"leave out {table}"
    return f"--set {_typed(table, then[table] if dot else before)}"


def _typed(name: str, value: Any) -> str:
    shown = without_secrets_in(value)
    note = "" if shown == value else " (with what is secret in place of ***)"
    return shlex.quote(assignment(name, shown)) + note


def _shown(value: Any) -> str:
    """Of a sha256, enough to tell two apart."""
    if value is None:
        return "not given"
    return value[:12] if isinstance(value, str) and SHA256.fullmatch(value) else repr(value)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names; tuples as lists, which is what JSON gives back."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{name}.")
        else:
            out[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return out
