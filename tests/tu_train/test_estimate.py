"""`tu-train run --dry-run`: what it says is what training holds, and it reads no weight and writes nothing."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import tu_train.loop
import tu_train.run
from tests.conftest import build_sentencepiece, build_tokenizer
from tests.tu_train.conftest import FORGET, RETAIN, ROWS
from tu_train.config import UnlearnConfig
from tu_train.estimate import estimate
from tu_train.methods.table import METHODS
from tu_train.model import peak
from tu_train.run import run_unlearn

BOUND = 0.02
"""relative; of what tensors fill. What is allocated and resident beside that: benchmarks/memory.py"""


@pytest.fixture(scope="module", params=["byte level", "sentencepiece"])
def model(request, tmp_path_factory):
    """Three million random weights."""
    tokenizer = build_tokenizer() if request.param == "byte level" else build_sentencepiece()
    config = LlamaConfig(vocab_size=4096, hidden_size=256, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                         intermediate_size=512, max_position_embeddings=512, pad_token_id=tokenizer.pad_token_id,
                         bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    folder = tmp_path_factory.mktemp("model")
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def config_of(model, out, **fields):
    usual = {"forget": FORGET, "retain": RETAIN, "method": "graddiff", "tokens": "all", "device": "cpu", "epochs": 1, "batch_size": 6}
    return UnlearnConfig(model=str(model), out=str(out), **{**usual, **fields})


class Real(peak.Peak):
    """The same count over tensors with numbers."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        peak.tree_map_only(torch.Tensor, self._count, out)
        return out


@pytest.mark.parametrize("fields", [
    {}, {"checkpointing": False}, {"dtype": "bfloat16"}, {"lora": 4}, {"lora": 4, "checkpointing": True}, {"method": "undial"},
], ids=str)  # fmt: skip
def test_the_peak_of_a_step_is_the_one_said(fields, model, tmp_path, monkeypatch):
    config, measured, backward = config_of(model, tmp_path / "out", **fields), [], tu_train.loop.backward
    said = estimate(config).memory

    def watched(packed, passes, totals, objective, state, reference, *more):
        real = Real()
        kept = [before for _, before in reference.kept] if reference else []
        real.known(iter([*packed.model.parameters(), *packed.model.buffers(), *kept]))
        with real:
            noted = backward(packed, passes, totals, objective, state, reference, *more)
        held = [*packed.model.parameters(), *packed.model.buffers()]
        assert peak.bytes_of(held) == said.weights and peak.bytes_of(kept) == said.reference
        assert peak.bytes_of(p for p in packed.model.parameters() if p.requires_grad) == said.gradients
        measured.append(real.most)
        return noted

    monkeypatch.setattr(tu_train.loop, "backward", watched)
    run_unlearn(config)
    assert said.gradients + said.head + said.activations == pytest.approx(max(measured), rel=BOUND)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_an_estimate(method, target, scores):
    extra = {"altpo": {"alternate_key": "perturbed_answer"}, "rmu": {"options": {"layer": 1.0}}}.get(method, {})
    config = config_of(target, "-", method=method, forget=None, scores=str(scores), **extra)
    said = estimate(config)
    assert said.steps == 1 and said.rows["forget_rows"] == ROWS and said.memory.activations > 0


def test_steps_and_tokens_are_those_of_the_run(target, tmp_path):
    config = config_of(target, tmp_path / "out", steps=5, epochs=None, batch_size=4)
    said = estimate(config)
    record = json.loads((run_unlearn(config) / "training.json").read_text())
    assert {**said.rows, "steps": said.steps} == record["counts"]


def test_the_command_writes_nothing(run_cli, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = ("tu-train", "run", "--model", model, "--forget", FORGET, "--retain", RETAIN, "--method", "graddiff", "--tokens", "all")
    code, out, err = run_cli(*named, "--dry-run", "--device", "cpu")
    assert code == 0 and "peak memory      about" in out and "trained" in out, err
    assert not list(tmp_path.iterdir())
    code, out, err = run_cli(*named, "--dry-run", "--tokens", "hard")
    assert (code, out) == (2, "") and len(err.splitlines()) == 1


def test_out_of_memory_says_what_to_change(run_cli, target, tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(tu_train.loop, "backward", full)
    named = ("--model", target, "--forget", FORGET, "--retain", RETAIN, "--method", "graddiff", "--tokens", "all", "--device", "cpu")
    code, _, err = run_cli("tu-train", "run", *named, "--set", "checkpointing=false", "--out", tmp_path / "out")
    line = err.splitlines()[-1]
    assert code == 2 and line.startswith("error: out of memory on cpu (CUDA out of memory. Tried to allocate 2 GiB)"), err
    ways = ["batch_tokens=1024", "checkpointing=true", "--dtype bfloat16 (", "moments=8bit", "weights=bfloat16", "--lora 16"]
    assert [line.index(way) for way in ways] == sorted(line.index(way) for way in ways)
    assert not list(tmp_path.iterdir())
