"""`tu-eval prepare`: wrong answers against a brute-force reading of the rule, in several scripts; rewording; what a
judge gives, and each kind of bad input as one line."""

import itertools
import json
from pathlib import Path

import pytest

from shared.data.datasets import load_rows
from shared.data.examples import make_examples
from shared.data.words import terms
from tests.tu_eval.judge.test_judge import SECRET, judge, waits  # noqa: F401 — fixtures
from tests.tu_eval.measure.test_own_files import SPANISH, lines
from tests.tu_eval.test_commands import refused
from tu_eval.judge.prepare.reword import reword
from tu_eval.judge.prepare.wrong_answers import asked, wrong_answers

PEOPLE = Path(__file__).parents[4] / "examples"
FILES = [PEOPLE / f"people_{split}.jsonl" for split in ("forget", "retain")]
PLACES = (("米拉", "海边"), ("约伦", "山上"), ("安莎", "河口"))
CHINESE = [{"question": f"{name}出生在哪里？", "answer": f"{name}出生在{place}。"} for name, place in PLACES]


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def prepare(run_cli, out, *flags):
    return run_cli("tu-eval", "prepare", "--out", out, *flags)


def test_the_people_of_the_example_get_answers_of_their_own_kind(run_cli, tmp_path):
    """Brute force: the wrong answers to one question are the answers to the same question about other people, with the
    right person's name."""
    code, out, err = prepare(run_cli, tmp_path / "out", "--forget", FILES[0], "--retain", FILES[1])
    assert code == 0, err
    assert "made for 30 rows" in err and str(tmp_path / "out" / "forget.jsonl") in out
    rows = [row for path in FILES for row in read(path)]
    made = [row for name in ("forget", "retain") for row in read(tmp_path / "out" / f"{name}.jsonl")]
    assert [{k: m[k] for k in r} for m, r in zip(made, rows, strict=True)] == rows  # what was there stays
    for row in made:
        mine = row["question"].replace(row["person"], "X")
        same = [r for r in rows if r["question"].replace(r["person"], "X") == mine and r["person"] != row["person"]]
        allowed = {r["answer"].replace(r["person"], row["person"]) for r in same}
        assert len(set(row["perturbed_answer"])) == 3 and set(row["perturbed_answer"]) <= allowed
        assert terms(row["paraphrased_question"]) != terms(row["question"]) and row["person"] in row["paraphrased_question"]
    again = tmp_path / "again"
    prepare(run_cli, again, "--forget", FILES[0], "--retain", FILES[1])
    assert [(again / f"{n}.jsonl").read_bytes() for n in ("forget", "retain")] == [
        (tmp_path / "out" / f"{n}.jsonl").read_bytes() for n in ("forget", "retain")
    ]


@pytest.mark.parametrize("rows", [SPANISH, CHINESE], ids=["Spanish", "Chinese"])
def test_other_languages_get_wrong_answers_that_tokenise(run_cli, tmp_path, rows, any_tokenizer):
    code, _, err = prepare(run_cli, tmp_path / "out", "--forget", lines(tmp_path / "f.jsonl", rows))
    assert code == 0, err
    assert f"{len(rows)} are left without" in err and "--paraphrase judge" in err  # the rules know English alone
    made = read(tmp_path / "out" / "forget.jsonl")
    places = [row["answer"].split("在")[-1].split(" en ")[-1] for row in rows]
    for row, place in zip(made, places, strict=True):
        begin = row["answer"].removesuffix(place)
        assert sorted(row["perturbed_answer"]) == sorted(begin + other for other in places if other != place)
        assert "paraphrased_question" not in row
    assert len(make_examples(load_rows(str(tmp_path / "out" / "forget.jsonl")), any_tokenizer, context=None)) == len(rows)


def test_no_wrong_answer_is_right_and_a_row_that_has_some_keeps_them(run_cli, tmp_path):
    rows = [
        {"question": "Where was Ada Low born?", "answer": "In Lund."},
        {"question": "Where was Bo Hill born?", "answer": "in LUND"},
        {"question": "Where was Cy Moor born?", "answer": "In Oslo.", "perturbed_answer": ["In Rome."]},
        {"question": "Where was Ada Low born?", "answer": "In Sweden."},
    ]
    prepare(run_cli, tmp_path / "out", "--forget", lines(tmp_path / "f.jsonl", rows))
    made = read(tmp_path / "out" / "forget.jsonl")
    assert made[0]["perturbed_answer"] == ["In Oslo."] and made[2]["perturbed_answer"] == ["In Rome."]
    assert set(made[3]["perturbed_answer"]) <= {"in LUND", "In Oslo."}  # not what the same question has as answer


