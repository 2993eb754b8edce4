"""Writes docs/configuration.md and the pages of docs/configuration/: python -m docs.make_configuration. What they say
comes from the fields of the dataclasses.

A program has a page, and some commands one of their own (`OWN`). A group of settings that several commands have alike
stands once, in common.md.
"""

from __future__ import annotations

import functools
import importlib
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from shared.commands import Late, commands_of
from shared.fields import groups, markdown
from shared.settings import settings_of

PAGE = Path(__file__).with_name("configuration.md")
FOLDER = PAGE.with_suffix("")
PROGRAMS = ("tu-score", "tu-train", "tu-eval")
OWN = {
    "finetune": ("tu-train finetune", "tu-train diagnose"),
    "attack": ("tu-eval attack", "tu-eval depth", "tu-eval tamper"),
    "questions": ("tu-eval choices", "tu-eval benchmarks", "tu-eval judge"),
    "report": ("tu-eval compare", "tu-eval many", "tu-eval report", "tu-eval evidence", "tu-eval key", "tu-eval sign", "tu-eval verify"),
}
"""page -> its commands; those of no page here stand on the page of their program: score, train, eval"""
TITLES = {
    "score": "Settings of tu-score", "train": "Settings of tu-train", "finetune": "Settings of fine-tuning and diagnosis",
    "eval": "Settings of tu-eval", "attack": "Settings of attacks", "questions": "Settings of choices, benchmarks and judge",
    "report": "Settings of pages and reports",
}  # fmt: skip
MADE = "Made by `python -m docs.make_configuration` from the configurations themselves; `COMMAND --fields` shows the same."
HEAD = f"""# Every setting of every command

{MADE}

A setting comes from its default, then from `--config FILE.toml`, then from its flag, or from `--set FIELD=VALUE`. A
setting without a flag of its own is advanced: `--set` and `--config` give it. The resolved configuration stands in
`_config.toml` beside every output, and `--config` reads it back. A setting of another kind, a number outside of its
range or an unknown name is an error before any work.

Settings that several commands have alike stand in [common settings](configuration/common.md).

| Command | What it does |
|---|---|"""
COMMON = f"""# Common settings

{MADE}
Each of these groups belongs to several commands, which name it.
"""


def commands() -> Iterator[tuple[str, Late]]:
    """`tu-score run` and so on, with what the command is made from."""
    for program in PROGRAMS:
        app = importlib.import_module(f"{program.replace('-', '_')}.cli").app
        yield from ((f"{program} {name}", command) for name, command in commands_of(app).items())


def pages() -> dict[Path, str]:
    """Every page and its text."""
    index, parts = [HEAD], {}
    for name, command in commands():
        page = next((page for page, own in OWN.items() if name in own), name.partition(" ")[0].removeprefix("tu-"))
        shown = f"`{name}`"
        if command.config or command.arguments:
            parts.setdefault(page, []).append((name, section(name, command)))
            shown = f"[{shown}](configuration/{page}.md#{anchor(name)})"
        index.append(f"| {shown} | {said(command)} |")
    texts = {PAGE: "\n".join([*index, ""]), FOLDER / "common.md": common()}
    for page, sections in parts.items():
        head = f"# {TITLES[page]}\n\n{MADE}\n"
        texts[FOLDER / f"{page}.md"] = "\n".join([head, *(text for _, text in sections)])
    return texts


def section(name: str, command: Late) -> str:
    """A command: its own settings in tables, and links to those that it shares."""
    own = [markdown("Of the command itself", settings_of(command.arguments))] if command.arguments else []
    alike = []
    for title, settings in groups(command.config) if command.config else ():
        if in_common().get(title) == (table := markdown(title, settings)):
            alike.append(f"[{title[0].lower()}{title[1:]}](common.md#{anchor(title)})")
        else:
            own.append(table)
    links = (
        [textwrap.fill(f"Settings in common with other commands: {', '.join(alike)}.", 120, break_on_hyphens=False), ""] if alike else []
    )
    return "\n".join([f"## {name}", "", textwrap.fill(said(command), 120), "", *own, *links])


def common() -> str:
    return "\n".join([COMMON, *(f"## {title}\n\n{table.partition(chr(10) * 2)[2]}" for title, table in in_common().items())])


@functools.cache
def in_common() -> dict[str, str]:
    """title -> table of each group that several commands have alike; of several forms, the one of most commands."""
    found = Counter((title, markdown(title, settings)) for _, c in commands() if c.config for title, settings in groups(c.config))
    tables: dict[str, str] = {}
    for (title, table), times in found.most_common():
        if times > 1:
            tables.setdefault(title, table)
    return tables


def said(command: Late) -> str:
    return " ".join((command.help or "").partition("\n\n")[0].split())


def anchor(title: str) -> str:
    """Of a heading, as GitHub and mkdocs make it."""
    return title.lower().replace(" ", "-")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
    for path in set(FOLDER.glob("*.md")) - set(pages()):
        path.unlink()
