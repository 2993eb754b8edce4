"""Steps before the runs: through the real commands, from a base model to the page; what is skipped, and what fails."""

import json
import re
from pathlib import Path

import pytest

from tests.tu_train.conftest import WORLD

TEXT = """
base = "{base}"
model = "step:target"
scores = "step:scores"
retain = "atlas:retain:{world}"
method = ["npo"]
tokens = ["all", "hard"]
keep = 0.3
seed = 0
epochs = 1
learning_rate = 1e-3
device = "cpu"

[[steps]]
command = "tu-train finetune"
out = "target"
data = "atlas:full:{world}"
epochs = 2
learning_rate = 1e-3
device = "cpu"

[[steps]]
command = "tu-score run"
out = "scores"
model = "step:target"
data = "atlas:forget:{world}"
engine = "torch"
device = "cpu"

[models]
target = "step:target"
retain = "{base}"

[eval]
suite = "atlas:{world}"
generate = false
device = "cpu"
"""


@pytest.fixture
def study(tiny_model, tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(TEXT.format(base=tiny_model, world=WORLD), encoding="utf-8")
    return path


def made(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.suffix in (".safetensors", ".parquet", ".json")}


def test_from_the_base_to_the_page(study, tmp_path, run_cli):
    """tu-train many, tu-eval many; each once more does nothing; a third seed is all that an edited study trains."""
    out = tmp_path / "runs"
    code, stdout, err = run_cli("tu-train", "many", study, "--out", out)
    assert code == 0, err
    assert "2 of 2 runs finished" in stdout and "step 1 of 2: target (tu-train finetune)" in err
    code, stdout, err = run_cli("tu-eval", "many", study, "--out", out)
    assert code == 0, err
    assert re.search(r"page: .*page\.html", stdout) and all(label in stdout for label in ("target", "retain", "npo-all", "npo-hard"))
    summary = json.loads(next(out.glob("npo-hard-*/results/summary.json")).read_text())
    assert summary["metrics"]["forget_quality"] is not None and summary["label"] == "npo-hard"
    page, table = (out / "page.html").read_text(), (out / "table.md").read_text()
    assert "npo" in page and table.count("|") > 20 and (out / "table.csv").is_file()
    before = {k: v for k, v in made(out).items() if "index.json" not in k}
    for command in ("tu-train", "tu-eval"):
        code, _, err = run_cli(command, "many", study, "--out", out)
        assert code == 0, err
    assert err.count("finished already") == 4
    assert {k: v for k, v in made(out).items() if "index.json" not in k} == before
    code, stdout, err = run_cli("tu-eval", "many", study, "--out", out, "--set", "eval.seed=1")
    assert code == 2 and re.search(r"error: .*results/retain: its numbers are of another run, which differs in seed", err)


def test_a_step_that_fails_ends_with_its_line_and_nothing_is_trained(study, tmp_path, run_cli):
    code, _, err = run_cli("tu-train", "many", study, "--out", tmp_path / "o", "--set", "steps.target.data=atlas:nowhere")
    assert code == 2
    assert re.fullmatch(r"error: .*study\.toml: step target: data atlas:nowhere: no such split.*", err.splitlines()[-1])
    assert not (tmp_path / "o" / "index.json").exists() and not (tmp_path / "o" / "target").exists()


@pytest.mark.parametrize(
    ("given", "pattern"),
    [
        ("steps.target.epoch=3", r"study\.toml: step target: unknown field 'epoch' .did you mean 'epochs'"),
        ("steps.scores.engine=torhc", r"study\.toml: step scores: engine: got 'torhc' .did you mean 'torch'"),
        ("eval.sute=x", r"study\.toml: eval: unknown field 'sute' .did you mean 'suite'"),
        ("methods=npo", r"study\.toml: unknown field 'methods' .did you mean 'method'"),
        ("keep=[2.0]", r"study\.toml: .*keep"),
    ],
)
def test_what_no_command_knows_is_refused_before_any_work(study, tmp_path, run_cli, given, pattern):
    code, _, err = run_cli("tu-train", "many", study, "--out", tmp_path / "o", "--set", given)
    assert code == 2 and len(err.splitlines()) == 1 and re.search(pattern, err), err
    assert not (tmp_path / "o").exists()
