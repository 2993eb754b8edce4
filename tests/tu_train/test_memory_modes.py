"""Weights and moments in few bytes, through the run: it forgets as float32 does, resumes to the same bytes, fills what
the dry run says, and writes what it trained."""

import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import tu_train.loop
import tu_train.run
from shared.errors import ConfigError
from shared.lm.models import load_model, load_tokenizer
from shared.lm.saved import save_model
from tests.conftest import build_sentencepiece
from tests.tu_train.conftest import weights_of
from tests.tu_train.test_estimate import Real, config_of
from tests.tu_train.test_suite import RUSSIAN
from tu_train.config import UnlearnConfig
from tu_train.estimate import estimate
from tu_train.model import peak
from tu_train.model.nf4 import in_four_bits, in_full
from tu_train.plan import check_ranks
from tu_train.run import run_unlearn

BFLOAT16 = {"dtype": "bfloat16", "weights": "bfloat16"}
MODES = {
    "bfloat16": BFLOAT16,
    "8 bits": {**BFLOAT16, "moments": "8bit"},
    "4 bits": {**BFLOAT16, "moments": "4bit"},
    "moments on the CPU": {"moments_on": "cpu"},
    "LoRA": {**BFLOAT16, "lora": 4},
    "QLoRA": {**BFLOAT16, "weights": "nf4", "lora": 4},
}
EPOCHS = 4


def forgotten(out):
    """Forget probabilities, step by step."""
    return [math.exp(-json.loads(line)["forget_nll"]) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def curve(target, scores, tmp_path_factory):
    """`curve(**fields)` -> output folder of NPO."""
    from tests.tu_train.conftest import RETAIN

    known = {}

    def make(**fields):
        key = json.dumps(fields, sort_keys=True)
        if key not in known:
            out = tmp_path_factory.mktemp("out") / "out"
            known[key] = run_unlearn(UnlearnConfig(
                scores=str(scores), retain=RETAIN, out=str(out), method="npo", device="cpu", epochs=EPOCHS, batch_size=3,
                **{"model": str(target), "learning_rate": 1e-3, **fields},
            ))  # fmt: skip
        return known[key]

    return make


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "QLoRA"])
def test_it_forgets_as_float32_does(mode, curve):
    fields = MODES[mode]
    lora = {"lora": fields["lora"]} if "lora" in fields else {}
    rate = {"learning_rate": 1e-2} if lora else {}
    mine, whole = forgotten(curve(**fields, **rate)), forgotten(curve(**lora, **rate))
    assert whole[-1] < 0.9 * whole[0]
    assert mine == pytest.approx(whole, rel=0.1)


def test_lora_over_nf4_forgets_as_lora_over_the_same_weights_in_full_does(curve, target, tmp_path):
    """Four bits change what a model this small knows, so it is compared with itself."""
    model = load_model(target, dtype=torch.bfloat16, device=torch.device("cpu")).requires_grad_(False)
    in_four_bits(model)
    in_full(model)
    save_model(model, load_tokenizer(target), tmp_path / "rounded", source=target, dtype=torch.float32)
    rate = {"learning_rate": 1e-2}
    mine = forgotten(curve(**MODES["QLoRA"], **rate))
    whole = forgotten(curve(**rate, lora=4, model=str(tmp_path / "rounded"), allow_other_model=True))
    assert whole[-1] < 0.9 * whole[0]
    assert mine == pytest.approx(whole, rel=0.1)


@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_run_ends_in_the_same_bytes(mode, curve, target, scores, tmp_path, monkeypatch):
    from tests.tu_train.conftest import RETAIN

    rate = {"learning_rate": 1e-2} if "lora" in MODES[mode] else {}
    whole, backward, calls = curve(**MODES[mode], **rate), tu_train.loop.backward, []

    def broken(*arguments):
        calls.append(None)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return backward(*arguments)

    config = {"model": str(target), "scores": str(scores), "retain": RETAIN, "out": str(tmp_path / "out"), "method": "npo",
              "device": "cpu", "epochs": EPOCHS, "batch_size": 3, "save_every": 2, "learning_rate": 1e-3, **rate,
              **MODES[mode]}  # fmt: skip
    monkeypatch.setattr(tu_train.loop, "backward", broken)
    with pytest.raises(KeyboardInterrupt):
        run_unlearn(UnlearnConfig(**config))
    monkeypatch.setattr(tu_train.loop, "backward", backward)
    again = run_unlearn(UnlearnConfig(**config, resume=True))
    assert weights_of(again) == weights_of(whole)
    assert (again / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()


@pytest.fixture(scope="module")
def russian(target, tmp_path_factory):
    """A model with a sentencepiece tokenizer, and rows in Russian, which it spells in bytes."""
    folder = tmp_path_factory.mktemp("russian")
    load_model(target, dtype=torch.float32, device=torch.device("cpu")).save_pretrained(folder / "model")
    build_sentencepiece().save_pretrained(folder / "model")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in RUSSIAN), encoding="utf-8")
    return {"model": str(folder / "model"), "forget": str(folder / "rows.jsonl")}


