"""Ratios of several ranks to one process, on a tiny model; runs that compute different things are not compared."""

import json
import sys

import pytest

from benchmarks import parallel
from tests.tu_train.conftest import FORGET, RETAIN


def test_ratios_are_of_medians_and_other_losses_are_refused():
    one = [{"speed": 10, "peak": 100, "loss": 2.0}]
    two = [{"speed": s, "peak": p, "loss": 2.00001} for s, p in ((18, 60), (900, 900), (1, 1))]
    assert parallel.compare(one, two) == {"two_ranks": 1.8, "rank_memory": 0.6}
    with pytest.raises(SystemExit, match="do not compute the same"):
        parallel.compare(one, [{**two[0], "loss": 2.1}])


def test_it_runs_on_a_tiny_model(tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("shared.lm.smollm2.cache_folder", lambda: tmp_path)
    sizes = ("--rows", "6", "--batch", "3", "--steps", "1", "--rounds", "1")
    named = ("--model", str(tiny_model), "--data", FORGET, "--retain", RETAIN)
    monkeypatch.setattr(sys, "argv", ["parallel", "--json", "--only", "ranks", *sizes, *named])
    parallel.main()
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"two_ranks", "rank_memory"} and min(found.values()) > 0
