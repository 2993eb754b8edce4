"""What a finished run leaves can be written: tried before the first step, in the dtype of the model that training began
with."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from shared.lm import saved
from shared.lm.models import load_model, load_tokenizer
from shared.lm.saved import save_model, stored_dtype, swallowed

CPU = torch.device("cpu")


def finetune(run_cli, model: Path, out: Path, *more) -> tuple[int, str]:
    code, _, err = run_cli(
        "tu-train", "finetune", "--model", model, "--data", "atlas:forget", "--limit", 4, "--epochs", 1, *more, "--out", out
    )
    return code, err


@pytest.fixture
def narrow(tiny_model, tmp_path) -> Path:
    """The tiny model in bfloat16."""
    folder = tmp_path / "narrow"
    save_model(load_model(tiny_model, dtype=torch.bfloat16, device=CPU), load_tokenizer(tiny_model), folder, source=tiny_model)
    return folder


def test_generation_settings_that_contradict_themselves_lose_no_training(tiny_model, tmp_path, run_cli):
    """As Llama 2 and Vicuna have them; transformers refuses to write them."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    settings = '{"do_sample": false, "temperature": 0.9, "top_p": 0.6}'
    (folder / "generation_config.json").write_text(settings)
    code, err = finetune(run_cli, folder, tmp_path / "out")
    assert code == 0, err
    assert (tmp_path / "out" / "generation_config.json").read_text() == settings
    code, err = finetune(run_cli, folder, tmp_path / "lora", "--lora", 2)
    assert code == 0, err


def test_what_cannot_be_written_is_said_before_the_first_step(tiny_model, tmp_path, run_cli, monkeypatch):
    def refuses(self, *_, **__):
        raise ValueError("cannot be serialised")

    monkeypatch.setattr("transformers.PreTrainedConfig.save_pretrained", refuses)
    code, err = finetune(run_cli, tiny_model, tmp_path / "out")
    assert code == 2 and "cannot be written, so nothing was trained: cannot be serialised" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == []


def test_an_adapter_that_cannot_be_written_is_said_before_the_first_step(tiny_model, tmp_path, run_cli, monkeypatch):
    def refuses(self, *_, **__):
        raise ValueError("no such layer")

    monkeypatch.setattr("peft.PeftModel.save_pretrained", refuses)
    code, err = finetune(run_cli, tiny_model, tmp_path / "out", "--lora", 2)
    assert code == 2 and "nothing was trained: no such layer" in err and "steps/s" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == []


def test_a_disk_without_room_for_the_model_is_said_before_the_first_step(tiny_model, tmp_path, run_cli, monkeypatch):
    monkeypatch.setattr(saved.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    code, err = finetune(run_cli, tiny_model, tmp_path / "out")
    assert code == 2 and "the disk has 1 kB left; nothing was trained" in err


def test_a_picture_that_cannot_be_drawn_loses_no_training(tiny_model, tmp_path, run_cli, monkeypatch):
    from tu_train.saving import output

    def breaks(*_):
        raise RuntimeError("no font")

    monkeypatch.setattr(output, "draw_curves", breaks)
    code, err = finetune(run_cli, tiny_model, tmp_path / "out")
    assert code == 0 and "curves.png was not made: RuntimeError: no font" in err
    assert (tmp_path / "out" / "model.safetensors").exists() and not (tmp_path / "out" / "curves.png").exists()


@pytest.mark.parametrize("lora", [(), ("--lora", 2)])
def test_the_output_has_the_dtype_of_the_input(narrow, tmp_path, run_cli, lora):
    code, err = finetune(run_cli, narrow, tmp_path / "out", *lora)
    assert code == 0 and f"written in bfloat16, the dtype of {narrow}" in err
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16} and stored_dtype(tmp_path / "out") == "bfloat16"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert json.loads((tmp_path / "out" / "training.json").read_text())["output_dtype"] == "bfloat16"
    assert "bfloat16" in (tmp_path / "out" / "README.md").read_text()
    code, err = finetune(run_cli, narrow, tmp_path / "wide", *lora, "--set", "save_dtype=float32")
    wide = load_file(tmp_path / "wide" / "model.safetensors")
    assert code == 0 and {t.dtype for t in wide.values()} == {torch.float32}
    for name, tensor in tensors.items():
        assert torch.equal(wide[name].to(torch.bfloat16), tensor), "the same training, rounded once at its end"


def test_a_float32_model_stays_as_it_is(tiny_model, tmp_path, run_cli):
    code, err = finetune(run_cli, tiny_model, tmp_path / "out")
    assert code == 0 and "written in" not in err and stored_dtype(tmp_path / "out") == "float32"


def test_how_much_rounding_undoes_is_counted(narrow):
    """Of four changed numbers, a step smaller than bfloat16 can tell is undone in two."""
    model = load_model(narrow, dtype=torch.float32, device=CPU)
    weight = model.model.layers[0].mlp.up_proj.weight
    with torch.no_grad():
        weight[0, :2] *= 1 + 2**-12
        weight[0, 2:4] *= 1.5
    assert swallowed(model, narrow, torch.bfloat16) == (2, 4)
    assert swallowed(model, narrow, torch.float32) == (0, 4)
