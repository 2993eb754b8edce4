"""Which engine measures what. The numbers of vLLM itself: tests/shared/engines/test_vllm_generate.py."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

from shared.engines import open as engines
from shared.engines import vllm, vllm_generate
from shared.engines.interface import TokenScores
from shared.engines.torch import TorchEngine
from tests.tu_eval.conftest import SUITE
from tu_eval.measure.config import EvalConfig
from tu_eval.measure.kept import KeptMeasurements
from tu_eval.measure.pieces import Subject


@pytest.fixture
def log(monkeypatch):
    """What was opened and closed, in order; each stands in for an engine and does what that does."""
    seen: list[str] = []
    score = {"score": lambda requests, advance=None: [TokenScores(np.zeros(len(r.wanted)), np.zeros(len(r.wanted))) for r in requests]}
    write = {"generate": lambda prompts, **how: [[] for _ in prompts]}

    def stand_in(name, **does):
        def opened(folder, **options):
            seen.append(name)
            return SimpleNamespace(describe=lambda: {"name": name}, close=lambda: seen.append(f"{name} closed"), **does)

        return opened

    monkeypatch.setattr(vllm, "VllmEngine", stand_in("scores", **score))
    monkeypatch.setattr(vllm_generate, "VllmGenerator", stand_in("text", **write))
    monkeypatch.setattr("shared.engines.vllm_setup.require_vllm", lambda: None)
    monkeypatch.setattr(TorchEngine, "load", stand_in("torch", **score, **write))
    return seen


def subject(tmp_path, **fields) -> Subject:
    return Subject(tmp_path, EvalConfig(model="m", suite=SUITE, out="o", **fields), KeptMeasurements(tmp_path / "store", {}))


def test_vllm_scores_then_writes_and_torch_takes_gradients_one_at_a_time(log, tmp_path):
    one = subject(tmp_path, engine="vllm")
    assert one.scorer is one.scorer and one.generator is one.generator and one.engine is one.engine
    one.close()
    assert log == ["scores", "scores closed", "text", "text closed", "torch", "torch closed"]


def test_what_vllm_scores_is_never_scored_by_the_torch_engine_that_is_open(log, tmp_path):
    one = subject(tmp_path, engine="vllm")
    assert one.engine.describe() == {"name": "torch"} and one.scorer.describe() == {"name": "scores"}
    assert one.engine.describe() == {"name": "torch"} and one.generator.describe() == {"name": "text"}
    assert log == ["torch", "torch closed", "scores", "scores closed", "torch", "torch closed", "text"]


def test_torch_does_all_with_one_engine(log, tmp_path):
    one = subject(tmp_path, engine="torch")
    assert one.scorer is one.generator is one.engine
    one.close()
    one.close()
    assert log == ["torch", "torch closed"]


@pytest.mark.parametrize(("device", "fits", "name"), [(None, True, "scores"), (None, False, "torch"), ("cuda", True, "torch")])
def test_auto_takes_vllm_where_it_fits_and_no_device_is_named(log, tmp_path, monkeypatch, device, fits, name):
    monkeypatch.setattr(engines, "_vllm_fits", lambda: fits)
    assert subject(tmp_path, device=device).scorer.describe() == {"name": name}


def test_each_piece_names_the_engine_that_made_it(log, tmp_path):
    one = subject(tmp_path, engine="vllm")
    assert one.piece("a", lambda: [{"x": len(one.generator.generate([[1]]))}]) == ([{"x": 1}], {"name": "text"})
    assert one.piece("b", lambda: [{"x": len(one.scorer.score([]))}])[1] == {"name": "scores"}
    assert one.piece("a", lambda: pytest.fail("measured again"))[1] == {"name": "text"}


@pytest.mark.parametrize(
    ("engine", "message"), [("vllm", "--engine vllm: vLLM is not installed; "), ("vlm", "engine: got 'vlm' (did you mean 'vllm'?)")]
)
def test_an_engine_that_is_not_there_ends_with_one_line(run_cli, tiny_model, tmp_path, monkeypatch, engine, message):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "vllm" else found(name, *rest))
    out = tmp_path / "out"
    code, _, err = run_cli("tu-eval", "run", "--model", tiny_model, "--suite", SUITE, "--engine", engine, "--out", out)
    assert code == 2 and err.startswith("error: ") and message in err and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())
