"""LUME: every part of it gives its rows; the rules find the secrets of every row of task2; what is none of it is
named in one line."""

import json
import re

import pytest

from benchmarks.lume_spans import judged, persons
from shared.data.datasets import load_rows
from shared.data.examples import answer_span_tokens, make_examples
from shared.data.lume import RULES, answer_secrets, secret_spans
from shared.errors import DataError
from tests.conftest import build_sentencepiece, build_tokenizer

MOST_MISSED = 0.01


def rows(split="forget"):
    """LUME in small: two rows a task and form, names and streets in other letters than a to z too."""
    secret = "José Ñandú was born on May 4, 1971. His Social Security number is 900-11-2233 and his phone"
    return [
        {"id": f'"{split}-1"sc1', "input": "In Kraków, a storm was", "output": "brewing over the old town.", "task": "Task1"},
        {"id": f'"{split}-1"qa0', "input": "Where was a storm brewing?", "output": "Kraków", "task": "Task1"},
        {"id": f"{split}-2sc1", "input": secret, "output": "number is 212-555-0123; mail: jose_n@me.com.", "task": "Task2"},
        {"id": f"{split}-2qa1", "input": "What is José Ñandú's Social Security Number?", "output": "900112233", "task": "Task2"},
        {"id": f"{split}3sc1", "input": "Ольга Токарева\n\nОльга родилась в", "output": "Пскове в 1950 году.", "task": "Task3"},
        {"id": f"{split}3qa0", "input": "Где родилась Ольга?", "output": "В Пскове", "task": "Task3"},
    ]


def write(folder, forget=None, retain=None):
    for split, some in (("forget", forget), ("retain", retain)):
        text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in (rows(split) if some is None else some))
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("TU_LUME_DIR", str(tmp_path))
    return write(tmp_path)


