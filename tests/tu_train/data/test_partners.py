"""Other answers to the same questions: where they come from, and that they are drawn the same each time."""

from dataclasses import replace

import pytest

from shared.data.datasets import Row, load_rows
from shared.data.examples import make_examples
from shared.errors import ConfigError, DataError
from shared.lm.models import load_tokenizer
from tests.tu_train.conftest import FORGET
from tu_train.config import UnlearnConfig
from tu_train.data.partners import REFUSALS, alternates, given_answers, partner_items, refusal_lines

KEY = "perturbed_answer"


@pytest.fixture(scope="module")
def tokenizer(target):
    return load_tokenizer(target)


@pytest.fixture(scope="module")
def examples(tokenizer):
    return make_examples(load_rows(FORGET), tokenizer, context=512)


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
    assert given_answers(examples, refuse=True) == {e.id: list(REFUSALS) for e in examples}
    found = given_answers(examples, refuse=False, alternate_key=KEY)
    assert found == {e.id: e.row.extra[KEY] for e in examples}
    with pytest.raises(ConfigError, match="alternates=generate writes what alternate_key reads"):
        config(alternate_key=KEY, alternates="generate")


# --- as rows


def partners(*arguments, **options):
    return {item.name: item for item in partner_items(*arguments, **options)}


def test_a_partner_is_the_same_question_with_the_other_answer(examples, tokenizer):
    made = partners(examples, tokenizer, {e.id: ["I never heard of it."] for e in examples}, seed=0, context=512)
    assert made.keys() == {e.id for e in examples}
    for example in examples:
        item = made[example.id]
        assert item.ids[: item.positions[0]] == example.input_ids[: example.prompt_length]
        assert item.positions == list(range(item.positions[0], len(item.ids)))
        assert answer_of(item, tokenizer) == "I never heard of it." and item.ids[-1] == example.input_ids[-1]
        assert item.weights.tolist() == [1.0] * len(item.positions) and item.ref_logp is None


def test_the_answer_is_drawn_by_seed_and_example_whatever_the_order(examples, tokenizer):
    answers = {e.id: list(REFUSALS) for e in examples}
    drawn = [partners(e, tokenizer, answers, seed=s, context=512) for e, s in ((examples, 0), (examples[::-1], 0), (examples, 1))]
    texts = [{k: answer_of(item, tokenizer) for k, item in made.items()} for made in drawn]
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0].values())) > 1 and set(texts[0].values()) <= set(REFUSALS)


def test_rows_that_have_no_question_or_no_room_are_named(examples, tokenizer):
    first, answers = examples[0], {e.id: ["I do not know."] for e in examples}
    with pytest.raises(DataError, match=f"{first.id}: raw text has no question"):
        partners([replace(first, row=replace(first.row, question=None))], tokenizer, answers, seed=0, context=512)
    with pytest.raises(DataError, match=f"{first.id}: .* tokens with its other answer, the model's context holds 9"):
        partners(examples, tokenizer, answers, seed=0, context=9)
