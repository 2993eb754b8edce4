"""Every file that a model is read from is in its fingerprint, and none lies outside of its folder; adapters are never
applied unasked."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shared.errors import ModelError
from shared.files.fs import hash_file, hash_json
from shared.lm.model_files import weight_files
from shared.lm.models import VOLATILE, load_model, locate, model_fingerprint

CPU = torch.device("cpu")
INDEX = "model.safetensors.index.json"


@pytest.fixture
def copy(tiny_model, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


@pytest.fixture
def question(tmp_path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"question": "Where?", "choices": ["Here", "There"], "answer": 0}) + "\n")
    return file


@pytest.fixture
def refused(run_cli, question, tmp_path):
    """`refused(folder)` -> the line with which a real command refuses the model."""

    def call(folder: Path) -> str:
        code, out, err = run_cli("tu-eval", "choices", "--model", folder, "--data", question, "--out", tmp_path / "out")
        assert code == 2 and err.count("\n") == 1 and not (tmp_path / "out").exists(), (out, err)
        return err

    return call


def shards(folder: Path, names=("a.safetensors", "b.safetensors"), **changed: torch.Tensor) -> None:
    """The weights in two files with an index, in place of the single file."""
    held = load_file(folder / "model.safetensors") | changed
    (folder / "model.safetensors").unlink()
    order, mapping = sorted(held), {}
    for at, name in enumerate(names):
        part = {k: held[k] for k in order[at::2]}
        (folder / name).parent.mkdir(exist_ok=True)
        save_file(part, folder / name, metadata={"format": "pt"})
        mapping |= dict.fromkeys(part, name)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": mapping}))


def first_weight(folder: Path) -> torch.Tensor:
    return load_model(locate(str(folder)), dtype=torch.float32, device=CPU).get_input_embeddings().weight.detach()


def test_the_fingerprint_of_ordinary_folders_is_that_of_earlier_versions(copy):
    def before(folder: Path) -> str:
        digest = hashlib.sha256()
        for file in sorted(folder.glob("*.safetensors")):
            digest.update(hash_file(file).encode())
        config = json.loads((folder / "config.json").read_text())
        digest.update(hash_json({k: v for k, v in config.items() if k not in VOLATILE}).encode())
        return digest.hexdigest()

    assert model_fingerprint(copy) == before(copy)
    shards(copy)
    assert model_fingerprint(copy) == before(copy)


def test_an_adapter_beside_full_weights_is_refused_and_never_applied(copy, refused):
    from peft import LoraConfig, get_peft_model

    plain = first_weight(copy)
    model = load_model(copy, dtype=torch.float32, device=CPU)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted.save_pretrained(str(copy))
    assert "holds a LoRA adapter" in refused(copy) and "merge_and_unload" in refused(copy)
    with pytest.raises(ModelError, match="holds a LoRA adapter"):  # whoever loads without looking first
        load_model(copy, dtype=torch.float32, device=CPU)
    (copy / "adapter_config.json").write_text("[" * 3)
    assert "holds a LoRA adapter" in refused(copy)
    (copy / "adapter_config.json").unlink()
    assert torch.equal(first_weight(copy), plain)


@pytest.mark.parametrize("name", ["../other.safetensors", "/ABSOLUTE/other.safetensors", "sub/../../other.safetensors", 7, None, "x.bin"])
def test_an_index_that_names_weights_outside_of_the_folder_is_refused(copy, refused, name):
    shutil.copy(copy / "model.safetensors", copy.parent / "other.safetensors")
    shards(copy)
    index = json.loads((copy / INDEX).read_text())
    first = sorted(index["weight_map"])[0]
    index["weight_map"][first] = str(copy.parent / "other.safetensors") if isinstance(name, str) and "ABSOLUTE" in name else name
    (copy / INDEX).write_text(json.dumps(index))
    assert "as weights; expected a safetensors file in the folder" in refused(copy)
    with pytest.raises(ModelError, match="expected a safetensors file in the folder"):
        model_fingerprint(copy)


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": "x"}'])
def test_an_index_of_another_form_is_refused(copy, refused, text):
    shards(copy)
    (copy / INDEX).write_text(text)
    assert "has no weight_map from tensors to files" in refused(copy)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_link_out_of_the_folder_is_refused(copy, refused, file):
    outside = copy.parent / f"outside-{file}"
    (copy / file).rename(outside)
    (copy / file).symlink_to(outside)
    assert f"{file} is a link to a file outside of the folder; put the file itself there" in refused(copy)


def test_links_within_the_folder_and_to_the_blobs_of_the_hubs_cache_are_followed(tiny_model, tmp_path):
    store = tmp_path / "models--org--name"
    (store / "blobs").mkdir(parents=True)
    snapshot = store / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    for file in tiny_model.iterdir():
        shutil.copy(file, store / "blobs" / hash_file(file))
        (snapshot / file.name).symlink_to(Path("../../blobs") / hash_file(file))
    assert locate(str(snapshot)) == snapshot
    assert model_fingerprint(snapshot) == model_fingerprint(tiny_model)
    (tmp_path / "linked").symlink_to(tiny_model)
    assert model_fingerprint(locate(str(tmp_path / "linked"))) == model_fingerprint(tiny_model)


def test_shards_in_a_folder_of_the_folder_are_read_and_are_in_the_fingerprint(copy):
    shards(copy, names=("sub/a.safetensors", "sub/b.safetensors"))
    plain, before = first_weight(copy), model_fingerprint(copy)
    held = load_file(copy / "sub" / "a.safetensors")
    save_file({k: v + 1 for k, v in held.items()}, copy / "sub" / "a.safetensors", metadata={"format": "pt"})
    assert model_fingerprint(copy) != before
    assert not torch.equal(first_weight(copy), plain) or "model.embed_tokens.weight" not in held


def test_of_a_single_file_and_an_index_the_one_that_is_loaded_counts(copy, tmp_path):
    """The names decide which of two files transformers loads, so they are in the fingerprint."""
    other = Path(shutil.copytree(copy, tmp_path / "other"))
    held = load_file(copy / "model.safetensors")
    save_file({k: v * 2 for k, v in held.items()}, copy / "extra.safetensors", metadata={"format": "pt"})
    shutil.copy(copy / "extra.safetensors", other / "model.safetensors")
    save_file(held, other / "other.safetensors", metadata={"format": "pt"})  # in the order of names the same bytes
    assert not torch.equal(first_weight(copy), first_weight(other))
    assert model_fingerprint(copy) != model_fingerprint(other)
    mapping = dict.fromkeys(held, "extra.safetensors")
    (copy / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": mapping}))
    assert weight_files(copy) == [copy / "model.safetensors"]
    single, loaded = model_fingerprint(copy), first_weight(copy)
    (copy / "model.safetensors").rename(copy / "unused.safetensors")
    assert not torch.equal(first_weight(copy), loaded) and model_fingerprint(copy) != single


def test_weights_that_the_configuration_names_are_those_that_count(copy, refused):
    held = load_file(copy / "model.safetensors")
    save_file({k: v * 2 for k, v in held.items()}, copy / "named.safetensors", metadata={"format": "pt"})
    plain, before = first_weight(copy), model_fingerprint(copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"transformers_weights": "named.safetensors"}))
    assert weight_files(copy) == [copy / "named.safetensors"] and torch.equal(first_weight(copy), plain * 2)
    assert model_fingerprint(copy) != before
    (copy / "config.json").write_text(json.dumps(config | {"transformers_weights": "../named.safetensors"}))
    assert "as transformers_weights; expected a safetensors file in the folder" in refused(copy)


def test_two_shards_with_the_same_tensor_are_refused(copy, refused):
    shards(copy)
    held = load_file(copy / "a.safetensors")
    more = dict(load_file(copy / "b.safetensors"))
    name = sorted(held)[0]
    save_file({**more, name: held[name] + 1}, copy / "b.safetensors", metadata={"format": "pt"})
    assert f"both hold '{name}'" in refused(copy)


def test_a_configuration_that_names_another_is_refused(copy, refused):
    """transformers would read config.4.0.0.json in the place of config.json, and no hash would know."""
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.4.0.0.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    (copy / "config.json").write_text(json.dumps(config | {"configuration_files": ["config.4.0.0.json"]}))
    assert "names other files as configuration (configuration_files)" in refused(copy)


def test_more_blocks_than_tensors_are_refused_before_they_are_built(copy, refused):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**12, "layer_types": None}))
    assert "says 1000000000000 blocks, but its weights are" in refused(copy)
