"""What is published: the wheel alone, away from the repository, scores, trains and evaluates."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("shared", "tu_score", "tu_train", "tu_eval")
SUITE = "atlas:people=4,facts_per_person=2,forget_people=2,holdout_people=1"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with wheel and sdist."""
    out = tmp_path_factory.mktemp("dist")
    made = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr[-2000:]
    return out


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The wheel's files in a folder of their own."""
    place = tmp_path_factory.mktemp("site")
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(place)
    return place


def test_wheel_and_sdist_pass_the_check_of_the_index(built):
    files = [str(path) for path in sorted(built.iterdir())]
    checked = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True, check=False)
    assert checked.returncode == 0 and len(files) == 2, checked.stdout + checked.stderr


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(installed):
    tracked = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    wanted = {path for path in tracked.stdout.splitlines() if (ROOT / path).exists()}
    found = {str(p.relative_to(installed)) for p in installed.rglob("*") if p.is_file() and ".dist-info" not in str(p)}
    assert found == wanted
    assert any(p.name == "LICENSE" for p in installed.rglob("*"))


def test_away_from_the_repository_it_scores_trains_and_evaluates(installed, tiny_model, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"}

    def run(program: str, *words: object) -> str:
        line = [sys.executable, "-P", "-m", program, *map(str, words)]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    forget, retain = SUITE.replace("atlas:", "atlas:forget:"), SUITE.replace("atlas:", "atlas:retain:")
    assert str(installed) in run("tu_score", "doctor").splitlines()[0]
    run("tu_score", "run", "--model", tiny_model, "--data", forget, "--engine", "torch", "--out", "scores")
    words = ("--model", tiny_model, "--scores", "scores", "--retain", retain, "--method", "npo", "--epochs", 1)
    run("tu_train", "run", *words, "--out", "model")
    for model, out in ((tiny_model, "before"), ("model", "after")):
        run("tu_eval", "run", "--model", model, "--suite", SUITE, "--limit", 2, "--set", "max_new_tokens=4", "--out", out)
    assert "Forgotten:" in run("tu_eval", "report", "after", "--before", "before", "--out", "verdict.html")
    assert (tmp_path / "verdict.html").stat().st_size > 5000
