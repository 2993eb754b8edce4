"""Which parameters train: by glob, by default of a method, and what is said when a name matches nothing."""

from fnmatch import fnmatch
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from shared.errors import ConfigError
from shared.lm.models import load_model
from tests.tu_train.conftest import score
from tu_train.methods.table import trained_globs
from tu_train.model.trainable import freeze_all_but, in_this_model

GLOBS = ("*.layers.1.mlp.*", "model.norm.weight")


def model_of(folder):
    return load_model(folder, dtype=torch.float32, device=torch.device("cpu"))


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_only_what_matches_trains_and_its_numbers_are_counted(tiny_model):
    model = model_of(tiny_model)
    count = freeze_all_but(model, GLOBS)
    expected = {n for n, _ in model.named_parameters() if any(fnmatch(n, g) for g in GLOBS)}
    assert trained(model) == expected and len(expected) == 4
    assert count == sum(p.numel() for n, p in model.named_parameters() if n in expected)
    assert freeze_all_but(model, ()) == sum(p.numel() for p in model.parameters())
    assert trained(model) == {n for n, _ in model.named_parameters()}, "no globs: all of them, whatever was frozen before"


@pytest.mark.parametrize(
    ("globs", "near"), [(("*.mlp.*", "*.layers.1.mlp.down_prj.*"), "model.layers.1.mlp.down_proj.weight"), (("q_proj",), "q_proj.weight")]
)
def test_a_glob_that_matches_nothing_lists_near_names_and_freezes_nothing(globs, near, tiny_model):
    model = model_of(tiny_model)
    with pytest.raises(ConfigError, match=r"--set train_only: .* matches no parameter; near names: ") as raised:
        freeze_all_but(model, globs)
    assert repr(globs[-1]) in str(raised.value) and near in str(raised.value)
    assert trained(model) == {n for n, _ in model.named_parameters()}


def test_rmu_trains_the_down_projections_up_to_its_layer(tiny_model):
    assert trained_globs("rmu", {"layer": 7.0}) == tuple(f"*.layers.{k}.mlp.down_proj.*" for k in (5, 6, 7))
    model = model_of(tiny_model)
    freeze_all_but(model, trained_globs("rmu", {"layer": 1.0}))
    assert trained(model) == {f"model.layers.{k}.mlp.down_proj.weight" for k in (0, 1)}


def changed(before, after):
    old, new = load_file(before / "model.safetensors"), load_file(after / "model.safetensors")
    assert old.keys() == new.keys()
    return {name for name in old if not torch.equal(old[name], new[name])}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"train_only": GLOBS}, {f"model.layers.1.mlp.{k}_proj.weight" for k in ("gate", "up", "down")} | {"model.norm.weight"}),
        ({"method": "rmu", "options": {"layer": 1}}, {f"model.layers.{k}.mlp.down_proj.weight" for k in (0, 1)}),
        ({"method": "rmu", "options": {"layer": 1}, "train_only": ("*.layers.0.mlp.up_proj.*",)}, {"model.layers.0.mlp.up_proj.weight"}),
    ],
)
def test_a_run_moves_what_trains_and_no_bit_of_the_rest(fields, expected, unlearn, target):
    assert changed(target, unlearn(**fields)) == expected


def test_rmu_trains_the_last_layer_of_the_mlp_whatever_it_is_called(make_tiny, unlearn, tmp_path, monkeypatch):
    model = make_tiny("GPT2")
    store = score(model, tmp_path / "store")
    rmu = {"model": model, "scores": store, "method": "rmu", "options": {"layer": 1}}
    assert changed(model, unlearn(**rmu)) == {f"transformer.h.{k}.mlp.c_proj.{part}" for k in (0, 1) for part in ("weight", "bias")}
    monkeypatch.setattr("tu_train.model.trainable.ELSEWHERE", ())  # a name that nobody has heard of
    with pytest.raises(ConfigError, match=r"--method rmu .*--set train_only=GLOB.*near names: transformer\.h\.\d\.mlp\.c_proj"):
        unlearn(**rmu)
    out = unlearn(**rmu, train_only=("*.h.1.mlp.c_proj.*",))
    assert changed(model, out) == {f"transformer.h.1.mlp.c_proj.{part}" for part in ("weight", "bias")}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["layers.3.mlp.down_proj.weight", "layers.3.mlp.experts.down_proj"], ["*.layers.3.mlp.down_proj.*"]),
        (["layers.3.mlp.experts.down_proj", "layers.3.mlp.shared_experts.down_proj.weight", "layers.3.mlp.gate.weight"],
         ["*.layers.3.mlp.experts.down_proj*", "*.layers.3.mlp.shared_expert*.down_proj.*"]),
        (["layers.3.mlp.dense_4h_to_h.weight", "layers.3.mlp.dense_h_to_4h.weight"], ["*.layers.3.mlp.dense_4h_to_h.*"]),
        (["layers.3.feed_forward.w2.weight", "layers.3.feed_forward.w1.weight"], ["*.layers.3.feed_forward.w2.*"]),
        (["layers.3.mixer.out_proj.weight"], ["*.layers.3.mlp.down_proj.*"]),
    ],
)  # fmt: skip
def test_a_methods_glob_is_read_in_the_names_of_the_model(names, expected):
    parameters = [(f"model.{name}", torch.nn.Parameter(torch.zeros(1))) for name in names]
    assert in_this_model(SimpleNamespace(named_parameters=lambda: parameters), ["*.layers.3.mlp.down_proj.*"]) == expected
