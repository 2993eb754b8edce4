"""Every command that a page shows is run by a test, and is one that its program takes: flags, arguments and settings,
with their kinds and ranges."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from docs.make_configuration import commands
from docs.shown import shown
from shared.commands import Asked, _with_flags
from tests.test_docs import PAGES, named

KNOWN = dict(commands())
TESTS = Path(__file__).parent
WALKED = re.compile(r'^ +(?:said = |assert len\()?walk\("([\w/.]+\.md)"', re.M)
"""a page whose commands a test runs, one and all (of the README those behind its story): tests/pages/conftest.py"""
STORY_ENDS = "\n## Score on one box"
FOLLOWED = re.compile(r'follow\("([^"]+)"\)')
"""a heading of docs/extending.md whose commands a test runs"""
HUB = "docs/hub.md"
"""its commands run in a process of their own, with a hub on loopback: tests/test_push.py"""
NOT_RUN = {
    "pip install": "nothing is installed while tests run; tests/test_wheel.py and tests/test_extras.py look at what would be",
    "make install": "the same",
    "python -m benchmarks.": "studies of minutes to hours on models that are not here; tests/benchmarks runs their parts",
    "torchrun": "four ranks of a real training; its words are parsed, and tests/tu_train/test_torchrun.py trains with two",
    "hf auth login": "asks for a password",
    "hf upload": "run by tests/test_push.py",
    "export TU_JUDGE_URL": "stands for an endpoint of your own; tests set the variables",
    "read -rs": "the same",
}
"""beginnings of commands of others that pages show -> why this does not run them"""
OTHERS = re.compile(r"(?:[A-Z_]+=\S+ +)*((?:pip3?|python3?|make|torchrun|hf|git|openssl|vllm|ray|uv|docker|curl|export|read) .*)")
BLOCK = re.compile(r"^```(?:sh|bash|console)?\n(.*?)^```|^    (.*?)$", re.M | re.S)
LOOP = re.compile(r"for .*?; do |; done$")
OWN_CODE = re.compile(r"\bmy_[a-z]+:")
"""modules that a page tells to write; tests/test_extending.py writes and runs them"""


def others(text: str) -> list[str]:
    """Lines of blocks of code, but of those of another language, that are commands of others."""
    text = re.sub(r"^```\w+\n.*?^```$", lambda found: found[0] if found[0].startswith("```sh") else "", text, flags=re.M | re.S)
    lines = [line for inner, indented in BLOCK.findall(text) for line in (inner or indented).splitlines()]
    return [found[1] for line in lines if (found := OTHERS.match(line.strip()))]


def take(line: str) -> None:
    """Raises what the program would say to the line before it looks for any file."""
    line = re.sub(r"\$[A-Z_]+", "3", LOOP.sub("", line).partition(" > ")[0])
    program, name, *words = shlex.split(line, comments=True)
    command = KNOWN[f"{program} {name}"]

    def run(*given: object) -> None:
        if given and isinstance(given[0], Asked):
            given[0].resolved(**({"out": "-"} if "--dry-run" in words else {}))

    app = typer.Typer(add_completion=False)
    app.command(name)(_with_flags(run, command.config, command.arguments))
    typer.main.get_command(app).main(words, standalone_mode=False)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_program_takes_every_command_of_a_page(page):
    for line in shown(page.read_text(encoding="utf-8")):
        if not OWN_CODE.search(line):
            take(line)


def test_a_test_runs_every_command_of_every_page():
    walked = {HUB, *(name for file in (TESTS / "pages").glob("test_*.py") for name in WALKED.findall(file.read_text(encoding="utf-8")))}
    pages = {named(page): page.read_text(encoding="utf-8") for page in PAGES}
    assert walked == {name for name, text in pages.items() if shown(text)} - {"docs/extending.md"}
    assert shown(pages["README.md"].split(STORY_ENDS)[0]) == shown(pages["docs/own_data.md"])[:6]
    headings = set(FOLLOWED.findall((TESTS / "test_extending.py").read_text(encoding="utf-8")))
    sections = re.split(r"^## ", pages["docs/extending.md"], flags=re.M)
    assert headings == {section.partition("\n")[0] for section in sections if shown(section)}


def test_most_commands_are_seen_and_wrong_ones_are_not_taken():
    assert sum(len(shown(page.read_text(encoding="utf-8"))) for page in PAGES) > 100
    loop = "for X in a; do tu-eval y; done"
    text = f"\n    $ no\n    TU_X=1 tu-score run --a \\\n       --b\n```\ntu-eval x\n```\ntu-train prose\n    {loop}\n"
    assert [shlex.split(line) for line in shown(text)] == [["tu-score", "run", "--a", "--b"], ["tu-eval", "x"], shlex.split(loop)]
    start = "tu-train run --model m --scores s --retain r --out o"
    take(start)
    for end, error in (("--nothing 3", "No such option"), ("--method nothing", "nothing"), ("--set gamma=much", "much")):
        with pytest.raises(Exception, match=error):
            take(f"{start} {end}")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_of_others_are_known_with_the_reason_why_no_test_runs_them(page):
    for line in others(page.read_text(encoding="utf-8")):
        assert any(line.startswith(start) for start in NOT_RUN), f"{named(page)}: {line}"
        if line.startswith("torchrun"):
            take(re.sub(r".* -m tu_train ", "tu-train ", line))


def test_every_entry_is_shown_somewhere():
    lines = [line for page in PAGES for line in others(page.read_text(encoding="utf-8"))]
    assert all(any(line.startswith(start) for line in lines) for start in NOT_RUN)
    assert others("```sh\nA=1 B=$X pip install x\n```\n```python\nmake = 3\n```\n    make demo\npip y\n") == ["pip install x", "make demo"]
