"""What the commands of tu-train are told that have no configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from shared.settings import COUNT, About


@dataclass(frozen=True, kw_only=True)
class Run:
    dry_run: Annotated[bool, About(flag=True)] = False
    """only say steps, tokens and peak memory; no weight is read, nothing is written"""
    ranks: Annotated[int | None, About(unit="ranks", flag=True, default="one process", **COUNT)] = None
    """with --dry-run: of each of so many ranks, as torchrun would start them; none has to be started for it"""


@dataclass(frozen=True, kw_only=True)
class Many:
    study: Annotated[Path, About(positional=True)]
    """TOML file with the fields of `tu-train run`, a list takes each of its values in turn; and with what is made
    before them (docs/reproduce.md)"""
    out: Annotated[str, About(flag=True)]
    """folder of all runs and index.json (tu-eval compare --index); an earlier one goes on"""
    sets: Annotated[tuple[str, ...], About(flag="--set", metavar="NAME=VALUE")] = ()
    """in place of what the file says: a field, `base`, TABLE.FIELD, steps.FIELD or steps.NAME.FIELD; may be repeated"""
    suite: Annotated[str | None, About(flag=True)] = None
    """measures what was trained, and the file's [models], on this suite, and ends in one page, as tu-eval many does;
    for files of your own say `--suite own` with --set eval.forget=FILE and --set eval.retain=FILE"""
