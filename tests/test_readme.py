"""The README's first story: at most six commands, on files that are there, with flags and settings that hold."""

import re
import shlex
from pathlib import Path

import pytest

from benchmarks.readme import HEADING, ROOT, commands
from shared.data.datasets import load_rows


def test_six_commands_on_thirty_rows():
    lines = commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert 0 < len(lines) <= 6 and lines[-1].startswith("tu-eval report")
    files = {word for line in lines for word in shlex.split(line) if word.startswith("examples/")}
    assert len(files) == 3 and all((ROOT / name).is_file() for name in files)
    every, forget, retain = (load_rows(str(ROOT / f"examples/people{part}.jsonl")) for part in ("", "_forget", "_retain"))
    assert len(every) == 30
    assert [(r.question, r.answer) for r in every] == [(r.question, r.answer) for r in [*forget, *retain]]


def test_each_command_reads_what_an_earlier_one_wrote():
    written = {"smollm2"}
    for line in commands((ROOT / "README.md").read_text(encoding="utf-8")):
        words = shlex.split(line)
        out = words[words.index("--out") + 1]
        for flag in ("--model", "--base-model", "--scores", "--before"):
            if flag in words:
                assert words[words.index(flag) + 1] in written, line
        assert out not in written and Path(out).suffix in ("", ".html")
        written.add(out)


def test_the_story_is_short_and_shows_terminal_and_pages():
    story = (ROOT / "README.md").read_text(encoding="utf-8").split(HEADING, 1)[1].split("\n## ", 1)[0]
    assert story.count("\n") <= 80
    pictures = dict(re.findall(r"^!\[([^]]+)\]\(docs/(\w+)\.png\)$", story, re.M))
    assert list(pictures.values()) == ["terminal", "verdict", "heatmap"]
    for alt, name in pictures.items():
        assert len(alt) > 60 and (ROOT / "docs" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("page", "named"), [
    ("docs/own_data.md", {}),
    ("tu_score/start/README.md", {"people": "all", "people_forget": "forget", "people_retain": "retain"}),
])  # fmt: skip
def test_the_six_commands_are_the_same_wherever_they_stand(page, named):
    """But for the names of files."""
    expected = [
        re.sub(r"examples/(\w+)\.jsonl", lambda m: f"{named[m[1]]}.jsonl" if named else m[0], line)
        for line in commands((ROOT / "README.md").read_text(encoding="utf-8"))
    ]
    section = (ROOT / page).read_text(encoding="utf-8").split("## Six commands", 1)[1]
    assert re.findall(r"^(?: {4})?(tu-.*)$", section, re.M)[:6] == expected
