"""Every setting of a command, for people: a table on a terminal, lines elsewhere, Markdown in docs/configuration/."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby

from shared.settings import Setting, settings_of

ADVANCED = "advanced"
"""has no flag of its own: --set NAME=VALUE or --config gives it"""
COLUMNS = ("field", "default", "unit", "meaning", "flag")


def print_fields(kind: type) -> None:
    """On stdout, each with its default, unit, meaning, and its flag or that it is advanced."""
    for title, settings in groups(kind):
        _table(title, settings) if sys.stdout.isatty() else _lines(title, settings)


def _lines(title: str, settings: Sequence[Setting]) -> None:
    print(f"# {title}")
    for name, default, unit, meaning, flag in map(_cells, settings):
        print(f"{name} = {default} ({f'{unit}, ' if unit else ''}{flag}): {meaning}")


def _table(title: str, settings: Sequence[Setting]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*COLUMNS, title=title, title_justify="left", expand=True)
    for setting in settings:
        table.add_row(*map(escape, _cells(setting)))
    Console().print(table)


def markdown(title: str, settings: Sequence[Setting]) -> str:
    """A table under its title."""
    lines = [f"**{title}**", "", f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for setting in settings:
        name, default, unit, meaning, flag = (cell.replace("|", "\\|") for cell in _cells(setting))
        lines.append(f"| `{name}` | {default} | {unit} | {meaning} | {f'`{flag}`' if setting.flag else flag} |")
    return "\n".join([*lines, ""])


def groups(kind: type) -> Iterator[tuple[str, list[Setting]]]:
    """Each class that fields come from: the first sentence of its docstring, and its fields."""
    for group, settings in groupby(settings_of(kind), key=lambda setting: setting.group):
        yield inspect.cleandoc(group.__doc__ or group.__name__).partition(".")[0], list(settings)


def _cells(setting: Setting) -> tuple[str, str, str, str, str]:
    flag = setting.flag or ("by its place" if setting.about.positional else ADVANCED)
    return setting.name, setting.shown or "none", setting.about.unit, setting.meaning, flag
