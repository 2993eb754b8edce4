"""A second model whose embedding is smaller than the tokens it is given is refused by name, before any work: in every
command."""

import json
import re
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

SUITE = "atlas:people=6,facts_per_person=3,forget_people=2,holdout_people=2"
WORD = "Псков"
COMMON = ["s ", "n ", "t ", "e "]
"""every text of the atlas has one of them"""
ROW = f'{{"question": "Где живёт Ольга?", "answer": "В городе {WORD}, у реки"}}\n'


def learned(folder: Path, to: Path, words: list[str], *, resize: bool) -> Path:
    """A copy whose tokenizer has learned words, and its embedding with it or not."""
    shutil.copytree(folder, to)
    tokenizer = AutoTokenizer.from_pretrained(to)
    tokenizer.add_tokens(words)
    tokenizer.save_pretrained(to)
    if resize:
        model = AutoModelForCausalLM.from_pretrained(to)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model.save_pretrained(to)
    return to


@pytest.fixture(params=[[WORD]])
def pair(request, tiny_model, tiny_base, tmp_path) -> tuple[Path, Path]:
    """Two models of one tokenizer that has learned words; the embedding of the second has no row for them."""
    wide = learned(tiny_model, tmp_path / "wide", request.param, resize=True)
    narrow = learned(tiny_base, tmp_path / "narrow", request.param, resize=False)
    rows = [json.loads((m / "config.json").read_text())["vocab_size"] for m in (wide, narrow)]
    assert rows == [500 + len(request.param), 500]
    (tmp_path / "d.jsonl").write_text(ROW, encoding="utf-8")
    return wide, narrow


def refused(result: tuple[int, str, str], model: str, example: str) -> None:
    code, _, err = result
    told = rf"^error: {re.escape(model)}: {example} has a token with id 50\d, but the model's embedding has 500 rows; resize its embedding"
    assert code == 2 and re.search(told, err, re.MULTILINE), err


def test_a_base_model(pair, tmp_path, run_cli):
    wide, narrow = pair
    data = ("--data", tmp_path / "d.jsonl", "--out", tmp_path / "out")
    refused(run_cli("tu-score", "run", "--model", wide, "--base-model", narrow, *data), f"--base-model {narrow}", "d/rows/0")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("retain", [False, True])
def test_another_model_than_the_scored_one(pair, tmp_path, run_cli, retain):
    """Also where only the retain set's store has such a token."""
    wide, narrow = pair
    (tmp_path / "e.jsonl").write_text('{"question": "Где?", "answer": "Вот он"}\n', encoding="utf-8")
    for name in ("d", "e"):
        score = ("tu-score", "run", "--model", wide, "--data", tmp_path / f"{name}.jsonl", "--topk", 4, "--out", tmp_path / name)
        assert run_cli(*score)[0] == 0
    forget, others = (
        ("e", ("--set", f"retain_scores={tmp_path / 'd'}", "--set", "retain_term=kl")) if retain else ("d", ("--retain", "none"))
    )
    train = ("tu-train", "run", "--model", narrow, "--scores", tmp_path / forget, *others, "--allow-other-model", "--method", "npo")
    refused(run_cli(*train, "--out", tmp_path / "out"), f"--model {narrow}", "d/rows/0")
    assert not (tmp_path / "out.unfinished").exists()


@pytest.mark.parametrize("pair", [COMMON], indirect=True)
def test_a_reference_model(pair, tmp_path, run_cli):
    wide, narrow = pair
    what = ("--suite", SUITE, "--limit", 2, "--set", "generate=false", "--set", f"reference_model={narrow}", "--out", tmp_path / "out")
    refused(run_cli("tu-eval", "run", "--model", wide, *what), f"reference_model {narrow}", r"\S+")


@pytest.mark.parametrize("pair", [COMMON], indirect=True)
def test_a_model_beside_the_attacked_one(pair, tmp_path, run_cli):
    wide, narrow = pair
    what = ("--suite", SUITE, "--limit", 4, "--attack", "quantise", "--out", tmp_path / "out")
    refused(run_cli("tu-eval", "attack", "--model", wide, "--retain", narrow, *what), f"--retain {narrow}", r"\S+")
