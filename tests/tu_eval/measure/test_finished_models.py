"""A model that tu-train wrote and something changed since is opened by no command: its training.json holds the hashes
of its files."""

import json
import shutil
from pathlib import Path

import pytest

from shared.lm.finished import output_record
from tests.tu_eval.conftest import SUITE
from tests.tu_eval.harness.test_benchmarks import own_cache, task  # noqa: F401
from tests.tu_eval.judge.test_judge import judge  # noqa: F401
from tests.tu_eval.made import make_results
from tests.tu_eval.test_commands import refused


@pytest.fixture
def damaged(tiny_model, tmp_path) -> Path:
    """One bit of the weights is another."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    settings = {"method": "npo", "tokens": "all", "seed": 0}
    (folder / "training.json").write_text(json.dumps({"format": 1, "settings": settings, **output_record(folder)}))
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-3] ^= 0x40
    (folder / "model.safetensors").write_bytes(bytes(data))
    return folder


COMMANDS = {
    "run": ("--suite", SUITE, "--limit", 2),
    "run, reference": ("--suite", SUITE, "--limit", 2),
    "attack": ("--suite", SUITE, "--limit", 2),
    "attack, before": ("--suite", SUITE, "--limit", 2),
    "choices": ("--data", "{data}"),
    "judge": ("--data", "{data}"),
    "benchmarks": ("--tasks", "own", "--include", "{tasks}"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_flipped_bit_is_found_before_any_work(run_cli, damaged, tiny_model, tmp_path, name, judge):  # noqa: F811
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"id": "a", "question": "Who?", "choices": ["a", "b"], "answer": 0, "turns": ["Who?"]}) + "\n")
    places = {"data": data, "tasks": task(tmp_path / "tasks", "own") if name == "benchmarks" else ""}
    arguments = [str(a).format(**places) for a in COMMANDS[name]]
    model = ("--model", damaged)
    if name.endswith("before"):
        model = ("--model", tiny_model, "--before", damaged)
    if name.endswith("reference"):
        model = ("--model", tiny_model, "--set", f"reference_model={damaged}")
    message = refused(run_cli("tu-eval", name.partition(",")[0], *model, *arguments, "--out", tmp_path / "out"))
    assert "model.safetensors is not the file that training wrote, as training.json says" in message
    assert not (tmp_path / "out").exists()


def test_evidence_does_not_speak_of_a_damaged_model(run_cli, damaged, tmp_path):
    from shared.lm.models import model_fingerprint

    before = make_results(tmp_path / "before", "target", seed=2, known=0.95)
    after = make_results(tmp_path / "after", "npo", seed=3, known=0.3, model=damaged, model_fingerprint=model_fingerprint(damaged))
    message = refused(run_cli("tu-eval", "evidence", "--before", before, "--after", after, "--out", tmp_path / "out"))
    assert "is not the file that training wrote" in message
