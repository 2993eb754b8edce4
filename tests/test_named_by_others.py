"""A name that stands in a store, a checkpoint, a model's folder or results that somebody sent runs no code: only what
the user names is imported."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from shared import extensions

CODE = """
import numpy as np
from shared.weighting.importance import Signal
from tu_train.methods.losses import ascent
from tu_train.methods.table import Method
open({witness!r}, "a").write("ran")
method = Method(ascent, per="token", paper="", formula="", options={{}})
signal = Signal(("logprob",), lambda columns, starts, recipe: -columns["logprob"])
def plan(row): return [(0, 3)]
"""
MODULE = "sent_by_others"


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The current folder, with a module in it whose import is noticed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"{MODULE}.py").write_text(CODE.format(witness=str(tmp_path / "ran")))
    forget(monkeypatch)
    return tmp_path


def forget(monkeypatch) -> None:
    """As in a new process."""
    monkeypatch.setattr(extensions, "_imported", {})
    monkeypatch.delitem(sys.modules, MODULE, raising=False)


@pytest.fixture
def quiet(place, monkeypatch, run_cli):
    """`quiet(words...)`: a command of a new process that imports nothing -> exit code, stderr."""

    def run(*words: object) -> tuple[int, str]:
        (place / "ran").unlink(missing_ok=True)
        forget(monkeypatch)
        code, _, err = run_cli(*words)
        assert not (place / "ran").exists(), f"{words} ran the module"
        return code, err

    return run


SMALL = ("--limit", 4, "--device", "cpu")


def test_commands_on_a_store_import_nothing_that_it_names(place, quiet, run_cli, tiny_model):
    named = ("--set", f"uncertainty={MODULE}:signal", "--spans", f"{MODULE}:plan")
    made = ("tu-score", "run", "--model", tiny_model, "--data", "atlas:forget", *SMALL, *named)
    assert run_cli(*made, "--out", "scores")[0] == 0 and (place / "ran").exists()
    assert quiet("tu-score", "inspect", "scores", "--html", "page.html")[0] == 0
    assert quiet("tu-score", "verify", "scores")[0] == 0
    assert quiet("tu-score", "agree", "scores", "--model", tiny_model)[0] == 0
    train = ("tu-train", "run", "--model", tiny_model, "--scores", "scores", "--retain", "atlas:retain", "--epochs", 1, *SMALL)
    assert quiet(*train, "--out", "trained")[0] == 0
    assert quiet("tu-score", "recipe", "scores", "--recipe", "norm=rank,uncertainty=entropy")[0] == 0


def test_a_mended_store_does_not_import_the_signal_of_its_recipe(place, quiet, run_cli, tiny_model):
    made = ("tu-score", "run", "--model", tiny_model, "--data", "atlas:forget", *SMALL, "--set", "part_tokens=200", "--out", "scores")
    assert run_cli(*made)[0] == 0
    assert run_cli("tu-score", "recipe", "scores", "--recipe", f"uncertainty={MODULE}:signal")[0] == 0
    next((place / "scores").glob("part-*")).unlink()
    code, err = quiet(*made)
    assert code == 2 and f"{MODULE}:signal" in err and "choose a new --out" in err


def test_resume_and_evaluation_import_no_method_that_a_folder_names(place, quiet, run_cli, tiny_model):
    assert run_cli("tu-score", "run", "--model", tiny_model, "--data", "atlas:forget", *SMALL, "--out", "scores")[0] == 0
    train = ("tu-train", "run", "--model", tiny_model, "--scores", "scores", "--retain", "atlas:retain", "--epochs", 1, *SMALL)
    assert run_cli(*train, "--method", f"{MODULE}:method", "--out", "trained")[0] == 0 and (place / "ran").exists()
    assert json.loads((place / "trained" / "training.json").read_text())["settings"]["method"] == f"{MODULE}:method"
    code, err = quiet(*train, "--method", "ga", "--out", "trained", "--resume")
    assert code == 2 and f"started with '{MODULE}:method'" in err
    more = ("--suite", "atlas:people=5,facts_per_person=2,forget_people=2,holdout_people=1", "--limit", 2, "--set", "max_new_tokens=2")
    assert quiet("tu-eval", "run", "--model", "trained", *more, "--out", "results")[0] == 0
    assert quiet("tu-eval", "compare", "results", "--out", "page.html")[0] == 0


def test_an_edited_method_does_not_go_on_with_what_an_earlier_one_trained(place, monkeypatch, run_cli, tiny_model):
    assert run_cli("tu-score", "run", "--model", tiny_model, "--data", "atlas:forget", *SMALL, "--out", "scores")[0] == 0
    train = ("tu-train", "run", "--model", tiny_model, "--scores", "scores", "--retain", "atlas:retain", "--epochs", 1, *SMALL,
             "--method", f"{MODULE}:method", "--out", "trained")  # fmt: skip
    assert run_cli(*train)[0] == 0
    forget(monkeypatch)
    assert run_cli(*train, "--resume")[0] == 0  # the same method
    with (place / f"{MODULE}.py").open("a") as handle:
        handle.write("# another line\n")
    forget(monkeypatch)
    code, _, err = run_cli(*train, "--resume")
    assert code == 2 and f"--resume: the method code is '{MODULE}:method sha256:" in err
    shutil.rmtree(place / "trained")
    assert run_cli(*train)[0] == 0  # anew it trains
