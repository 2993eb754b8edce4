"""A finished model's training.json carries the hashes of the files beside it, and whoever reads the folder checks
them."""

import json
import shutil

import pytest

from shared.errors import ModelError
from shared.lm.finished import READ, check_output, output_record
from shared.records import TRAINING


@pytest.fixture
def folder(tiny_model, tmp_path):
    out = tmp_path / "model"
    shutil.copytree(tiny_model, out)
    (out / TRAINING).write_text(json.dumps({"format": 1, **output_record(out)}))
    return out


def test_a_folder_as_it_was_written_passes(folder):
    check_output(folder)


def test_a_flipped_bit_is_named(folder):
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
        with pytest.raises(ModelError, match=f"{name} is not the file that training wrote"):
            check_output(folder)
        (folder / name).write_bytes(data)


def test_a_missing_and_an_added_file_are_named(folder):
    (folder / "tokenizer_config.json").rename(folder / "away.json")
    with pytest.raises(ModelError, match=r"'tokenizer_config.json' is missing"):
        check_output(folder)
    (folder / "away.json").rename(folder / "tokenizer_config.json")
    for name in ("adapter_config.json", "more.safetensors"):
        (folder / name).write_text("{}")
        with pytest.raises(ModelError, match=f"{name} was added"):
            check_output(folder)
        (folder / name).unlink()


def test_the_fingerprint_alone_is_checked_too(folder):
    (folder / TRAINING).write_text(json.dumps({"output_fingerprint": "0" * 64}))
    with pytest.raises(ModelError, match=r"its weights or config.json are not those"):
        check_output(folder)


@pytest.mark.parametrize("text", ['{"format": 1}', "[1]", "3"])
def test_nothing_is_said_of_folders_without_hashes(folder, text):
    (folder / TRAINING).write_text(text)
    check_output(folder)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"output_files": 3}', '{"output_fingerprint": []}'])
def test_a_damaged_record_is_one_line(folder, text):
    (folder / TRAINING).write_text(text)
    with pytest.raises(ModelError, match=TRAINING):
        check_output(folder)


def test_what_transformers_reads_is_hashed():
    assert {"*.safetensors", "config.json", "tokenizer.json", "adapter_config.json", "*.jinja"} <= set(READ)
