"""Opening and closing vLLM for our engines and for lm-eval, with stand-ins for vLLM. The real one: test_vllm_engine.py,
test_vllm_generate.py and tests/tu_eval/harness/test_benchmarks.py."""

import contextlib
import importlib.util
import json
from types import SimpleNamespace

import pytest
import torch

from shared.engines import vllm_open, vllm_setup
from shared.engines.vllm_open import close_vllm, prepare_vllm, start_vllm
from shared.errors import ConfigError, ModelError
from tu_eval.harness.backends import BACKEND


class Llm:
    """Stands in for vLLM's own object: `log` gets what is done with it."""

    def __init__(self, log):
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=lambda: log.append("shut down")))


@pytest.fixture
def log(monkeypatch):
    done: list[str] = []
    monkeypatch.setattr(vllm_open, "threads_for_each_rank", lambda ranks: contextlib.nullcontext(done.append(f"{ranks} ranks")))
    monkeypatch.setattr(vllm_open, "free", lambda: done.append("freed"))
    monkeypatch.setattr(vllm_open, "_open", type(vllm_open._open)())
    return done


def refuse(error):
    raise error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("long story\nno kernel for heads of 16\n"), "no kernel for heads of 16"),
        (ValueError("Value error, too long [type=value_error, input=1]\n  see https://errors.pydantic.dev/2/v"), "too long"),
        (KeyError(), "KeyError"),
        (Exception("a worker failed"), "a worker failed"),
    ],
)
def test_a_model_that_does_not_load_is_one_line_that_names_the_way_out(log, error, reason):
    for choice, way_out in (({}, "--engine torch"), ({"choice": BACKEND}, "--backend hf")):
        with pytest.raises(ModelError) as failure:
            start_vllm(lambda: refuse(error), refusal="model m: vLLM cannot load it", **choice)
        assert str(failure.value) == f"model m: vLLM cannot load it: {reason}; use {way_out}"
    assert log == ["1 ranks", "freed"] * 2 and not vllm_open._open


def test_a_first_forward_pass_that_fails_shuts_vllm_down(log):
    with pytest.raises(ModelError, match="m: no kernel; use --engine torch"):
        start_vllm(lambda: Llm(log), lambda llm: refuse(RuntimeError("no kernel")), refusal="m", ranks=2)
    assert log == ["2 ranks", "shut down", "freed"]


def test_what_says_nothing_of_the_model_stays_the_error_that_it_is(log):
    with pytest.raises(ZeroDivisionError):
        start_vllm(lambda: Llm(log), lambda llm: 1 / 0, refusal="m")
    assert log == ["1 ranks", "shut down"]


def test_the_function_that_sets_threads_comes_back(log, monkeypatch):
    own = torch.set_num_threads

    def start():
        monkeypatch.setattr(torch, "set_num_threads", refuse)
        return Llm(log)

    start_vllm(start, refusal="m")
    assert torch.set_num_threads is own


def test_one_at_a_time_whoever_holds_it(log, monkeypatch):
    """lm-eval's model object holds vLLM as its `model`."""
    monkeypatch.setattr(vllm_open, "require_vllm", lambda choice: None)
    monkeypatch.setattr(vllm_open, "prepare_environment", lambda *, scoring: log.append(f"scoring {scoring}"))
    monkeypatch.setattr(vllm_open, "fitting_device", lambda device, choice: "cpu")
    assert prepare_vllm(None, scoring=False, choice=BACKEND) == "cpu"
    holder = start_vllm(lambda: SimpleNamespace(model=Llm(log)), refusal="m", llm_of=lambda lm: lm.model)
    with pytest.raises(RuntimeError, match="a vLLM engine is open in this process; close it first"):
        prepare_vllm(None, scoring=True)
    close_vllm(holder, "model")
    assert not hasattr(holder, "model") and log == ["scoring False", "1 ranks", "shut down", "freed"]
    assert prepare_vllm(None, scoring=True) == "cpu"


@pytest.mark.parametrize(
    ("choice", "named"), [({}, ("--engine vllm", "--engine torch")), ({"choice": BACKEND}, ("--backend vllm", "--backend hf"))]
)
def test_without_vllm_the_flag_that_asked_for_it_is_named(monkeypatch, choice, named):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "vllm" else found(name, *rest))
    with pytest.raises(ConfigError) as failure:
        prepare_vllm(None, scoring=False, **choice)
    line = str(failure.value)
    assert line.startswith(f"{named[0]}: vLLM is not installed; install it with pip install ") and line.endswith(
        f"; {named[1]} needs neither"
    )


@pytest.mark.parametrize(("entry", "verb"), [("mamba_chunk_size", "score"), ("chunk_size", "write with")])
def test_recurrent_states_that_the_cpu_build_mixes_up_are_refused_there_alone(entry, verb, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["FalconH1ForCausalLM"], entry: 256}))
    monkeypatch.setattr(vllm_setup, "text_architectures", lambda: {"FalconH1ForCausalLM": ("falcon_h1", "FalconH1ForCausalLM")})
    assert vllm_setup.known_architecture(tmp_path, verb, "cuda") == "FalconH1ForCausalLM"
    with pytest.raises(ModelError, match=rf"vLLM cannot {verb} FalconH1ForCausalLM: its CPU build mixes up .*; use --engine torch$"):
        vllm_setup.known_architecture(tmp_path, verb, "cpu")
