"""What a command tells to give next: data that go with the data it read, and the flags that must be the same again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from shared.secret import without_secrets

SAME = ("question_key", "answer_key", "text_key", "messages_key", "turns", "template", "system")
"""settings that the next command needs too"""
WITHOUT_FLAG = ("turns",)
"""of these, what --set gives"""
USUAL = {"question_key": "question", "answer_key": "answer", "turns": "last"}


def kin_of(spec: str, was: str, wanted: str) -> str | None:
    """The data beside `spec` with `wanted` in its name in place of `was` (at the end of its name where `was` is empty):
    a file that is there, or the split of TOFU that holds the other rows. None where there is none."""
    if spec.startswith("tofu:"):
        share = spec.removeprefix(f"tofu:{was}")
        other = f"{100 - int(share):02d}" if share.isdigit() else "01" if share == "full" else None
        return f"tofu:{wanted}{other}" if other else None
    if spec.startswith(("atlas:", "lume:")):
        other = spec.replace(was or "full", wanted, 1)
        return other if other != spec else None
    path = Path(spec)
    stem, dot, ends = path.name.partition(".")
    if was and was not in stem:
        return None
    other = path.with_name((stem.replace(was, wanted) if was else f"{stem}_{wanted}") + dot + ends)
    return str(other) if other.is_file() else None


def pasted(*words: object) -> str:
    """A command line as a shell reads it, without credentials."""
    return shlex.join([without_secrets(str(word)) for word in words])


def same_again(settings: Any, names: tuple[str, ...] = SAME) -> list[str]:
    """Flags of the settings that are not as usual."""
    given = [(name, getattr(settings, name, None)) for name in names]
    return [word for name, value in given if value not in (None, USUAL.get(name)) for word in _flag(name, value)]


def _flag(name: str, value: Any) -> tuple[str, str]:
    return ("--set", f"{name}={value}") if name in WITHOUT_FLAG else (f"--{name.replace('_', '-')}", str(value))
