"""The contracts on imports (pyproject.toml) hold, and a broken one fails `make lint`."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("shared", "tu_score", "tu_train", "tu_eval")
BROKEN = {
    "a wall": ("tu_train/config.py", "import tu_eval.cli", "Three walls"),
    "what is shared": ("shared/errors.py", "import tu_score.config", "What is shared"),
    "a circle, for type checking alone": (
        "tu_eval/results/folder.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tu_eval.measure.kept import CODE",
        "No circles",
    ),
    "a floor": ("shared/files/fs.py", "def late():\n    import shared.store.scores", "Floors of shared"),
    "a new room that has no floor": ("tu_eval/attic.py", "", "Floors of tu_eval"),
}


@pytest.fixture
def house(tmp_path):
    """A copy of the packages, so that it can be broken."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder):
    words = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(words, cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True)


@pytest.mark.parametrize(("place", "code", "contract"), BROKEN.values(), ids=BROKEN)
def test_a_broken_contract_fails(house, place, code, contract):
    path = house / place
    before = path.read_text() if path.exists() else ""
    path.write_text(f"{before}\n{code}\n")
    done = lint(house)
    assert done.returncode == 1, done.stdout + done.stderr
    broken = [line for line in done.stdout.splitlines() if line.endswith("BROKEN")]
    assert any(line.startswith(contract) for line in broken), done.stdout


def test_the_contracts_hold(house):
    done = lint(house)
    assert done.returncode == 0, done.stdout + done.stderr
