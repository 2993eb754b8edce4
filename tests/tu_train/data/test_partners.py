"""Other answers to the same questions: where they come from, that they are drawn the same each time, and their
reference values."""

import json
import math
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from shared.data.datasets import Row, load_rows
from shared.data.examples import make_examples
from shared.errors import ConfigError, DataError
from shared.lm.models import load_model, load_tokenizer
from shared.lm.packed import PackedModel
from tests.tu_train.conftest import FORGET, RETAIN, weights_of
from tu_train.config import UnlearnConfig
from tu_train.data import partners
from tu_train.data.partners import ASKING, REFUSALS, alternates, generated, given_answers, partner_items, refusal_lines, with_reference

KEY = "perturbed_answer"
SHORT = ("--device", "cpu", "--epochs", 1, "--learning-rate", 1e-3)


@pytest.fixture(scope="module")
def tokenizer(target):
    return load_tokenizer(target)


@pytest.fixture(scope="module")
def examples(tokenizer):
    return make_examples(load_rows(FORGET), tokenizer, context=512)


@pytest.fixture(scope="module")
def packed(target):
    return PackedModel(load_model(target, dtype=torch.float32, device=torch.device("cpu")).eval())


def config(**fields):
    return UnlearnConfig(**{"model": "m", "scores": "s", "retain": "r", "out": "o", **fields})


def answer_of(item, tokenizer):
    return tokenizer.decode([item.ids[p] for p in item.positions], skip_special_tokens=True)


# --- where they come from


def test_refusals_are_the_lines_of_a_file_or_our_own(tmp_path):
    assert refusal_lines(None) == list(REFUSALS)
    (tmp_path / "lines").write_text("  No idea.\n\n \nAsk someone else.\n", encoding="utf-8")
    assert refusal_lines(str(tmp_path / "lines")) == ["No idea.", "Ask someone else."]
    (tmp_path / "empty").write_text(" \n")
    for name, expected in (("empty", "holds no line"), ("nowhere", "cannot be read")):
        with pytest.raises(ConfigError, match=f"refusals .*{name}: {expected}"):
            refusal_lines(str(tmp_path / name))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        refusal_lines(str(tmp_path / "bytes"))


def row(**extra):
    return Row("some/0", "Who?", "Nobody.", extra)


def test_alternates_are_a_text_or_a_list_of_texts_in_a_column():
    assert alternates(row(other="Somebody."), "other") == ["Somebody."]
    assert alternates(row(other=["A.", "B."]), "other") == ["A.", "B."]
    for bad in ({}, {"other": []}, {"other": ["A.", " "]}, {"other": 3}, {"other": ["A.", 3]}, {"other": ""}):
        with pytest.raises(DataError, match=r"some/0: no other answer in column 'other'.*alternate_key"):
            alternates(row(**bad), "other")
    with pytest.raises(ConfigError, match=r"--set alternate_key=COLUMN.*--set alternates=generate"):
        alternates(row(other="Somebody."), None)


def test_given_answers_are_refusals_or_the_column(examples):
    assert given_answers(examples, config(), refuse=True) == {e.id: list(REFUSALS) for e in examples}
    found = given_answers(examples, config(alternate_key=KEY), refuse=False)
    assert found == {e.id: e.row.extra[KEY] for e in examples}
    with pytest.raises(ConfigError, match="alternates=generate writes what alternate_key reads"):
        config(alternate_key=KEY, alternates="generate")


# --- as rows


def test_a_partner_is_the_same_question_with_the_other_answer(examples, tokenizer):
    made = partner_items(examples, tokenizer, {e.id: ["I never heard of it."] for e in examples}, seed=0, context=512)
    assert made.keys() == {e.id for e in examples}
    for example in examples:
        item = made[example.id]
        assert item.ids[: item.positions[0]] == example.input_ids[: example.prompt_length]
        assert item.positions == list(range(item.positions[0], len(item.ids)))
        assert answer_of(item, tokenizer) == "I never heard of it." and item.ids[-1] == example.input_ids[-1]
        assert item.weights.tolist() == [1.0] * len(item.positions) and item.ref_logp is None


def test_the_answer_is_drawn_by_seed_and_example_whatever_the_order(examples, tokenizer):
    answers = {e.id: list(REFUSALS) for e in examples}
    drawn = [partner_items(e, tokenizer, answers, seed=s, context=512) for e, s in ((examples, 0), (examples[::-1], 0), (examples, 1))]
    texts = [{k: answer_of(item, tokenizer) for k, item in made.items()} for made in drawn]
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0].values())) > 1 and set(texts[0].values()) <= set(REFUSALS)


