"""Pairs of writers and changed files, over all commands, a few of each: the scripts run as many as one wants."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.hostile.mutations import CANARY, change, edit
from benchmarks.hostile.trials import Outcome

ROOT = Path(__file__).parents[2]


def script(name: str, *arguments: object) -> str:
    """A process of its own: trials are forked from a program that has computed nothing."""
    ran = subprocess.run(
        [sys.executable, "-m", f"benchmarks.hostile.{name}", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=1500
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_two_writers_on_one_output_never_leave_something_damaged_with_success():
    said = script("writers", "--pairs", 22)
    assert "22 pairs, 0 left something damaged" in said and said.count(" 2 pairs; ") == 11


def test_a_changed_file_is_a_line_or_a_right_result_for_every_command():
    said = script("fuzz", "--mutations", 6, "--workers", 2, "--seed", 1)
    commands = re.findall(r"^(tu-.*): 6 mutations, (\d) refused, 0 faults", said, re.MULTILINE)
    assert f"{6 * len(commands)} mutations over {len(commands)} commands, 0 faults" in said and len(commands) >= 19
    assert any(refused != "0" for _, refused in commands), "some of the changes matter"


def test_the_fuzz_sees_what_it_looks_for(tmp_path):
    from benchmarks.hostile.fuzz import TARGETS, faults_of, look

    target, fine = TARGETS["tu-eval run"], Outcome(2, 1, "error: no\n")
    (tmp_path / "mine").write_text("mine")
    before = look(tmp_path)
    assert faults_of(fine, target, before, look(tmp_path)) == []
    for outcome, fault in (
        (Outcome(1, 1, "Traceback (most recent call last):\nKeyError"), "exit code 1"),
        (Outcome(-14, 1, ""), "exit code -14"),
        (Outcome(2, 5 << 30, ""), "5.4 GB of memory"),
        (Outcome(2, 1, "error: a\nerror: b\n"), "more than one line"),
    ):
        assert fault in faults_of(outcome, target, before, before)[0]
    (tmp_path / "mine").write_text("theirs")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / CANARY).touch()
    faults = faults_of(fine, target, before, look(tmp_path))
    assert faults[0] == "code was run" and faults[1] == "touched ['mine']" and faults[2].startswith("refused, and left ['out/PWNED']")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.toml", "a.bin"])
def test_mutations_follow_from_the_seed_and_change_the_file(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {"a.json": '{"a": [1, {"b": "x"}]}', "a.jsonl": '{"a": 1}\n{"a": 2}\n', "a.toml": "a = 1\nb = 2\n", "a.bin": "abcdefgh" * 9}[
        name
    ]
    kinds, changed = set(), 0
    for seed in range(60):
        made = []
        for again in range(2):
            folder = tmp_path / f"{seed}-{again}"
            folder.mkdir()
            (folder / name).write_text(content)
            said = change(folder / name, random.Random(seed))
            kinds.add(said.split()[0])
            whole = (folder / name).is_file() and not (folder / name).is_symlink()
            made.append((said, (folder / name).read_bytes() if whole else None, sorted(os.listdir(folder))))
        assert made[0] == made[1]
        changed += made[0][1:] != (content.encode(), [name])
    assert changed > 50 and len(kinds) > 8


def test_an_edit_can_reach_every_value():
    value, reached = {"a": [1, {"b": "x"}], "c": 2.5}, set()
    for seed in range(300):
        _, how = edit(json.loads(json.dumps(value)), random.Random(seed))
        reached.add(how.split()[-1])
    assert {"a", "a.0", "a.1", "a.1.b", "c", "whole"} <= reached
