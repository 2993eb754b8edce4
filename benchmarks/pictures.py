"""The pictures of the README, from what its story leaves in its folder.

    python -m benchmarks.readme --out WORK
    python -m benchmarks.pictures WORK

Writes docs/terminal.png (what a user sees of the six commands, without the notes and with the last table of numbers
alone), docs/heatmap.png (the page of tu-score inspect, one token's details open) and docs/verdict.png (the page of the
last command). Needs Chromium.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tests.browser import Browser

if TYPE_CHECKING:
    from rich.text import Text

DOCS = Path(__file__).parents[1] / "docs"
WIDTH = 104
"""columns of the terminal"""
TABLE = 17
"""lines of the table that is shown"""
WIDE = 1240
"""of the verdict, pixels"""
LAST_TABLE = "[...document.querySelectorAll('section table.verdict')].pop().getBoundingClientRect().bottom"
SHADED = "article .t.top:nth-last-child(3 of .top)"
"""of the heat map, in its first answer: whose details are shown"""
NOTE = re.compile(r".*: rows are laid out in |\d+ of \d+ rows of .* have ")
TITLE = re.compile(r".* on own\s*$")
FORMAT = """<!doctype html><meta charset="utf-8"><style>body {{ margin: 0; background: {background}; }} {stylesheet}
pre {{ display: inline-block; margin: 18px 22px; font: 14px/1.35 "DejaVu Sans Mono", monospace; color: {foreground}; }}</style>
<pre>{code}</pre>"""


def parts(story: str) -> list[tuple[str, list[str]]]:
    """Each command and the lines that it said."""
    found = re.split(r"^\$ (tu-.*)\n", story, flags=re.M)[1:]
    return [(command, said.splitlines()) for command, said in zip(found[::2], found[1::2], strict=True)]


def shown(said: list[str], *, table: bool) -> Iterator[str]:
    """The lines without notes; of a table the first ones, or none. What is left out is said."""
    at = next((k for k, line in enumerate(said) if TITLE.match(line)), None)
    lines = [line for line in (said if at is None else said[:at]) if not NOTE.match(line)]
    yield from lines
    if at is not None:
        end = next(k for k in range(len(said) - 1, at, -1) if said[k].startswith("└")) + 1
        first = said[at : at + TABLE] if table else []
        yield from first
        yield f"… {end - at - len(first)} more lines"
        yield from said[end:]


def terminal(story: str) -> Iterator[Text]:
    from rich.text import Text

    commands = parts(story)
    last = max(k for k, (command, _) in enumerate(commands) if command.startswith("tu-eval run"))
    for k, (command, said) in enumerate(commands):
        yield Text.assemble(("$ ", "bold green"), (command, "bold"))
        for line in shown(said, table=k == last):
            text = Text(line, style="dim" if line.startswith("…") else "")
            text.highlight_regex(
                r"^(fine-tuned|unlearned) model:|^(scores|results|page|self-check):|^training:|^scoring( answers)?:|^writing", "cyan"
            )
            text.highlight_regex(r"(Forgotten|Kept|Not measured):", "bold yellow")
            yield text
        yield Text("")


def draw_terminal(story: str, page: Path) -> None:
    from rich.console import Console
    from rich.terminal_theme import MONOKAI

    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor", legacy_windows=False)
    for text in terminal(story):
        console.print(text, soft_wrap=False)
    page.write_text(console.export_html(theme=MONOKAI, code_format=FORMAT), encoding="utf-8")


def draw_verdict(browser: Browser, page: Path) -> None:
    """From the title to the last line that says what is kept."""
    bottom = browser.page(page, size=(WIDE, 900)).evaluate(LAST_TABLE)
    browser.page(page, size=(WIDE, int(bottom) + 10)).screenshot(DOCS / "verdict.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path, help="folder of python -m benchmarks.readme")
    work: Path = parser.parse_args().work
    with tempfile.TemporaryDirectory() as folder, Browser() as browser:
        draw_terminal((work / "story.txt").read_text(encoding="utf-8"), page := Path(folder) / "terminal.html")
        tab = browser.page(page, size=(1000, 800))
        size = tab.evaluate(
            "(r => [Math.ceil(r.right + 22), Math.ceil(r.bottom + 18)])(document.querySelector('pre').getBoundingClientRect())"
        )
        browser.page(page, size=tuple(size)).screenshot(DOCS / "terminal.png")
        heat = Path(folder) / "heatmap.html"
        subprocess.run([sys.executable, "-m", "tu_score", "inspect", str(work / "scores"), "--html", str(heat)], check=True)
        tab = browser.page(heat, size=(1000, 1280))
        tab.click(SHADED)
        tab.screenshot(DOCS / "heatmap.png")
        draw_verdict(browser, work / "verdict.html")


if __name__ == "__main__":
    main()