def test_rows_that_have_no_question_or_no_room_are_named(examples, tokenizer):
    first, answers = examples[0], {e.id: ["I do not know."] for e in examples}
    with pytest.raises(DataError, match=f"{first.id}: raw text has no question"):
        partner_items([replace(first, row=replace(first.row, question=None))], tokenizer, answers, seed=0, context=512)
    with pytest.raises(DataError, match=f"{first.id}: .* tokens with its other answer, the model's context holds 9"):
        partner_items(examples, tokenizer, answers, seed=0, context=9)


@pytest.mark.parametrize("batch_tokens", [1, 150, 10_000])
def test_reference_values_are_those_of_plain_transformers(batch_tokens, examples, tokenizer, packed, target):
    items = partner_items(examples, tokenizer, given_answers(examples, config(), refuse=True), seed=0, context=512)
    plain = AutoModelForCausalLM.from_pretrained(target)
    found = with_reference(packed, items, batch_tokens)
    assert list(found) == list(items)
    for name, item in found.items():
        with torch.no_grad():
            logits = plain(input_ids=torch.tensor([item.ids])).logits[0].double()
        expected = [logits[p - 1].log_softmax(-1)[item.ids[p]].item() for p in item.positions]
        assert item.ref_logp.tolist() == pytest.approx(expected, abs=1e-4)
        assert replace(item, ref_logp=None) == items[name]


# --- written by the model


def write(packed, examples, tokenizer, seed=0):
    return generated(packed, examples, tokenizer, seed=seed, batch_tokens=500, context=512)


def test_written_answers_repeat_differ_from_the_rows_own_and_stay_short(packed, examples, tokenizer):
    first = write(packed, examples, tokenizer)
    assert first == write(packed, examples[::-1], tokenizer)
    assert list(first) and first.keys() == {e.id for e in examples}
    for example in examples:
        (text,) = first[example.id]
        assert text.strip() == text and text not in ("", example.row.answer)
        assert len(tokenizer(text).input_ids) <= 2 * len(example.targets) + 2


class Engine:
    """Stands in for the model: writes what `says(prompt, how)` returns."""

    def __init__(self, tokenizer, says):
        self.tokenizer, self.says, self.asked = tokenizer, says, []

    def __call__(self, packed, *, batch_tokens):
        return self

    def generate(self, prompts, *, max_new_tokens, stop_ids):
        texts = [self.tokenizer.decode(p) for p in prompts]
        hows = [next(how for how in ASKING if how in text) for text in texts]
        self.asked.append(hows)
        return [self.tokenizer(self.says(text, how), add_special_tokens=False).input_ids for text, how in zip(texts, hows, strict=True)]


def test_a_row_whose_own_answer_comes_back_is_asked_in_another_way(examples, tokenizer, monkeypatch):
    own = {e.row.question: e.row.answer for e in examples}
    engine = Engine(tokenizer, lambda text, how: "Blue." if how == ASKING[2] else next(a for q, a in own.items() if q in text))
    monkeypatch.setattr(partners, "TorchEngine", engine)
    assert write(None, examples, tokenizer) == {e.id: ["Blue."] for e in examples}
    assert sum(hows.count(ASKING[2]) for hows in engine.asked) == len(examples)
    assert [len(hows) for hows in engine.asked] == sorted((len(hows) for hows in engine.asked), reverse=True)


@pytest.mark.parametrize("says", ["", " ", None])
def test_a_row_that_gets_no_other_answer_is_named(says, examples, tokenizer, monkeypatch):
    one = examples[:1]
    monkeypatch.setattr(partners, "TorchEngine", Engine(tokenizer, lambda *_: one[0].row.answer if says is None else says))
    with pytest.raises(DataError, match=f"{one[0].row.id}: asked in 4 ways.*alternate_key"):
        write(None, one, tokenizer)


# --- through the command


def test_altpo_learns_answers_that_the_model_wrote_itself(run_cli, target, scores, tmp_path):
    arguments = ("--model", target, "--scores", scores, "--retain", RETAIN, "--method", "altpo", "--set", "alternates=generate")
    for name in ("one", "two"):
        code, _, err = run_cli("tu-train", "run", *arguments, "--out", tmp_path / name, *SHORT)
        assert code == 0, err
    assert weights_of(tmp_path / "one") == weights_of(tmp_path / "two") != weights_of(target)
    assert json.loads((tmp_path / "one" / "training.json").read_text())["settings"]["alternates"] == "generate"
    first = json.loads((tmp_path / "one" / "log.jsonl").read_text().splitlines()[0])
    # before the first step both ratios are zero: the forget loss is -(2/beta) log sigmoid(0)
    assert first["forget_loss"] == pytest.approx(2 / 0.1 * math.log(2), rel=1e-4)
