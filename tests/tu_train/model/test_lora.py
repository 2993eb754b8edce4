"""Adapters: what they are put on, that the merged folder is the model with them, and what lies beside it."""

import sys

import pytest
import torch
from peft import PeftModel
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from transformers import AutoModelForCausalLM, MambaConfig

from shared.errors import ConfigError
from shared.lm.models import load_model
from tests.tu_train.conftest import FULL, RETAIN
from tu_train.model.lora import WARNING, add_lora, export_lora

RANK = 3
ATTENTION = tuple(f"self_attn.{k}_proj" for k in "qkvo")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
SHORT = ("--device", "cpu", "--epochs", 1, "--learning-rate", 1e-2)


def model_of(folder):
    return load_model(folder, dtype=torch.float32, device=torch.device("cpu")).eval()


def adapted(model):
    return {name.removesuffix(".lora_A.default.weight") for name, _ in model.named_parameters() if name.endswith("lora_A.default.weight")}


def logits(model):
    ids = torch.tensor([[1, 40, 7, 99, 3, 250, 8]])
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ((), [f"{k}.self_attn.{name}_proj" for k in (0, 1) for name in "qv"]),
        (("all-linear",), [f"{k}.{name}" for k in (0, 1) for name in (*ATTENTION, *MLP)]),
        (("q_proj", "mlp.up_proj"), [f"{k}.{name}" for k in (0, 1) for name in ("self_attn.q_proj", "mlp.up_proj")]),
        (("layers.1.mlp.up_proj",), ["1.mlp.up_proj"]),
    ],
)
def test_adapters_go_on_the_linear_layers_of_the_blocks_or_on_those_named(targets, expected, tiny_model):
    model = model_of(tiny_model)
    before = logits(model)
    add_lora(model, RANK, None, targets)
    assert adapted(model) == {f"model.layers.{name}" for name in expected}
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in model.named_parameters() if "lora_" in n} and trained
    assert torch.equal(logits(model), before), "an adapter begins as nothing"


def test_an_architecture_that_peft_does_not_know_gets_adapters_on_all_linear_layers(tiny_model):
    model = model_of(tiny_model)
    model.config.model_type = "unheard-of"
    add_lora(model, RANK, None, ())
    assert len(adapted(model)) == 2 * len((*ATTENTION, *MLP))


def test_gpt2_keeps_its_linear_layers_as_convolutions_and_gets_adapters_too(make_tiny):
    model = model_of(make_tiny("GPT2"))
    add_lora(model, RANK, None, ("all-linear",))
    assert adapted(model) == {f"transformer.h.{k}.{n}" for k in (0, 1) for n in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}


@pytest.mark.parametrize("targets", [(), ("all-linear",)])
def test_in_a_block_with_recurrence_every_layer_but_the_last_gets_adapters(targets):
    """Its kernels read that one past an adapter."""
    model = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=100, hidden_size=16, num_hidden_layers=2, state_size=4))
    add_lora(model, RANK, None, targets)
    assert adapted(model) == {f"backbone.layers.{k}.mixer.{name}" for k in (0, 1) for name in ("in_proj", "x_proj", "dt_proj")}


def test_a_layer_that_peft_refuses_is_one_line():
    model = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=100, hidden_size=16, num_hidden_layers=2, state_size=4))
    with pytest.raises(ConfigError, match=r"^--lora 3: .*'out_proj' is incompatible with Mamba"):
        add_lora(model, RANK, None, ("out_proj",))


def test_layers_that_peft_names_by_a_pattern_over_whole_names(tiny_model, monkeypatch):
    """Gemma 4, whose name is known with such a pattern."""
    model = model_of(tiny_model)
    monkeypatch.setitem(TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, "llama", r".*layers\.1\..*\.(q_proj|v_proj)")
    add_lora(model, RANK, None, ())
    assert adapted(model) == {f"model.layers.1.self_attn.{name}_proj" for name in "qv"}


@pytest.mark.parametrize("target", ["q_prj", "lm_head", "proj"])
def test_an_ending_that_names_no_linear_layer_lists_near_ones(target, tiny_model):
    with pytest.raises(ConfigError, match=f"lora_targets: '{target}' is the ending of no linear layer's name; near names: model\\."):
        add_lora(model_of(tiny_model), RANK, None, ("v_proj", target))


def test_without_peft_one_line_names_the_extra(tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"token-unlearn\[lora\]"):
        add_lora(model_of(tiny_model), RANK, None, ())


@pytest.mark.parametrize(("alpha", "scale"), [(None, 2.0), (6.0, 2.0), (1.5, 0.5)])
@pytest.mark.parametrize("architecture", ["Llama", "GPT2"])
def test_merged_is_the_forward_with_adapters_and_the_formula(architecture, alpha, scale, make_tiny, tmp_path):
    """W + (alpha / rank) · B A, the adapters' own paper (arXiv 2106.09685); GPT-2 keeps W transposed."""
    model = model_of(make_tiny(architecture))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    wrapper = add_lora(model, RANK, alpha, ())
    generator = torch.Generator().manual_seed(0)
    pairs = {}
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
            layer, _, kind = name.removesuffix(".default.weight").rpartition(".")
            pairs.setdefault(layer, {})[kind] = parameter.detach().double().clone()
    adapters = logits(model)
    merged = export_lora(wrapper, tmp_path, unlearned=True)
    assert (logits(merged) - adapters).abs().max() <= 1e-5 * adapters.abs().max()
    after = dict(merged.named_parameters())
    assert after.keys() == before.keys()
    for name, old in before.items():
        pair = pairs.get(name.removesuffix(".weight"))
        if pair is None:
            assert torch.equal(after[name], old), name
            continue
        delta = scale * pair["lora_B"] @ pair["lora_A"]
        expected = old.double() + (delta.T if architecture == "GPT2" else delta)
        assert (after[name].double() - expected).abs().max() < 1e-6, name


def test_the_command_merges_keeps_the_adapter_and_says_what_taking_it_off_means(run_cli, target, scores, tmp_path):
    out = tmp_path / "out"
    arguments = ("--model", target, "--scores", scores, "--retain", RETAIN, "--out", out, "--lora", RANK)
    code, said, err = run_cli("tu-train", "run", *arguments, *SHORT)
    assert code == 0, err
    assert f"{out / 'adapter'}: {WARNING}" in said
    assert "taking it off gives back the model before unlearning" in (out / "adapter" / "README.md").read_text()
    start, merged = (AutoModelForCausalLM.from_pretrained(folder) for folder in (target, out))
    unmerged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(target), str(out / "adapter")).eval()
    assert (logits(merged) - logits(unmerged)).abs().max() < 1e-5 * logits(merged).abs().max()
    assert (logits(merged) - logits(start)).abs().max() > 1e-3
    with unmerged.disable_adapter():
        assert torch.equal(logits(unmerged), logits(start)), "the warning is true"


def test_finetuning_with_adapters_says_nothing_of_unlearning(run_cli, tiny_model, tmp_path):
    out = tmp_path / "out"
    code, said, err = run_cli("tu-train", "finetune", "--model", tiny_model, "--data", FULL, "--out", out, "--lora", RANK, *SHORT)
    assert code == 0, err
    assert WARNING not in said and (out / "adapter").is_dir()
    assert "unlearn" not in (out / "adapter" / "README.md").read_text()
