"""Other answers that need the model before training: their reference values, and those that it writes itself."""

import json
import math
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from shared.data.datasets import load_rows
from shared.data.examples import make_examples
from shared.engines.torch import TorchEngine
from shared.errors import DataError
from shared.lm.models import load_model, load_tokenizer
from shared.lm.packed import PackedModel
from tests.tu_train.conftest import FORGET, RETAIN, weights_of
from tu_train.data.partners import given_answers, partner_items
from tu_train.load import ASKING, generated, with_reference

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


@pytest.mark.parametrize("batch_tokens", [1, 150, 10_000])
def test_reference_values_are_those_of_plain_transformers(batch_tokens, examples, tokenizer, packed, target):
    items = {i.name: i for i in partner_items(examples, tokenizer, given_answers(examples, refuse=True), seed=0, context=512)}
    plain = AutoModelForCausalLM.from_pretrained(target)
    found = {item.name: item for item in with_reference(packed, items, batch_tokens)}
    assert list(found) == list(items)
    for name, item in found.items():
        with torch.no_grad():
            logits = plain(input_ids=torch.tensor([item.ids])).logits[0].double()
        expected = [logits[p - 1].log_softmax(-1)[item.ids[p]].item() for p in item.positions]
        assert item.ref_logp.tolist() == pytest.approx(expected, abs=1e-4)
        assert replace(item, ref_logp=None) == items[name]


# --- written by the model


def write(generator, examples, tokenizer, seed=0):
    return generated(generator, examples, tokenizer, seed=seed, context=512)


def test_written_answers_repeat_differ_from_the_rows_own_and_stay_short(packed, examples, tokenizer):
    engine = TorchEngine(packed, batch_tokens=500)
    first = write(engine, examples, tokenizer)
    assert first == write(engine, examples[::-1], tokenizer)
    assert list(first) and first.keys() == {e.id for e in examples}
    for example in examples:
        (text,) = first[example.id]
        assert text.strip() == text and text not in ("", example.row.answer)
        assert len(tokenizer(text).input_ids) <= 2 * len(example.targets) + 2


class Engine:
    """Stands in for the model: writes what `says(prompt, how)` returns."""

    def __init__(self, tokenizer, says):
        self.tokenizer, self.says, self.asked = tokenizer, says, []

    def generate(self, prompts, *, max_new_tokens, stop_ids):
        texts = [self.tokenizer.decode(p) for p in prompts]
        hows = [next(how for how in ASKING if how in text) for text in texts]
        self.asked.append(hows)
        return [self.tokenizer(self.says(text, how), add_special_tokens=False).input_ids for text, how in zip(texts, hows, strict=True)]


def test_a_row_whose_own_answer_comes_back_is_asked_in_another_way(examples, tokenizer):
    own = {e.row.question: e.row.answer for e in examples}
    engine = Engine(tokenizer, lambda text, how: "Blue." if how == ASKING[2] else next(a for q, a in own.items() if q in text))
    assert write(engine, examples, tokenizer) == {e.id: ["Blue."] for e in examples}
    assert sum(hows.count(ASKING[2]) for hows in engine.asked) == len(examples)
    assert [len(hows) for hows in engine.asked] == sorted((len(hows) for hows in engine.asked), reverse=True)


@pytest.mark.parametrize("says", ["", " ", None])
def test_a_row_that_gets_no_other_answer_is_named(says, examples, tokenizer):
    one = examples[:1]
    engine = Engine(tokenizer, lambda *_: one[0].row.answer if says is None else says)
    with pytest.raises(DataError, match=f"{one[0].row.id}: asked in 4 ways.*alternate_key"):
        write(engine, one, tokenizer)


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
