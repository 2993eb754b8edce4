"""The pages on published data and benchmarks: their commands run, in order, on tiny models and a few rows."""

import json
import shutil
from pathlib import Path

import pytest

from shared.data.datasets import load_rows
from tests.pages.conftest import SHORT, write_rows
from tests.tu_eval.harness.test_benchmarks import own_cache, task  # noqa: F401 (a fixture)
from tests.tu_eval.judge.test_judge import QUESTIONS, judge  # noqa: F401 (a fixture)
from tests.tu_eval.measure.test_muse import write_corpus

TASKS = {"tu-eval benchmarks": "--include tasks"}


@pytest.fixture
def tasks():
    """Of the names of lm-eval's, with questions that need no network."""
    for name in ("mmlu", "wmdp"):
        task(Path("tasks").absolute(), name)


@pytest.fixture
def little_lume(lume_dir, place, monkeypatch):
    """The shortest two rows of each task and form."""
    for name in ("forget", "retain"):
        rows = [json.loads(line) for line in (lume_dir / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        parts: dict = {}
        for row in sorted(rows, key=lambda row: len(row["input"] + row["output"])):
            parts.setdefault((row["task"], "sc" in row["id"]), []).append(row)
        write_rows(f"lume/{name}.jsonl", [row for part in parts.values() for row in part[:2]])
    for name in ("member", "nonmember"):
        write_rows(f"lume/mia/{name}.jsonl", [{"id": name, "document": f"{name}: Żółw."}])
    monkeypatch.setenv("TU_LUME_DIR", str(place / "lume"))


def test_lume(walk, little_lume, tasks):
    walk("docs/lume.md", more=TASKS)
    assert json.loads(Path("results/unlearned/summary.json").read_text())["metrics"]["final_score"] is not None


def test_muse(walk, place, monkeypatch):
    write_corpus(place / "muse/News", 0)
    monkeypatch.setenv("TU_MUSE_DIR", str(place / "muse"))
    walk("docs/muse.md")


def test_wmdp(walk, make_tiny, tasks):
    shutil.copytree(make_tiny("Llama", hidden_size=32, num_hidden_layers=8, intermediate_size=48), "HuggingFaceH4/zephyr-7b-beta")
    for name in ("bio", "cyber", "wikitext"):
        write_rows(f"wmdp/{name}.jsonl", [{"text": f"{name} {row.answer}"} for row in load_rows("retain.jsonl")])
    many = {"tu-train many": "--set max_steps=2", "tu-eval many": "--set benchmarks.include=tasks"}
    walk("docs/wmdp.md", more=many)


def test_reproduce(walk):
    walk("docs/reproduce.md", more=SHORT)


def test_benchmarks(walk, tasks, judge):  # noqa: F811
    write_rows("questions.jsonl", QUESTIONS)
    walk("docs/benchmarks.md", more=TASKS)
    assert json.loads(Path("judged/unlearned/judge.json").read_text())
