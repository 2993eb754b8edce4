"""The examples of docs/extending.md, taken from the page and run by the real commands on a tiny model; and a method of
a package that pip has installed."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from docs.shown import shown
from shared.store.scores import open_store
from tu_eval.results.results import load_results

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "extending.md"
BLOCK = re.compile(r"^```\w+\n(.*?)^```$", re.M | re.S)
SMALL = {
    "tu-score run": "--limit 4 --device cpu",
    "tu-train run": "--limit 4 --device cpu --epochs 1",
    "tu-eval run": "--limit 2 --device cpu --set max_new_tokens=3",
    "tu-eval attack": "--limit 2 --device cpu",
}
"""what keeps a command of the page short"""


def section(heading: str) -> str:
    found = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert found is not None, heading
    return found[1]


def write_files(heading: str, folder: Path) -> None:
    """Every block of code under a heading that begins with the name of a file."""
    for text in BLOCK.findall(section(heading)):
        if named := re.match(r"# (\S+\.(?:py|toml))\n", text):
            (folder / named[1]).write_text(text)


@pytest.fixture(scope="module")
def store(tiny_model, tmp_path_factory) -> Path:
    from tu_score.config import ScoreConfig
    from tu_score.run import run_score

    folder = tmp_path_factory.mktemp("extending") / "scores"
    run_score(ScoreConfig(model=str(tiny_model), data="atlas:forget", out=str(folder), limit=4, device="cpu"))
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch, tiny_model, store) -> Path:
    """The current folder, with what the page calls `target`, `scores` and `copied`."""
    (tmp_path / "target").symlink_to(tiny_model)
    (tmp_path / "scores").symlink_to(store)
    shutil.copytree(store, tmp_path / "copied")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(".")
    return tmp_path


@pytest.fixture
def follow(place, run_cli):
    """`follow(heading)` does what the page says there; -> stdout of each command."""

    def run(heading: str) -> list[str]:
        write_files(heading, place)
        out = []
        for words in map(shlex.split, shown(section(heading))):
            more = shlex.split(SMALL.get(" ".join(words[:2]), ""))
            code, stdout, stderr = run_cli(*words, *more)
            assert code == 0, stderr
            out.append(stdout)
        assert out, f"no command under {heading}"
        return out

    return run


def test_a_method(follow, place):
    follow("A method")
    record = json.loads((place / "out" / "training.json").read_text())
    assert re.fullmatch(r"my_methods:clipped sha256:[0-9a-f]{64}", record["method_code"])
    assert record["settings"]["options"] == {"floor": 3.0}
    card = (place / "out" / "README.md").read_text()
    assert record["method_code"] in card and "w·max(log p, −floor)" in card


def test_a_signal(follow, place):
    _, said = follow("A signal")
    assert "0.5 · rank(phrase my_signals:surprise)" in said
    scored, rewritten = (open_store(name).manifest for name in ("surprised", "copied"))
    code = scored["fingerprints"]["uncertainty_code"]
    assert re.fullmatch(r"my_signals:surprise sha256:[0-9a-f]{64}", code)
    assert scored["recipe"]["uncertainty_code"] == rewritten["recipe"]["knowledge_code"] == code
    row = next(iter(open_store("surprised").rows(("logprob", "importance", "is_target"))))
    logprob, importance = (np.array(row[name], dtype=float)[row["is_target"]] for name in ("logprob", "importance"))
    assert importance.max() == 1 and importance[logprob.argmax()] < 1


def test_a_span_plan(follow, place):
    follow("A span plan")
    store = open_store("masked")
    assert re.fullmatch(r"my_spans:long_words sha256:[0-9a-f]{64}", store.manifest["fingerprints"]["spans_code"])
    assert store.manifest["options"]["spans"] == "my_spans:long_words" and store.manifest["spans"]["variants"] > 0


def test_a_metric(follow, place):
    follow("A metric")
    results = load_results(place / "results" / "target")
    assert re.fullmatch(r"my_metrics:least_likely sha256:[0-9a-f]{64}", results.own["least_likely"])
    for name in ("forget", "retain", "world"):
        values = [row["least_likely"] for row in results.rows(name)]
        assert results.summary["metrics"][f"{name}_least_likely"] == pytest.approx(sum(values) / len(values))
        assert all(0 < value <= row["probability"] for value, row in zip(values, results.rows(name), strict=True))
    assert "Least likely" in (place / "report.html").read_text()


def test_an_attack(follow, place):
    follow("An attack")
    found = json.loads((place / "attacks" / "attack.json").read_text())
    assert re.fullmatch(r"my_attacks:shrink sha256:[0-9a-f]{64}", found["own_attacks"]["my_attacks:shrink"])
    assert {n["setting"] for n in found["numbers"]} == {"times 0.99", "times 0.9"}
    assert {n["measure"] for n in found["numbers"]} == {"probability", "fact_probability"}


def test_a_suite(follow, place):
    follow("A suite")
    summary = load_results(place / "results" / "people").summary
    assert summary["suite"] == "my people" and set(summary["rows"]) == {"forget", "retain"}
    assert re.fullmatch(r"my_suites:people sha256:[0-9a-f]{64}", summary["suite_code"])


def installed(tmp_path: Path) -> Path:
    """The package of the page, installed by pip into a folder of its own."""
    source, target = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    write_files("A method", source)
    write_files("As a package", source)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation", "--target", target, source]
    subprocess.run(pip, check=True, capture_output=True)
    return target


def test_a_method_of_an_installed_package_is_listed_and_trains(place, tmp_path):
    target = installed(tmp_path)
    environment = {**os.environ, "PYTHONPATH": f"{target}{os.pathsep}{ROOT}"}

    def run(*words: str) -> str:
        done = subprocess.run([sys.executable, "-m", "tu_train", *words], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    line = next(line for line in run("methods").splitlines() if line.startswith("clipped\t"))
    assert line.endswith("\tmy_methods:clipped (clipped-unlearning 1.0)") and "floor=5" in line
    words = "--model target --scores scores --retain atlas:retain --method clipped --out out " + SMALL["tu-train run"]
    run("run", *words.split())
    record = json.loads((place / "out" / "training.json").read_text())
    assert record["settings"]["method"] == "clipped"
    assert record["method_code"].startswith("my_methods:clipped (clipped-unlearning 1.0) sha256:")
