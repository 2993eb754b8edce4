"""Which settings change no result is said at each setting; the lists of resuming, studies and seeds are that one."""

import os
import signal
from typing import Any

import pytest

from shared.records import without_effect
from tests.tu_train.conftest import RETAIN, weights_of
from tu_train.config import FinetuneConfig, UnlearnConfig
from tu_train.saving.record import changes_nothing
from tu_train.stopping.interrupts import EXIT_SAVED

LATER = {"exact", "forget", "eval_suite", "eval_options"}
"""settings that earlier records do not have"""
NEEDED: dict[str, Any] = {"model": "m", "scores": "s", "retain": "r", "out": "o"}


def test_settings_that_change_nothing_are_those_that_earlier_records_are_read_with():
    free = UnlearnConfig(**NEEDED, eval_every=1)
    bound = UnlearnConfig(**NEEDED, eval_every=1, stop_when="forget_nll>1")
    assert changes_nothing(free) - LATER == without_effect({"stop_when": None})
    assert changes_nothing(bound) - LATER == without_effect({"stop_when": "forget_nll>1"})
    assert changes_nothing(bound) == changes_nothing(free) - {"eval_every"}
    kept = UnlearnConfig(**NEEDED, eval_every=1, eval_suite="atlas", keep_best="privleak")
    suite = {"eval_suite", "eval_options"}
    assert changes_nothing(kept) == changes_nothing(free) - suite - {"eval_every"}
    learning = changes_nothing(FinetuneConfig(model="m", data="d", out="o"))
    assert learning == changes_nothing(bound) - suite - {"scores", "retain_scores", "forget"}


@pytest.fixture
def stopped(run_cli, target, scores, tmp_path, monkeypatch):
    """`stopped(*arguments)`: a run that was told to stop in its first step -> the command that goes on."""
    from tu_train import loop

    forward_pass = loop.forward_pass
    usual = ("--model", target, "--scores", scores, "--retain", RETAIN, "--device", "cpu", "--epochs", 2, "--out", tmp_path / "out",
             "--set", "batch_size=3", "--set", "learning_rate=1e-3")  # fmt: skip

    def stopping(*given, **more):
        os.kill(os.getpid(), signal.SIGTERM)
        return forward_pass(*given, **more)

    def begin(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(loop, "forward_pass", stopping)
            code, _, err = run_cli("tu-train", "run", *usual, *arguments)
        assert code == EXIT_SAVED, err
        return lambda *more: run_cli("tu-train", "run", *usual, *arguments, "--resume", *more)

    return begin


def test_what_changes_nothing_may_differ_on_resume(stopped, unlearn, tmp_path):
    go_on = stopped("--eval-every", 1)
    code, _, err = go_on("--eval-every", 2, "--set", "batch_tokens=4096", "--set", "keep_checkpoints=1", "--set", "checkpointing=false")
    assert code == 0, err
    assert weights_of(tmp_path / "out") == weights_of(unlearn())


def test_how_often_is_evaluated_may_not_differ_where_it_moves_the_end(stopped):
    go_on = stopped("--eval-every", 2, "--stop-when", "forget_nll>900")
    code, _, err = go_on("--eval-every", 1)
    assert code == 2 and "eval_every is 1, but the run was started with 2; --set eval_every=2" in err
    assert go_on()[0] == 0
