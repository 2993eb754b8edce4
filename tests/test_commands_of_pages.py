"""Every command that a page shows, whether a test runs it or not, is one that its program takes: flags, arguments and
settings, with their kinds and ranges."""

import re
import shlex

import pytest
import typer

from docs.make_configuration import commands
from shared.commands import Asked, _with_flags
from tests.test_docs import PAGES, named

KNOWN = dict(commands())
OURS = re.compile(r"(?:[A-Z_]+=\S+ +)*(?=tu-(?:score|train|eval) )")
A_FORM = " ... "
"""stands for flags, so that the line is none to type"""
OWN_CODE = re.compile(r"\bmy_[a-z]+:")
"""modules that a page tells to write; tests/test_extending.py writes and runs them"""


def shown(text: str) -> list[str]:
    """All lines of the blocks, indented or fenced, that are commands of ours; a backslash at the end goes on."""
    found, fenced = [], False
    for line in text.replace("\\\n", " ").splitlines():
        fenced ^= line.lstrip().startswith("```")
        if (fenced or line.startswith("    ")) and (start := OURS.match(line.strip())) and A_FORM not in line:
            found.append(line.strip()[start.end() :])
    return found


def take(line: str) -> None:
    """Raises what the program would say to the line before it looks for any file."""
    line = re.sub(r"\$[A-Z_]+", "3", line.partition(" > ")[0])
    program, name, *words = shlex.split(line, comments=True)
    command = KNOWN[f"{program} {name}"]

    def run(*given: object) -> None:
        if isinstance(given[0], Asked):
            given[0].resolved(**({"out": "-"} if "--dry-run" in words else {}))

    app = typer.Typer(add_completion=False)
    app.command(name)(_with_flags(run, command.config, command.arguments))
    typer.main.get_command(app).main(words, standalone_mode=False)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_program_takes_every_command_of_a_page(page):
    for line in shown(page.read_text(encoding="utf-8")):
        if not OWN_CODE.search(line):
            take(line)


def test_most_commands_are_seen_and_wrong_ones_are_not_taken():
    assert sum(len(shown(page.read_text(encoding="utf-8"))) for page in PAGES) > 100
    text = "\n    $ no\n    TU_X=1 tu-score run --a \\\n       --b\n```\ntu-eval x\n```\ntu-train prose\n"
    assert [shlex.split(line) for line in shown(text)] == [["tu-score", "run", "--a", "--b"], ["tu-eval", "x"]]
    start = "tu-train run --model m --scores s --retain r --out o"
    take(start)
    for end, error in (("--nothing 3", "No such option"), ("--method nothing", "nothing"), ("--set gamma=much", "much")):
        with pytest.raises(Exception, match=error):
            take(f"{start} {end}")
