"""Every flag and field that the documents name is one that a command knows."""

import dataclasses
import re
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = re.compile(r"\bpip3? |\bpython3? |\bvllm serve|\bhf auth|\bgit ")
"""lines that are commands of others"""


def known_flags() -> set[str]:
    from tu_eval.cli import app as evaluate
    from tu_score.cli import app as score
    from tu_train.cli import app as train

    commands = [c for app in (score, train, evaluate) for c in typer.main.get_command(app).commands.values()]  # type: ignore[attr-defined]
    return {flag for c in commands for p in c.params for flag in (*p.opts, *p.secondary_opts)}


def known_fields() -> set[str]:
    from tu_eval.attacks.config import AttackConfig
    from tu_eval.choices import ChoicesConfig
    from tu_eval.harness.config import BenchmarksConfig
    from tu_eval.judge.config import JudgeConfig
    from tu_eval.measure.config import EvalConfig
    from tu_score.config import ScoreConfig
    from tu_train.config import FinetuneConfig, UnlearnConfig
    from tu_train.diagnose.config import DiagnoseConfig

    kinds = (
        ScoreConfig, UnlearnConfig, FinetuneConfig, DiagnoseConfig, EvalConfig, AttackConfig, ChoicesConfig, JudgeConfig, BenchmarksConfig,
    )  # fmt: skip
    return {field.name for kind in kinds for field in dataclasses.fields(kind)}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_flag_and_field_of_a_page_exists(page):
    flags, fields = known_flags() | {"--help"}, known_fields()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if OTHERS.search(line):
            continue
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", line):
            assert flag in flags, f"{page.name}:{number}: {flag}"
        for name in re.findall(r"--set '?([a-z_0-9]+)=", line):
            assert name in fields | {"field"}, f"{page.name}:{number}: --set {name}"


def test_the_test_sees_flags_and_fields():
    assert {"--alpha", "--methd"}.isdisjoint(known_flags()) and {"--method", "--no-rows", "--system"} <= known_flags()
    assert "alpha" in known_fields() and "window_over" in known_fields() and "alhpa" not in known_fields()


PLACES = re.compile(r"\b(?:shared|tu_score|tu_train|tu_eval|benchmarks|tests|docs)/(?:[\w/-]*/(?![\w.-])|[\w/-]+\.[a-z]+)")


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "benchmarks").rglob("*.md"))], ids=lambda p: p.name)
def test_every_file_of_ours_that_a_page_names_is_there(page):
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        for place in PLACES.findall(line):
            assert (ROOT / place).exists(), f"{page.name}:{number}: {place}"