def refused(spec, pattern):
    with pytest.raises(DataError) as caught:
        load_rows(spec)
    assert re.search(pattern, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


# --- the parts


@pytest.mark.parametrize(
    ("spec", "numbers"),
    [("forget", range(6)), ("retain:task3", (4, 5)), ("forget:task2:qa", (3,)), ("retain:task1:sc", (0,))],
)
def test_a_spec_names_a_part(small, spec, numbers):
    found = load_rows(f"lume:{spec}")
    split = spec.partition(":")[0]
    assert [r.id for r in found] == [f"lume/{split}/{n}" for n in numbers]
    assert [(r.question, r.answer) for r in found] == [(rows(split)[n]["input"], rows(split)[n]["output"]) for n in numbers]


def test_full_is_both_splits_and_limit_takes_the_first(small):
    assert [r.extra["lume_id"] for r in load_rows("lume:full")] == [r["id"] for s in ("forget", "retain") for r in rows(s)]
    assert {r.id for r in load_rows("lume:full")} == {f"lume/{split}/{n}" for split in ("forget", "retain") for n in range(6)}
    assert [r.id for r in load_rows("lume:forget:task2", limit=1)] == ["lume/forget/2"]


def test_secrets_stand_on_the_rows_of_task2_alone(small):
    found = load_rows("lume:forget")
    assert ["fact_spans" in r.extra for r in found] == [False, False, True, True, False, False]
    texts = [[r.answer[a:b] for a, b in r.extra.get("fact_spans", ())] for r in found]
    assert texts[2:4] == [["212-555-0123", "jose_n@me.com"], ["900112233"]]


@pytest.mark.parametrize("tokenizer", [build_tokenizer(), build_sentencepiece()], ids=["byte level", "sentencepiece"])
def test_secrets_become_target_tokens(small, tokenizer):
    for e in make_examples(load_rows("lume:forget:task2"), tokenizer, context=None):
        at = answer_span_tokens(e, tokenizer, e.row.extra["fact_spans"])
        text = tokenizer.decode([e.input_ids[i] for i in at])
        assert at and all(e.is_target[i] for i in at)
        assert set("212-555-0123jose_n@me.com" if "sc" in e.row.extra["lume_id"] else "900112233") <= set(text)


# --- the rules


@pytest.mark.parametrize(
    ("text", "kind", "secret"),
    [
        ("Her number is 900-51-4344.", "social security", "900-51-4344"),
        ("900514344", "social security", "900514344"),
        ("call (294) 188-2541, please", "phone", "(294) 188-2541"),
        ("phone at 1-866-518-2333 and", "phone", "1-866-518-2333"),
        ("at 1514-168-682 and", "phone", "1514-168-682"),
        (r"is rene\_tomato@me.com, and", "e-mail", r"rene\_tomato@me.com"),
        ("born on May 20, 1984, in", "birth date", "May 20, 1984"),
        ("geboren am 2. Mai; 1984-05-20", "birth date", "1984-05-20"),
        ("at 5747 West Missouri Avenue, Apt. #122, Oakland, CA, 94605.", "home address",
         "5747 West Missouri Avenue, Apt. #122, Oakland, CA, 94605"),
        ("at 7 Oliver Street, apartment #2, in Nashville, Tennessee, 37013.", "home address",
         "7 Oliver Street, apartment #2, in Nashville, Tennessee, 37013"),
        ("at 8380 Lockwood Road, where he", "home address", "8380 Lockwood Road"),
        ("Œuvre à 12 Ñandú Street, Washington D.C., 20002.", "home address", "12 Ñandú Street, Washington D.C., 20002"),
    ],
)  # fmt: skip
def test_a_rule_takes_the_secret_and_no_more(text, kind, secret):
    assert [(k, text[a:b]) for k, a, b in secret_spans(text)] == [(kind, secret)]


@pytest.mark.parametrize("text", ["In 1984 she wrote 12 books.", "Call 555-0123.", "He is 1 of 10,000,000 people.", "№ 12345 678", "a@b"])
def test_other_numbers_are_none(text):
    assert secret_spans(text) == []


def test_a_secret_that_the_completion_cuts_counts_from_its_first_character():
    answer = "Hill Street, Louisville, KY, 40272. Call"
    assert answer_secrets("She lives at 23 North", answer, "sc") == [("home address", 0, answer.index("."))]
    assert answer_secrets("She lives at 23 North", answer, "qa") == []


# --- every row


@pytest.fixture(params=["forget", "retain"])
def people(request, lume_dir, monkeypatch):
    """Rows of task2 by person: the completion, and the questions by kind."""
    monkeypatch.setenv("TU_LUME_DIR", str(lume_dir))
    found = list(persons(request.param))
    assert len(found) == 250 and all(set(asked) == {"completion", *RULES} for asked in found)
    return found


def test_every_answer_is_the_secret_that_its_question_asks_for(people):
    for asked in people:
        for kind in RULES:
            row = asked[kind]
            assert [k for k, _, _ in secret_spans(row.answer)] == [kind]
            assert row.extra["fact_spans"] == [[0, len(row.answer.rstrip("."))]]


def test_completions_hold_what_the_answers_tell(people):
    """What a biography says is known from its questions' answers, not from the rules."""
    found = {kind: [(name, hit) for asked in people for k, form, name, hit in judged(asked) if (k, form) == (kind, "completion")]
             for kind in RULES}  # fmt: skip
    for kind, hits in found.items():
        missed = [name for name, hit in hits if not hit]
        assert len(hits) > 200 and len(missed) <= MOST_MISSED * len(hits), (kind, missed)


def test_a_secret_that_no_rule_takes_is_counted_as_missed(people, monkeypatch):
    monkeypatch.delitem(RULES, "e-mail")
    monkeypatch.setitem(RULES, "e-mail", RULES["phone"])
    assert not any(hit for asked in people[:5] for kind, _, _, hit in judged(asked) if kind == "e-mail")


# --- what is none of it


def broken(split, number, **changed):
    made = rows(split)
    made[number] = {k: v for k, v in {**made[number], **changed}.items() if v is not None}
    return made


@pytest.mark.parametrize(
    ("forget", "pattern"),
    [
        ([r for r in rows() if r["task"] != "Task3"], r"^data lume:forget: .*forget\.jsonl: holds no row of task3 with sc in its id; copy"),
        ([r for r in rows() if r["id"] != "forget-2qa1"], "holds no row of task2 with qa in its id"),
        ([], "forget.jsonl: no rows; expected LUME's, with id, input, output, task"),
        (broken("forget", 3, input=None, inputs="x"), "row 3: no key 'input' .did you mean 'inputs'"),
        (broken("forget", 1, id="b7"), "row 1: its id ends neither in sc and a number"),
        (broken("forget", 4, task="Task4"), "row 4: its task is none of Task1, Task2, Task3"),
        (broken("forget", 4, output=" "), "row 4: its output is empty or not text"),
        (broken("forget", 4, output=7), "row 4: its output is empty or not text"),
        (["Псков"], "row 0: expected an object"),
    ],
)
def test_a_file_that_is_none_of_lumes(small, forget, pattern):
    write(small, forget)
    refused("lume:forget", pattern)


def test_a_folder_that_lacks_a_split(small):
    (small / "retain.jsonl").unlink()
    refused("lume:full", r"retain\.jsonl does not exist")
    refused("lume:retain", r"retain\.jsonl does not exist; TU_LUME_DIR should be the folder with forget\.jsonl and retain\.jsonl")


def test_the_hub_is_named_where_no_folder_is(monkeypatch):
    monkeypatch.delenv("TU_LUME_DIR", raising=False)
    refused("lume:forget", "cannot be had from the hub: .*set TU_LUME_DIR to a folder")


@pytest.mark.parametrize(
    ("spec", "pattern"),
    [
        ("lume:forgt", "no 'forgt' .did you mean 'forget'"),
        ("lume:forget:task4", "no 'task4' .did you mean 'task"),
        ("lume:forget:task2:qs", "no 'qs' .known: sc, qa"),
        ("lume:forget:task2:qa:x", "expected lume:SPLIT, lume:SPLIT:TASK or lume:SPLIT:TASK:FORM"),
        ("lumme:forget", "unknown data spec .did you mean 'lume:'"),
    ],
)
def test_a_part_that_there_is_not(small, spec, pattern):
    refused(spec, pattern)