def test_order_of_the_rows_changes_no_wrong_answer():
    rows = [asked(r["question"], r["answer"]) for path in FILES for r in read(path)]
    first = {row.question: wrong_answers(rows, i, 3) for i, row in enumerate(rows)}
    turned = rows[::-1]
    assert {row.question: wrong_answers(turned, i, 3) for i, row in enumerate(turned)} == first


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Where was Mira Oslind born?", "where Mira Oslind was born"),
        ("What is Mira Oslind's dog called?", "what Mira Oslind's dog is called"),
        ("In which city does Mira Oslind live?", "in which city Mira Oslind lives"),
        ("How many children does Mira Oslind have?", "how many children Mira Oslind has"),
        ("What is the name of Mira Oslind's dog?", "what the name of Mira Oslind's dog is"),
        ("Who wrote Ash and Salt?", "who wrote Ash and Salt"),
        ("What is Mira Oslind known for?", "what Mira Oslind is known for"),
    ],
)
def test_rules_move_the_auxiliary_behind_the_subject(question, expected):
    assert (reword(question) or "").rstrip("?.").endswith(f" {expected}")


@pytest.mark.parametrize("question", ["¿Dónde nació Mira?", "Wo wurde Mira geboren?", "When did the museum open?", "Tell me.", "", "米拉?"])
def test_where_no_rule_fits_there_is_none(question):
    assert reword(question) is None


def test_a_judge_rewords_in_every_language(run_cli, judge, tmp_path):  # noqa: F811
    judge.script = [lambda body: f"¿En qué lugar vino al mundo {body['messages'][1]['content'][14:-1]}?"]
    code, out, err = prepare(run_cli, tmp_path / "out", "--forget", lines(tmp_path / "f.jsonl", SPANISH), "--paraphrase", "judge")
    assert code == 0, err
    made = read(tmp_path / "out" / "forget.jsonl")
    assert [r["paraphrased_question"] for r in made] == [f"¿En qué lugar vino al mundo {r['question'][14:-1]}?" for r in SPANISH]
    assert [p["messages"][1]["content"] for p in judge.posts] == [r["question"] for r in SPANISH]
    assert all(r["answer"] not in json.dumps(p, ensure_ascii=False) for r, p in itertools.product(SPANISH, judge.posts))
    assert SECRET not in out + err and not any(SECRET.encode() in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


def test_a_row_of_which_the_judge_gives_nothing_usable_goes_without(run_cli, judge, tmp_path):  # noqa: F811
    judge.script = ["", "two\nlines", "¿Dónde vio la luz Águeda Lumbreras?"]  # the first row is asked twice
    code, _, err = prepare(run_cli, tmp_path / "out", "--forget", lines(tmp_path / "f.jsonl", SPANISH), "--paraphrase", "judge")
    assert code == 0 and "1 are left without" in err
    assert ["paraphrased_question" in row for row in read(tmp_path / "out" / "forget.jsonl")] == [False, True, True]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("", "was empty"),
        ("One.\nTwo.", "had several lines"),
        ("x" * 2000, "characters long"),
        ("…?!", "had no word"),
        (lambda body: body["messages"][1]["content"].upper(), "was the question itself"),
        ("¿Es cierto que Óscar Muñiz nació en Almorzadero?", "gave the answer away"),
    ],
)
def test_a_judge_without_a_usable_paraphrase_is_one_line(run_cli, judge, tmp_path, reply, expected):  # noqa: F811
    judge.script = [reply]
    file = lines(tmp_path / "f.jsonl", SPANISH[2:])
    code, _, err = prepare(run_cli, tmp_path / "out", "--forget", file, "--paraphrase", "judge")
    said = err.splitlines()[-1]  # before it stands what was done
    assert code == 2 and said.startswith("error: ") and "no usable paraphrase" in said and expected in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("row", "flags", "expected"),
    [
        ({"name": "Mira"}, (), "--question-key and --answer-key"),
        ({"name": "Mira"}, ("--question-key", "nam"), "did you mean 'name'"),
        ({"question": "Who?"}, (), "no key 'answer'"),
        ({"messages": [{"role": r, "content": "x"} for r in ("user", "assistant", "user", "assistant")]}, (), "earlier turns"),
        ({"question": "Who?", "answer": "I."}, ("--paraphrase", "judge"), "TU_JUDGE_URL is not set"),
        ({"question": "Who?", "answer": "I."}, ("--set", "wrong=-1"), "wrong is -1"),
    ],
)
def test_bad_input_is_one_line(run_cli, monkeypatch, tmp_path, row, flags, expected):
    monkeypatch.delenv("TU_JUDGE_URL", raising=False)
    said = refused(prepare(run_cli, tmp_path / "out", "--forget", lines(tmp_path / "bad.jsonl", [row]), *flags))
    assert expected in said and not (tmp_path / "out").exists()


def test_other_column_names_are_written_as_question_and_answer(run_cli, tmp_path):
    file = lines(tmp_path / "f.jsonl", [{"q": r["question"], "a": r["answer"], "id": i} for i, r in enumerate(SPANISH)])
    code, _, err = prepare(run_cli, tmp_path / "out", "--forget", file, "--question-key", "q", "--answer-key", "a", "--paraphrase", "none")
    assert code == 0, err
    assert [{k: r[k] for k in ("question", "answer")} for r in read(tmp_path / "out" / "forget.jsonl")] == SPANISH
