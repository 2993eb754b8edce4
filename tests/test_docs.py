"""Every flag and field that the documents name is one that a command knows."""

import re
from pathlib import Path

import pytest

from docs.make_configuration import commands
from shared.settings import settings_of

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "tu_score" / "start" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LONGEST = 200
"""lines of a page of the docs"""
OTHERS = re.compile(r"\bpip3? |\bpython3? |\bvllm serve|\bhf (?:auth|upload)|\bgit |\btorchrun ")
"""lines that are commands of others"""


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def known_flags() -> set[str]:
    return {flag for _, c in commands() for p in c.whole.params for flag in (*p.opts, *p.secondary_opts)}


def known_fields() -> set[str]:
    return {setting.name for _, c in commands() if c.config for setting in settings_of(c.config)}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_flag_and_field_of_a_page_exists(page):
    flags, fields = known_flags() | {"--help", "--version", "--install-completion"}, known_fields()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if OTHERS.search(line):
            continue
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", line):
            assert flag in flags, f"{page.name}:{number}: {flag}"
        for name in re.findall(r"--set '?([a-z_0-9]+)=", line):
            assert name in fields | {"field", "base"}, f"{page.name}:{number}: --set {name}"


def test_the_test_sees_flags_and_fields():
    assert {"--alpha", "--methd"}.isdisjoint(known_flags()) and {"--method", "--no-rows", "--system"} <= known_flags()
    assert "alpha" in known_fields() and "window_over" in known_fields() and "alhpa" not in known_fields()


PLACES = re.compile(r"\b(?:shared|tu_score|tu_train|tu_eval|benchmarks|tests|docs)/(?:[\w/-]*/(?![\w.-])|[\w/-]+\.[a-z]+)")


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "benchmarks").rglob("*.md"))], ids=named)
def test_every_file_of_ours_that_a_page_names_is_there(page):
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        for place in PLACES.findall(line):
            assert (ROOT / place).exists(), f"{page.name}:{number}: {place}"


PROSE = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", PROSE, ids=named)
def test_lines_of_prose_end_before_column_121(page):
    """Tables, pictures and code may be wider."""
    code, wide = False, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        code ^= line.lstrip().startswith("```")
        if len(line) > 120 and not code and not line.startswith(("|", "![", "    ", "#")):
            wide.append(number)
    assert wide == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_no_page_is_longer_than_is_read_in_one_go(page):
    lines = page.read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST, f"{lines} lines, at most {LONGEST}: split it, or say it shorter"
