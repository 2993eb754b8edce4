"""Writes docs/configuration.md: python -m docs.make_configuration. What it says comes from the fields of the
dataclasses."""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Iterator
from pathlib import Path

from shared.commands import Late, commands_of
from shared.fields import groups, markdown
from shared.settings import settings_of

PAGE = Path(__file__).with_name("configuration.md")
PROGRAMS = ("tu-score", "tu-train", "tu-eval")
HEAD = """# Every setting of every command

Made by `python -m docs.make_configuration` from the configurations themselves; `COMMAND --fields` shows the same.

A setting comes from its default, then from `--config FILE.toml`, then from its flag, or from `--set FIELD=VALUE`. A
setting without a flag of its own is advanced: `--set` and `--config` give it. The resolved configuration stands in
`_config.toml` beside every output, and `--config` reads it back. A setting of another kind, a number outside of its
range or an unknown name is an error before any work.
"""


def commands() -> Iterator[tuple[str, Late]]:
    """`tu-score run` and so on, with what the command is made from."""
    for program in PROGRAMS:
        app = importlib.import_module(f"{program.replace('-', '_')}.cli").app
        yield from ((f"{program} {name}", command) for name, command in commands_of(app).items())


def page() -> str:
    return "\n".join([HEAD, *(section(name, command) for name, command in commands() if command.config or command.arguments)])


def section(name: str, command: Late) -> str:
    own = [markdown("Of the command itself", settings_of(command.arguments))] if command.arguments else []
    tables = [markdown(title, settings) for title, settings in groups(command.config)] if command.config else []
    said = textwrap.fill((command.help or "").partition("\n\n")[0], 120)
    return "\n".join([f"## {name}", "", said, "", *own, *tables])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
