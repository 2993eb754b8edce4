"""Every setting of a configuration, for people: a table on a terminal, lines elsewhere, Markdown in docs/configuration.md."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from itertools import groupby

from shared.settings import Setting, settings_of

ADVANCED = "advanced"


def print_fields(kind: type) -> None:
    """On stdout. A setting without a flag of its own is marked advanced: --set and --config give it."""
    if not sys.stdout.isatty():
        for title, settings in _groups(kind):
            print(f"# {title}")
            for setting in settings:
                name, default, unit, meaning, flag = _cells(setting)
                print(f"{name} = {default} ({f'{unit}, ' if unit else ''}{flag}): {meaning}")
        return
    from rich.console import Console
    from rich.table import Table

    for title, settings in _groups(kind):
        table = Table("field", "default", "unit", "meaning", "flag", title=title, title_justify="left", expand=True)
        for setting in settings:
            table.add_row(*(cell.replace("[", r"\[") for cell in _cells(setting)))
        Console().print(table)


def markdown(kind: type) -> Iterator[str]:
    """Lines of a section: a table a group."""
    for title, settings in _groups(kind):
        yield from (f"**{title}**", "", "| field | default | unit | meaning | flag |", "|---|---|---|---|---|")
        for setting in settings:
            name, default, unit, meaning, flag = (cell.replace("|", "\\|") for cell in _cells(setting))
            given = f"`{flag}`" if setting.flag else flag
            yield f"| `{name}` | {default} | {unit} | {meaning} | {given} |"
        yield ""


def _groups(kind: type) -> Iterator[tuple[str, list[Setting]]]:
    """The first sentence of each class that fields come from, and its fields."""
    for group, settings in groupby(settings_of(kind), key=lambda setting: setting.group):
        yield inspect.cleandoc(group.__doc__ or group.__name__).partition(".")[0], list(settings)


def _cells(setting: Setting) -> tuple[str, str, str, str, str]:
    return setting.name, setting.shown or "none", setting.about.unit, setting.meaning, setting.flag or ADVANCED
