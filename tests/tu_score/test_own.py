"""Signals and span plans of one's own: what they give is checked, and edited code is not taken for the same."""

import shutil
import sys

import pytest

from shared import extensions
from shared.store.scores import open_store

MODULE = "own_signals"
TEXT = """
import numpy as np
from shared.weighting.importance import Signal
good = Signal(("logprob",), lambda columns, starts, recipe: -columns["logprob"])
short = Signal(("logprob",), lambda columns, starts, recipe: columns["logprob"][1:])
endless = Signal(("logprob",), lambda columns, starts, recipe: columns["logprob"] - np.inf)
formula = good.formula
def words(row): return [(0, 3)]
def past(row): return [(0, 3), (5, 10**6)]
def none(row): return None
def blank(row): return [(1, 1)]
def raising(row): return 1 / 0
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    write(monkeypatch, tmp_path, TEXT)
    return tmp_path


def write(monkeypatch, place, text):
    """As a new process finds it."""
    (place / f"{MODULE}.py").write_text(text)
    monkeypatch.setattr(extensions, "_imported", {})
    monkeypatch.delitem(sys.modules, MODULE, raising=False)


@pytest.fixture
def score(run_cli, tiny_model):
    def run(*more, out="scores"):
        return run_cli(
            "tu-score", "run", "--model", tiny_model, "--data", "atlas:forget", "--limit", 4, "--device", "cpu", "--out", out, *more
        )

    return run


@pytest.mark.parametrize(
    ("flag", "name", "said"),
    [
        ("uncertainty", "short", "gave numbers of the shape"),
        ("uncertainty", "endless", "gave numbers that are not finite"),
        ("uncertainty", "formula", "is of type function, expected a Signal"),
        ("knowledge", "gone", "has no gone"),
        ("spans", "past", f"its {MODULE}:past holds [5, 1000000), which reaches past the end of its question"),
        ("spans", "none", f"its {MODULE}:none should be a list of [start, end) character offsets"),
        ("spans", "blank", "which is no span"),
    ],
)
def test_what_cannot_be_used_is_one_line(place, score, flag, name, said):
    code, _, err = score("--set", f"{flag}={MODULE}:{name}")
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("error: ") and said in last


def test_a_column_that_is_none_of_the_store_is_refused_when_the_module_is_read(place, score, monkeypatch):
    write(monkeypatch, place, TEXT + 'odd = Signal(("logprobs",), good.formula)\n')
    code, _, err = score("--set", f"uncertainty={MODULE}:good")
    assert code == 2 and "reads 'logprobs', which is no column of numbers (did you mean 'logprob'?)" in err


@pytest.mark.parametrize("named", [("--set", f"uncertainty={MODULE}:good"), ("--spans", f"{MODULE}:words")], ids=["signal", "span plan"])
def test_a_run_does_not_go_on_with_edited_code(place, score, monkeypatch, named):
    assert score(*named, "--set", "part_tokens=100")[0] == 0
    shutil.rmtree(place / "scores" / "_progress", ignore_errors=True)
    write(monkeypatch, place, TEXT + "# another line\n")
    code, _, err = score(*named, "--set", "part_tokens=100")
    assert code == 2 and "code is another one now" in err, err


def test_a_signal_weighs_tokens_as_its_formula_says(place, score):
    assert score("--set", f"uncertainty={MODULE}:good", "--set", "unit=token", "--set", "copies=keep")[0] == 0
    for row in open_store(place / "scores").rows(("logprob", "importance", "is_target")):
        logprob = [value for value, target in zip(row["logprob"], row["is_target"], strict=True) if target]
        importance = [value for value, target in zip(row["importance"], row["is_target"], strict=True) if target]
        low, high = min(logprob), max(logprob)
        assert importance == pytest.approx([(high - value) / (high - low) for value in logprob], abs=1e-5)


def test_a_span_plan_that_raises_is_one_line(score, place):
    code, _, err = score("--spans", f"{MODULE}:raising")
    assert code == 2 and f"--spans {MODULE}:raising: raised ZeroDivisionError: division by zero" in err