@pytest.mark.parametrize("mode", MODES)
def test_a_sentencepiece_model_learns_nothing_of_a_russian_text_and_resumes_to_the_same_bytes(mode, russian, tmp_path, monkeypatch):
    fields = {**russian, "retain": "none", "method": "ga", "tokens": "all", "device": "cpu", "steps": 4, "batch_size": 2, "save_every": 1,
              "learning_rate": 1e-2 if "lora" in MODES[mode] else 1e-3, **MODES[mode]}  # fmt: skip
    whole, backward, calls = run_unlearn(UnlearnConfig(**fields, out=str(tmp_path / "whole"))), tu_train.loop.backward, []
    probabilities = forgotten(whole)
    assert len(probabilities) == 4 and probabilities[-1] < probabilities[0]
    tokenizer, text = load_tokenizer(whole), RUSSIAN[0]["answer"]
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text

    def broken(*given):
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return backward(*given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tu_train.loop, "backward", broken)
        run_unlearn(UnlearnConfig(**fields, out=str(tmp_path / "out")))
    assert sorted(p.name for p in (tmp_path / "out.unfinished").glob("checkpoint-*")) == ["checkpoint-000001", "checkpoint-000002"]
    again = run_unlearn(UnlearnConfig(**fields, out=str(tmp_path / "out"), resume=True))
    assert weights_of(again) == weights_of(whole)
    assert (again / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()


@pytest.mark.parametrize("mode", MODES)
def test_it_fills_what_the_dry_run_says(mode, target, tmp_path, monkeypatch):
    config, tensors = config_of(target, tmp_path / "out", **MODES[mode]), []
    said, optimizers, backward, make = estimate(config).memory, [], tu_train.loop.backward, tu_train.loop.make_optimizer

    def watched(packed, *more):
        real, held = Real(), [*packed.model.parameters(), *packed.model.buffers()]
        real.known(iter(held))
        with real:
            came_to = backward(packed, *more)
        tensors.append((peak.bytes_of(held), real.most))
        return came_to

    monkeypatch.setattr(tu_train.loop, "backward", watched)
    monkeypatch.setattr(tu_train.loop, "make_optimizer", lambda *a, **k: optimizers.append(make(*a, **k)) or optimizers[0])
    run_unlearn(config)
    moments = sum(t.nbytes for entry in optimizers[0].state.values() for t in entry.values())
    held, most = (max(values) for values in zip(*tensors, strict=True))
    assert held == said.weights
    assert said.peak == pytest.approx(held + moments + most, rel=0.15)


@pytest.mark.parametrize("mode", ["8 bits", "QLoRA"])
def test_the_output_has_the_dtype_of_the_input(mode, curve, capsys):
    rate = {"learning_rate": 1e-2} if "lora" in MODES[mode] else {}
    for name, expected in ((None, torch.float32), ("bfloat16", torch.bfloat16)):
        out = curve(**MODES[mode], **rate, **({"save_dtype": name} if name else {}))
        assert {t.dtype for t in load_file(out / "model.safetensors").values()} == {expected}


def test_checkpoints_hold_bfloat16(target, tmp_path, monkeypatch):
    monkeypatch.setattr(tu_train.run, "write_output", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(Exception, match="full"):
        run_unlearn(config_of(target, tmp_path / "out", **MODES["8 bits"]))
    file = next((tmp_path / "out.unfinished").rglob("state.safetensors"))
    with safe_open(file, "pt") as held:
        assert {held.get_tensor(n).dtype for n in held.keys() if n.startswith("model/")} == {torch.bfloat16}  # noqa: SIM118


@pytest.mark.parametrize(("fields", "expected"), [
    ({"weights": "nf4", "dtype": "bfloat16"}, "quantised weights cannot train; add --lora RANK"),
    ({"weights": "bfloat16"}, "add --dtype bfloat16"),
    ({"moments": "8bit", "optimizer": "adamw8bit"}, "moments=8bit is for optimizer=adamw, this is adamw8bit"),
    ({"optimizer": "adamw_transformers", **BFLOAT16}, "weights=bfloat16 is for optimizer=adamw"),
    ({"rounding": "nearest"}, "only weights that train in bfloat16"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(fields, expected, target):
    with pytest.raises(ConfigError, match=expected):
        config_of(target, "-", **fields)


def test_a_quantised_model_is_not_trained_whole(target, tmp_path, run_cli):
    import shutil

    model = tmp_path / "model"
    shutil.copytree(target, model)
    (model / "training.json").unlink()  # it knows the bytes of the other configuration
    entries = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**entries, "quantization_config": {"quant_method": "bitsandbytes"}}))
    from tests.tu_train.conftest import FORGET, RETAIN

    unlearning = ("run", "--forget", FORGET, "--retain", RETAIN, "--method", "graddiff", "--tokens", "all")
    for verb, *more in (unlearning, (*unlearning, "--dry-run"), ("finetune", "--data", RETAIN)):
        code, out, err = run_cli("tu-train", verb, "--model", model, *more, "--out", tmp_path / "out", "--device", "cpu")
        assert (code, out) == (2, "") and "its weights are quantised (bitsandbytes)" in err.splitlines()[-1] and "--lora RANK" in err
        assert err.count("error: ") == 1 and not (tmp_path / "out").exists()
    for verb, *more in (unlearning, ("finetune", "--data", RETAIN)):
        code, out, err = run_cli("tu-train", verb, "--model", target, *more, "--out", tmp_path / "out", "--device", "cpu", "--dtype",
                                 "bfloat16", "--set", "weights=nf4")  # fmt: skip
        assert (code, out) == (2, "") and err.startswith("error: --set weights=nf4: quantised weights cannot train; add --lora RANK")
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "fields",
    [{"optimizer": "adamw8bit"}, {"moments": "8bit"}, {"moments_on": "cpu"}, {"weights": "bfloat16", "dtype": "bfloat16"}],
    ids=str,
)
def test_what_several_ranks_cannot_split_is_refused(fields, target):
    from types import SimpleNamespace

    plan = SimpleNamespace(config=config_of(target, "-", **fields), objective=SimpleNamespace(pad_id=None))
    name = next(iter(fields))
    with pytest.raises(ConfigError, match=f"{name}={fields[name]}.*2 ranks"):
        check_ranks(plan, 2)
