"""A GGUF file, or its parts, becomes a folder whose model and tokenizer are those that it was made from; what is none
is one line."""

import hashlib
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from shared.errors import ModelError
from shared.lm import gguf as gguf_module
from shared.lm.gguf import FORMAT, gguf_folder
from shared.lm.gguf_files import cache_folder, content_hash
from shared.lm.models import load_model, load_tokenizer, locate, model_fingerprint
from tests.conftest import CHATML, build_sentencepiece, build_tokenizer

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "max_position_embeddings": 512, "rms_norm_eps": 1e-6}  # fmt: skip
TEXTS = ("Hana Palakar studied in Doruna.", "Żółw i jaźń, 12 kotów", "Où est l'été ?  日本語\n", " x")
NAMES = {"embed_tokens": "token_embd", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
         "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "lm_head": "output"}  # fmt: skip
Form = tuple[str, type, type]
FORMS = {"byte level": ("qwen2", Qwen2Config, Qwen2ForCausalLM), "sentencepiece": ("llama", LlamaConfig, LlamaForCausalLM)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TU_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def gguf_name(name: str) -> str:
    """The name of a tensor of transformers' in llama.cpp's files."""
    inner, _, kind = name.removeprefix("model.").rpartition(".")
    if inner == "norm":
        return f"output_norm.{kind}"
    layer = re.fullmatch(r"layers\.(\d+)\.(.*)", inner)
    return f"blk.{layer[1]}.{NAMES[layer[2]]}.{kind}" if layer else f"{NAMES[inner]}.{kind}"


def rotated(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection in the order in which llama.cpp wants them for the llama architecture."""
    return values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def write_gguf(file: Path, form: str = "byte level", *, head: str = "tied", bos: bool | None = None, template: str | None = CHATML,
               leave_out: str = "", quantised: bool = False, scales: list[float] | None = None, rope: dict | None = None,
               **entries) -> torch.nn.Module:  # fmt: skip
    """A tiny random model as GGUF, and the model.

    `head`: tied, twice (the embedding written again), or apart; `entries`: further entries of the file, numbers or
    texts, `__` for a point.
    """
    architecture, config_class, model_class = FORMS[form]
    tokenizer = build_tokenizer() if form == "byte level" else build_sentencepiece()
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    torch.manual_seed(0)
    config = config_class(
        **SIZES, vocab_size=len(tokenizer), tie_word_embeddings=head != "apart", **({"rope_parameters": rope} if rope else {})
    )
    model = model_class(config).eval()
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"] if rope else 10000.0)
    if architecture == "llama":
        writer.add_vocab_size(len(tokenizer))
        writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2" if form == "byte level" else "llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_token_types([3 if t in special else 6 if re.fullmatch("<0x..>", t) else 1 for t in tokens])
    writer.add_token_merges([" ".join(pair) for pair in state["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    if bos is not None:
        writer.add_add_bos_token(bos)
    if template is not None:
        writer.add_chat_template(template)
    for key, value in entries.items():
        key = key.replace("__", ".").replace("ARCH", architecture)
        (writer.add_string if isinstance(value, str) else writer.add_bool if isinstance(value, bool) else writer.add_uint32)(key, value)
    tensors = {
        gguf_name(name): tensor.detach().numpy()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight" or head != "tied"
    }
    for name, values in tensors.items():
        if leave_out and leave_out in name:
            continue
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(name.split(".")[-2])
        values = rotated(values, heads) if architecture == "llama" and heads else values
        if quantised and values.ndim == 2:
            writer.add_tensor(name, gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, np.ascontiguousarray(values))
    if scales is not None:
        writer.add_tensor("rope_freqs.weight", np.array(scales, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def logits(model, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0]


def loaded(folder: Path):
    return load_model(folder, dtype=torch.float32, device=torch.device("cpu"))


# --- what a file becomes


@pytest.mark.parametrize("form", FORMS)
def test_model_tokenizer_and_template_are_those_that_the_file_was_made_from(form, tmp_path, cache, capfd):
    model = write_gguf(tmp_path / "tiny.gguf", form, bos=False)
    folder = locate(str(tmp_path / "tiny.gguf"))
    digest = hashlib.sha256((tmp_path / "tiny.gguf").read_bytes()).hexdigest()
    assert folder == cache / f"gguf-{digest[:32]}-{FORMAT}"
    assert "converting" in capfd.readouterr().err
    original, tokenizer = build_tokenizer() if form == "byte level" else build_sentencepiece(legacy=False), load_tokenizer(folder)
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer(text)["input_ids"] == ids == original(text, add_special_tokens=False)["input_ids"], text
        assert torch.equal(logits(loaded(folder), ids), logits(model, ids))
    assert tokenizer.chat_template == CHATML
    assert tokenizer.eos_token == original.eos_token and tokenizer.bos_token == original.bos_token
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config and config["tie_word_embeddings"] is True
    assert sorted(path.name for path in folder.iterdir()) == [
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    ]  # fmt: skip


def test_it_is_converted_once_by_content_and_not_by_name(tmp_path, monkeypatch):
    write_gguf(tmp_path / "tiny.gguf")
    first = locate(str(tmp_path / "tiny.gguf"))
    (tmp_path / "tiny.gguf").rename(tmp_path / "other")
    monkeypatch.setattr("shared.lm.gguf.convert", lambda *_: pytest.fail("converted again"))
    assert locate(str(tmp_path / "other")) == first
    monkeypatch.chdir(tmp_path)
    assert locate("other") == first


def test_quantised_tensors_become_float32(tmp_path):
    model = write_gguf(tmp_path / "tiny.gguf", quantised=True)
    folder = locate(str(tmp_path / "tiny.gguf"))
    made = loaded(folder).state_dict()
    for name, tensor in model.state_dict().items():
        assert made[name].dtype == torch.float32
        if tensor.ndim == 2:
            rounded = gguf.dequantize(gguf.quantize(tensor.numpy(), gguf.GGMLQuantizationType.Q8_0), gguf.GGMLQuantizationType.Q8_0)
            assert np.array_equal(made[name].numpy(), rounded) and not np.array_equal(rounded, tensor.numpy())


@pytest.mark.parametrize(("form", "said"), [("byte level", True), ("sentencepiece", True), ("sentencepiece", None)])
def test_a_beginning_token_that_the_tokenizer_lost_is_put_back(form, said, tmp_path, capfd):
    write_gguf(tmp_path / "tiny.gguf", form, bos=said)
    tokenizer = load_tokenizer(locate(str(tmp_path / "tiny.gguf")))
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer(text)["input_ids"] == [tokenizer.bos_token_id, *ids], text
        assert tokenizer(text, "b")["input_ids"][0] == tokenizer.bos_token_id
    assert f"beginning token {tokenizer.bos_token} was lost in conversion; it is put back" in capfd.readouterr().err


def test_byte_level_tokenizers_stay_as_they_are_where_the_file_says_nothing_of_a_beginning(tmp_path, capfd):
    write_gguf(tmp_path / "tiny.gguf", bos=None, template=None)
    tokenizer = load_tokenizer(locate(str(tmp_path / "tiny.gguf")))
    assert tokenizer("Ab")["input_ids"][0] != tokenizer.bos_token_id and tokenizer.chat_template is None
    assert "beginning token" not in capfd.readouterr().err


def test_an_output_layer_that_is_the_embedding_is_tied_again(tmp_path, capfd):
    model = write_gguf(tmp_path / "tiny.gguf", head="twice")
    folder = locate(str(tmp_path / "tiny.gguf"))
    assert "its output layer is its embedding, written twice" in capfd.readouterr().err
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True
    made = loaded(folder)
    assert made.lm_head.weight is made.model.embed_tokens.weight and torch.equal(logits(made, [5, 9, 7]), logits(model, [5, 9, 7]))


def test_an_output_layer_of_its_own_stays_one(tmp_path, capfd):
    model = write_gguf(tmp_path / "tiny.gguf", head="apart")
    folder = locate(str(tmp_path / "tiny.gguf"))
    assert "output layer" not in capfd.readouterr().err
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
    assert torch.equal(logits(loaded(folder), [5, 9, 7]), logits(model, [5, 9, 7]))


def test_what_lies_beside_the_file_plays_no_part(tmp_path, monkeypatch):
    write_gguf(tmp_path / "tiny.gguf")
    wanted = model_fingerprint(locate(str(tmp_path / "tiny.gguf")))
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "tiny.gguf").rename(other / "tiny.gguf")
    (other / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer", "chat_template": "no"}')
    (other / "adapter_config.json").write_text('{"base_model_name_or_path": "x"}')
    monkeypatch.setenv("TU_CACHE_DIR", str(tmp_path / "second"))
    folder = locate(str(other / "tiny.gguf"))
    assert folder.parent == tmp_path / "second" and model_fingerprint(folder) == wanted and load_tokenizer(folder).chat_template == CHATML


def test_scaled_positions_of_llama_3_come_back_as_their_rule(tmp_path, capfd):
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}  # fmt: skip
    plain = 1 / (500000.0 ** (torch.arange(4) / 4))
    made = LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=rope)).model.rotary_emb.inv_freq
    model = write_gguf(tmp_path / "tiny.gguf", "sentencepiece", rope=rope, scales=(plain / made).tolist())
    folder = locate(str(tmp_path / "tiny.gguf"))
    assert json.loads((folder / "config.json").read_text())["rope_parameters"] == rope
    ids = list(range(300, 340)) * 10
    assert torch.allclose(logits(loaded(folder), ids), logits(model, ids), atol=1e-6)
    write_gguf(tmp_path / "other.gguf", "sentencepiece", scales=[1.0, 1.5, 1.5, 3.0])
    assert "scales positions" not in capfd.readouterr().err
    locate(str(tmp_path / "other.gguf"))
    assert "scales positions by a rule that transformers does not read" in capfd.readouterr().err


def test_a_rule_of_scaling_that_the_file_names_is_put_in_or_said(tmp_path, capfd):
    rope = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0}
    model = write_gguf(tmp_path / "linear.gguf", "sentencepiece", rope=rope, ARCH__rope__scaling__type="linear",
                       ARCH__rope__scaling__factor=8)  # fmt: skip
    folder = locate(str(tmp_path / "linear.gguf"))
    assert json.loads((folder / "config.json").read_text())["rope_parameters"] == rope
    ids = list(range(300, 340)) * 3
    assert torch.allclose(logits(loaded(folder), ids), logits(model, ids), atol=1e-6)
    write_gguf(tmp_path / "none.gguf", "sentencepiece", ARCH__rope__scaling__type="none")
    locate(str(tmp_path / "none.gguf"))
    assert "scales positions" not in capfd.readouterr().err
    write_gguf(tmp_path / "yarn.gguf", "sentencepiece", ARCH__rope__scaling__type="yarn", ARCH__rope__scaling__factor=4)
    locate(str(tmp_path / "yarn.gguf"))
    assert "scales positions by a rule that transformers does not read" in capfd.readouterr().err


# --- parts


def cut(file: Path, target: Path, names: list[str]) -> None:
    data = file.read_bytes()
    size = -(-len(data) // len(names))
    for i, name in enumerate(names):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(data[i * size : (i + 1) * size])


@pytest.mark.parametrize(
    "names",
    [
        ["one/data/tiny.gguf.part00", "two/data/tiny.gguf.part01", "three/data/tiny.gguf.part02"],
        ["part01.bin", "part02.bin", "part03.bin"],
        [f"tiny.part{i}" for i in range(1, 12)],
    ],
)
def test_numbered_parts_below_a_folder_are_joined(names, tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    cut(tmp_path / "tiny.gguf", tmp_path / "parts", names)
    (tmp_path / "parts" / "__init__.py").write_text("raise SystemExit('code of a folder was run')")
    assert locate(str(tmp_path / "parts")) == locate(str(tmp_path / "tiny.gguf"))


def test_a_folder_with_one_gguf_file_is_that_file(tmp_path):
    (tmp_path / "model").mkdir()
    write_gguf(tmp_path / "model" / "tiny.gguf")
    assert locate(str(tmp_path / "model")) == locate(str(tmp_path / "model" / "tiny.gguf"))


def test_a_part_of_something_else_beside_the_file_is_none_of_the_model(tmp_path):
    (tmp_path / "model").mkdir()
    write_gguf(tmp_path / "model" / "tiny.gguf")
    (tmp_path / "model" / "notes.part1").write_text("half of another file")
    assert locate(str(tmp_path / "model")) == locate(str(tmp_path / "model" / "tiny.gguf"))


def test_a_folder_of_transformers_stays_one_where_a_gguf_lies_in_it(tiny_model, tmp_path):
    import shutil

    copy = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    write_gguf(copy / "tiny.gguf")
    assert locate(str(copy)) == copy


# --- the hash


def test_a_hash_is_remembered_until_the_file_changes(tmp_path, cache, monkeypatch):
    file = tmp_path / "a"
    file.write_bytes(b"GGUF one")
    assert content_hash([file]) == hashlib.sha256(b"GGUF one").hexdigest()
    assert not cache.exists()  # it is too young: it could change without a later time
    monkeypatch.setattr("shared.lm.gguf_files.SETTLED_S", -1)
    content_hash([file])
    (note,) = (cache / "hashes").iterdir()
    monkeypatch.setattr("shared.lm.gguf_files.hashlib.sha256", lambda *_: pytest.fail("read again"))
    monkeypatch.setattr("shared.lm.gguf_files.hash_json", lambda _: note.stem)
    assert content_hash([file]) == json.loads(note.read_text())["sha256"]


def test_a_remembered_hash_of_a_changed_file_is_not_believed(tmp_path, cache, monkeypatch):
    monkeypatch.setattr("shared.lm.gguf_files.SETTLED_S", -1)
    file = tmp_path / "a"
    file.write_bytes(b"GGUF one")
    first = content_hash([file])
    (note,) = (cache / "hashes").iterdir()
    held = json.loads(note.read_text())
    held["sha256"] = "0" * 64
    note.write_text(json.dumps(held))
    assert content_hash([file]) == "0" * 64  # so it is the note that is read
    state = file.stat()
    file.write_bytes(b"GGUF two")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert content_hash([file]) == hashlib.sha256(b"GGUF two").hexdigest() != first
    note.write_text("{")
    assert content_hash([file]) == hashlib.sha256(b"GGUF two").hexdigest()


def test_a_hash_that_is_given_must_be_that_of_the_content(tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    digest = hashlib.sha256((tmp_path / "tiny.gguf").read_bytes()).hexdigest()
    assert gguf_folder(f"{tmp_path}/tiny.gguf@sha256:{digest.upper()}") == gguf_folder(f"{tmp_path}/tiny.gguf")


# --- refused, by the command, in one line


def refused(run_cli, model: object, pattern: str) -> None:
    out = Path(os.environ["TU_CACHE_DIR"]).parent / "scores"
    code, _, err = run_cli("tu-score", "run", "--model", model, "--data", "atlas:forget", "--out", out)
    lines = [line for line in err.splitlines() if not line.startswith("converting ")]
    assert code == 2 and len(lines) == 1 and re.search(pattern, lines[0]), err
    folder = Path(os.environ["TU_CACHE_DIR"])
    assert not folder.exists() or [p.name for p in folder.iterdir() if p.name != "hashes"] == []


@pytest.mark.parametrize(
    ("entries", "pattern"),
    [
        ({"general__type": "mmproj"}, "holds the part of a model that sees or hears"),
        ({"general__type": "adapter"}, "holds a LoRA adapter"),
        ({"ARCH__attention__causal": False}, "holds an embedding model"),
        ({"ARCH__pooling_type": 1}, "holds an embedding model"),
        ({"split__count": 3}, "is one of 3 files of a split GGUF .* llama-gguf-split --merge"),
        ({"ARCH__expert_count": 2**31}, r"damaged \(qwen2.expert_count"),
        ({"ARCH__vocab_size": 10**9}, "describes a model of [0-9,]{13,} numbers, and holds"),
        ({"leave_out": "blk.1.ffn_up"}, "lacks tensors of the model, first model.layers.1.mlp.up_proj.weight"),
        ({"tokenizer__ggml__padding_token_id": 10**6}, "cannot be converted: Padding_idx must be within num_embeddings"),
    ],
)
def test_a_gguf_of_another_kind_or_with_absurd_entries(entries, pattern, tmp_path, run_cli):
    write_gguf(tmp_path / "tiny.gguf", **entries)
    refused(run_cli, tmp_path / "tiny.gguf", pattern)


@pytest.mark.parametrize(
    ("architecture", "pattern"),
    [
        ("clip", "holds the part of a model that sees"),
        ("nomic-bert", "holds an embedding model"),
        ("rwkv9", "transformers .* reads no GGUF of"),
    ],
)
def test_an_architecture_that_is_no_language_model_or_unknown(architecture, pattern, tmp_path, run_cli):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", architecture)
    writer.add_tensor("token_embd.weight", np.zeros((4, 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused(run_cli, tmp_path / "x.gguf", pattern)


@pytest.mark.parametrize("keep", [0, 3, 20, 200, 5000, -1])
def test_a_file_that_is_cut_short(keep, tmp_path, run_cli):
    write_gguf(tmp_path / "tiny.gguf")
    data = (tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "tiny.gguf").write_bytes(data[:keep])
    refused(run_cli, tmp_path / "tiny.gguf", "is cut short")


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


@pytest.mark.parametrize(
    ("data", "pattern"),
    [
        (b"PK\3\4" + bytes(100), "is no GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a pointer of Git LFS"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "has version 1, expected 2 or 3"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "has version 50331648, expected 2 or 3; it was written for machines of the other"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), r"damaged \(tensors: "),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), r"damaged \(entries: "),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**50), r"damaged \(bytes of a text: "),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"a") + struct.pack("<IIQ", 9, 4, 2**50), r"damaged \(values of 'a': "),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"a") + struct.pack("<IIQ", 9, 9, 1), "values of kind 9, which is unknown"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"a") + struct.pack("<I", 77), "is of kind 77, which is unknown"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"\xff"), "a text that is not UTF-8"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * (text(b"a") + struct.pack("<II", 4, 1)), "'a' stands there twice"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text(b"t") + struct.pack("<IQQIQ", 2, 2**40, 2**40, 0, 0), "is cut short: it has"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text(b"t") + struct.pack("<IQIQ", 1, 8, 999, 0), "is of kind 999, which nothing"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text(b"t") + struct.pack("<IQIQ", 1, 0, 0, 0), r"has the shape \[0\]"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "names no architecture"),
    ],
)  # fmt: skip
def test_a_header_beyond_its_bounds(data, pattern, tmp_path, run_cli):
    (tmp_path / "x.gguf").write_bytes(data + (bytes(64) if b"PK" not in data and len(data) == 24 and data[8:] == bytes(16) else b""))
    refused(run_cli, tmp_path / "x.gguf", pattern)


def test_a_wrong_hash_and_what_is_none(tmp_path, run_cli):
    write_gguf(tmp_path / "tiny.gguf")
    refused(run_cli, f"{tmp_path}/tiny.gguf@sha256:{'0' * 64}", "its content has the sha256 [0-9a-f]{64}; get the file again")
    refused(run_cli, f"{tmp_path}/tiny.gguf@sha256:abc", "what follows @sha256: is no hash")
    refused(run_cli, f"{tmp_path}/other.gguf@sha256:{'0' * 64}", "is neither a GGUF file nor a folder with the parts of one")
    refused(run_cli, f"{tmp_path}/tinny.gguf", r"no such file \(did you mean '.*tiny.gguf'\?\)")


def test_parts_with_a_gap_twice_or_without_their_beginning(tmp_path, run_cli):
    write_gguf(tmp_path / "tiny.gguf")
    cut(tmp_path / "tiny.gguf", tmp_path / "parts", ["a/x.part01", "b/x.part02", "c/x.part03"])
    refused(run_cli, tmp_path / "parts" / "a" / "x.part01", "is one part of a GGUF file; name the folder that holds all of them")
    (tmp_path / "parts" / "b" / "x.part02").rename(tmp_path / "two")
    refused(run_cli, tmp_path / "parts", "part 2 is missing, before x.part03")
    (tmp_path / "two").rename(tmp_path / "parts" / "c" / "x.part02")
    (tmp_path / "parts" / "b" / "x.part02").write_bytes(b"again")
    refused(run_cli, tmp_path / "parts", r"two files are part 2 \(x.part02\)")
    (tmp_path / "parts" / "b" / "x.part02").unlink()
    (tmp_path / "parts" / "a" / "x.part01").unlink()
    refused(run_cli, tmp_path / "parts", "its parts x.part02 to x.part03 do not begin with GGUF; the first part is missing")


def test_several_models_in_a_folder_and_split_files(tmp_path, run_cli):
    folder = tmp_path / "many"
    folder.mkdir()
    write_gguf(folder / "tiny.gguf")
    cut(folder / "tiny.gguf", folder, ["part01.bin", "part02.bin"])
    refused(run_cli, folder, r"holds 2 GGUF models \(tiny.gguf, part01.bin to part02.bin\); name the file")
    split = tmp_path / "split"
    split.mkdir()
    (folder / "tiny.gguf").rename(split / "tiny-00001-of-00002.gguf")
    refused(run_cli, split, "is one of 2 files of a split GGUF .* merge them with llama-gguf-split --merge FIRST OUT.gguf")
    refused(run_cli, split / "tiny-00001-of-00002.gguf", "is one of 2 files of a split GGUF")


def test_a_full_disk_is_one_line(tmp_path, run_cli, monkeypatch):
    write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr("shared.lm.gguf.shutil.disk_usage", lambda _: type("", (), {"free": 1000})())
    refused(run_cli, tmp_path / "tiny.gguf", r"converted it takes \d+ kB, and .* has 1e\+03 B left|converted it takes")

    def full(*_):
        raise OSError(28, "No space left on device", "there")

    monkeypatch.setattr("shared.lm.gguf._place", full)
    refused(run_cli, tmp_path / "tiny.gguf", r"cannot be converted \(there: No space left on device\); make room")


# --- what happens to the cache


@pytest.mark.parametrize("file", ["chat_template.jinja", "config.json", "tokenizer.json", "model.safetensors"])
def test_a_converted_folder_that_lost_a_file_is_not_used(file, tmp_path, cache, run_cli):
    write_gguf(tmp_path / "tiny.gguf")
    folder = locate(str(tmp_path / "tiny.gguf"))
    (folder / file).unlink()
    command = ("tu-score", "run", "--model", tmp_path / "tiny.gguf", "--data", "atlas:forget", "--out", tmp_path / "scores")
    code, _, err = run_cli(*command)
    assert code == 2 and len(err.splitlines()) == 1 and f"({file} is gone); delete {folder}, it is made again" in err


def test_a_converted_folder_with_a_cut_file_is_not_used_and_one_of_an_earlier_version_is(tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    folder = locate(str(tmp_path / "tiny.gguf"))
    note = gguf_module.made_note(folder)
    note.rename(tmp_path / "note")
    assert locate(str(tmp_path / "tiny.gguf")) == folder
    (tmp_path / "note").rename(note)
    os.truncate(folder / "tokenizer.json", 100)
    with pytest.raises(ModelError, match=r"tokenizer.json is 100 bytes long, \d+ were written\); delete"):
        locate(str(tmp_path / "tiny.gguf"))


@pytest.mark.parametrize(("value", "place"), [("", "xdg/token-unlearn"), ("~/tu", "home/tu")])
def test_the_cache_is_never_in_the_folder_of_the_command(value, place, tmp_path, monkeypatch):
    for name, path in (("TU_CACHE_DIR", value), ("XDG_CACHE_HOME", str(tmp_path / "xdg")), ("HOME", str(tmp_path / "home"))):
        monkeypatch.setenv(name, path)
    assert cache_folder() == tmp_path / place


# --- two at once, and one that is killed


KILLED = "import os, sys, shared.lm.gguf as g; g._write = lambda *a: os.kill(os.getpid(), 9); g.gguf_folder(sys.argv[1])"


def test_a_conversion_that_was_killed_leaves_nothing_behind(tmp_path, cache):
    write_gguf(tmp_path / "tiny.gguf")
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "tiny.gguf")], capture_output=True).returncode == -9
    assert len(list(cache.glob(".tmp-*"))) == 1 and not list(cache.glob("gguf-*"))
    assert loaded(locate(str(tmp_path / "tiny.gguf"))) and not list(cache.glob(".tmp-*"))


def test_of_two_that_convert_at_once_the_first_to_finish_wins(tmp_path, cache, monkeypatch):
    write_gguf(tmp_path / "tiny.gguf")
    own, name, files = gguf_module._write, str(tmp_path / "tiny.gguf"), [tmp_path / "tiny.gguf"]
    folder = cache / "made"

    def with_another_inside(*arguments):
        monkeypatch.setattr(gguf_module, "_write", own)
        gguf_module.convert(name, files, folder)
        own(*arguments)

    monkeypatch.setattr(gguf_module, "_write", with_another_inside)
    gguf_module.convert(name, files, folder)
    assert loaded(folder) and {path.name for path in cache.iterdir()} == {"made", "hashes"}
