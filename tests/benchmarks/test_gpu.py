"""The command for a GPU runs on a CPU with nothing installed but what it says it needs, and notices what is wrong."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from benchmarks import gpu, gpu_checks
from benchmarks.gpu_checks import CHECKS, Place
from shared.lm import attention, logprobs
from tu_train.methods.table import METHODS

ROOT = Path(__file__).parents[2]
NEEDED = ("torch", "transformers", "numpy", "pyarrow", "safetensors")
ABSENT = {"typer", "rich", "fsspec", "setuptools"}
"""what these bring along for other uses"""


def link_only(folder: Path, names: tuple[str, ...]) -> Path:
    """A folder of packages that holds those and what they need, nothing else of this environment."""
    folder.mkdir()
    left, seen = list(names), set(ABSENT)
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            place = Path(str(found.locate_file(top)))
            if place.exists() and not (folder / top).exists():
                (folder / top).symlink_to(place)
        needs = map(Requirement, found.requires or ())
        left += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return folder


def test_it_passes_on_a_cpu_with_nothing_else_installed(tmp_path):
    packages = link_only(tmp_path / "packages", NEEDED)
    env = {**os.environ, "PYTHONPATH": f"{packages}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-S", "-c", "import importlib.util as u, runpy, sys\n"
             "assert not any(map(u.find_spec, ('typer', 'rich', 'datasets', 'pandas', 'scipy', 'fsspec', 'accelerate', 'pytest')))\n"
             "sys.argv = ['gpu', '--tiny', '--device', 'cpu']; runpy.run_module('benchmarks.gpu', run_name='__main__')"]  # fmt: skip
    done = subprocess.run(words, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["passed"] and found["checks"].keys() == CHECKS.keys()
    assert found["checks"]["methods"].keys() == {"passed", *METHODS, *(f"{name}, weights" for name in METHODS)}
    tiny = found["speed"]["tiny"]
    assert tiny["ours bfloat16"]["tokens_s"] > 0 and tiny["kept float32"]["speed_over_padded"] > 0
    assert "accelerate" in tiny["trainer float32"]["left_out"]


@pytest.fixture
def place(tmp_path):
    return Place(torch.device("cpu"), tmp_path, tiny=True)


def test_a_packed_row_that_ignores_windows_does_not_pass(place, monkeypatch):
    grouped = attention._grouped
    monkeypatch.setattr(attention, "_grouped", lambda *a: grouped(*a[:-2], None, a[-1]))
    monkeypatch.setattr(gpu_checks, "FAMILIES", {"Mistral": {}})
    found = gpu.check(gpu_checks.attention, place)
    assert not found["passed"] and found["Mistral float32"]["found"] > found["Mistral float32"]["most"]


def test_a_head_with_a_wrong_gradient_does_not_pass(place, monkeypatch):
    right = logprobs._d_product
    monkeypatch.setattr(logprobs, "_d_product", lambda *a: right(*a) * 1.01)
    found = gpu.check(gpu_checks.head, place)
    assert not found["passed"] and found["float32, gradient"]["found"] > found["float32, gradient"]["most"] > found["float32"]["found"]


def test_what_breaks_is_named_and_ends_with_1(place, monkeypatch, capsys):
    def broken(place):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(gpu, "CHECKS", {"attention": broken, "head": lambda _: {"a": (0.5, 1.0), "b": (float("nan"), 1.0)}})
    monkeypatch.setattr(sys, "argv", ["gpu", "--tiny", "--only", "attention", "head", "--device", "cpu"])
    with pytest.raises(SystemExit) as left:
        gpu.main()
    found = json.loads(capsys.readouterr().out)
    assert left.value.code == 1 and not found["passed"] and found["speed"] == {}
    assert found["checks"]["attention"]["error"] == "RuntimeError: no kernel" and not found["checks"]["head"]["passed"]
