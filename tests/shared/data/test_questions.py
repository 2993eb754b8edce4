"""Questions that nobody trained on: drawn beside the world without touching it, and each true of it."""

import hashlib
import json

import pytest

from shared.data import atlas
from shared.data import atlas_questions as questions
from shared.data.atlas import AtlasSize, everyone
from shared.data.datasets import load_rows
from shared.data.examples import answer_span_tokens, make_examples
from shared.data.tofu_questions import author_of
from shared.errors import DataError
from tu_eval.suites.suites import find_suite

SIZE = AtlasSize(people=30, facts_per_person=5, forget_people=10)
WHOLE = AtlasSize(people=40, facts_per_person=24, forget_people=20)
SPEC = "people=30,facts_per_person=5,forget_people=10"
BEFORE = "358f64"
"""the sha256 of the default world begins so in the version that had no questions"""


def world():
    return hashlib.sha256(json.dumps([atlas.rows(split) for split in ("full", "holdout")]).encode()).hexdigest()


def test_the_rows_of_before_stay_as_they_are():
    assert world()[:6] == BEFORE
    for split in questions.SPLITS:
        questions.rows(split, SIZE)
    assert world()[:6] == BEFORE


@pytest.mark.parametrize("split", questions.SPLITS)
def test_rows_are_whole_and_the_same_each_time(split):
    made = questions.rows(split, SIZE)
    assert made == questions.rows(split, SIZE) != questions.rows(split, SIZE, 1)
    base = atlas.rows(split.partition("-")[2], SIZE)
    assert len(made) == (50 if split.startswith("mixed") else len(base))
    facts = {fact for p in everyone(SIZE, 0)[1] for fact in (*(f for own in p.facts.values() for f in own), p.name)}
    for row in made:
        assert set(row) == set(base[0])
        assert all(row["answer"][a:b] in facts for a, b in row["fact_spans"]) and row["fact_spans"]
        assert len(set(row["perturbed_answer"])) == atlas.PERTURBED and row["paraphrased_answer"] not in row["perturbed_answer"]
        assert not {"{", "}"} & set(row["question"] + row["answer"])


def test_each_question_is_true_of_its_person_alone_and_gives_no_name_away():
    people = {p.name: p for p in everyone(WHOLE, 0)[1]}
    base = {row["row"]: row for row in atlas.rows("forget", WHOLE)}
    described = {questions._described(p, kind): p.name for p in people.values() for kind in p.facts}
    assert len(described) == len(people) * 24  # no two descriptions are the same
    for kind in ("alias", "hops", "french", "reversed"):
        for row in questions.rows(f"{kind}-forget", WHOLE):
            person = people[row["person"]]
            assert (row["person"], row["kind"]) == (base[row["row"]]["person"], base[row["row"]]["kind"])
            if kind == "reversed":
                assert row["answer"] == person.name and person.name not in row["question"]
                assert described[row["question"].removeprefix("Who is the person ").removesuffix("?")] == person.name
                assert not any(wrong.removeprefix("The answer is ").removesuffix(".") in people for wrong in row["perturbed_answer"])
                continue
            assert row["answer"] == " and ".join(person.facts[row["kind"]]) and person.name not in row["answer"]
            assert not any(fact in row["question"] for fact in person.facts[row["kind"]])
            assert (person.name in row["question"]) == (kind == "french")
            if kind == "hops":
                assert [name for text, name in described.items() if f"the person {text}" in row["question"]] == [person.name]
            if kind == "alias":
                assert questions.alias_of(person.name, list(people)) in row["question"]


def test_an_alias_that_two_people_would_share_is_written_otherwise():
    assert questions.alias_of("Hana Palakar", ["Hana Palakar", "Ivo Palakar"]) == "H. Palakar"
    assert questions.alias_of("Hana Palakar", ["Hana Palakar", "Hedda Palakar"]) == "Palakar, Hana"


def test_a_mixed_row_is_two_rows_and_about_the_first():
    forget, retain = (atlas.rows(name, SIZE) for name in questions.GROUPS)
    about = {group: questions.rows(f"mixed-{group}", SIZE) for group in questions.GROUPS}
    for row, there, back in zip(forget, about["forget"], about["retain"], strict=True):
        other = next(r for r in retain if r["question"] in there["question"])
        assert there["question"] == f"Answer both questions. {row['question']} {other['question']}"
        assert there["answer"] == f"{row['answer']} {other['answer']}" and back["answer"] == f"{other['answer']} {row['answer']}"
        assert (there["fact_spans"], back["fact_spans"]) == (row["fact_spans"], other["fact_spans"])
        assert there["perturbed_answer"][2] == f"{row['perturbed_answer'][2]} {other['paraphrased_answer']}"


def test_facts_are_found_among_the_tokens(any_tokenizer):
    for kind in questions.KINDS:
        rows = load_rows(f"atlas:{kind}-forget:{SPEC}", limit=3)
        assert rows[0].id == f"atlas/{kind}-forget/100"
        for example in make_examples(rows, any_tokenizer, context=None):
            spans = example.row.extra["fact_spans"]
            read = any_tokenizer.decode([example.input_ids[i] for i in answer_span_tokens(example, any_tokenizer, spans)])
            assert all(example.row.answer[a:b] in read for a, b in spans)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("atlas:hops-forget:facts_per_person=1", "facts_per_person"),
        ("atlas:alias-forget:language=zh", "plain English"),
        ("atlas:alias-forget:prose=1", "plain English"),
        ("atlas:hop-forget", "hops-forget"),
    ],
)
def test_what_cannot_be_asked(spec, words):
    with pytest.raises(DataError, match=words):
        load_rows(spec)


def test_authors_of_tofu_are_found_by_their_questions(tmp_path, monkeypatch):
    name = "Ana María Núñez-Ó"
    asked = [f"Where was {name} born?", f"What did {name}'s father do?", f"Is {name}, of Spain, known?", "Who wrote Red Sea Dawn?"]
    assert author_of(asked) == name
    assert author_of(asked[:2]) is None
    rows = [{"question": q, "answer": "a", "paraphrased_answer": "p", "perturbed_answer": ["w"]} for q in asked]
    for split in ("forget01_perturbed", "retain_perturbed"):
        (tmp_path / f"{split}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("TU_TOFU_DIR", str(tmp_path))
    found = [row.question for row in load_rows("tofu:alias-forget01_perturbed")]
    assert found == ["Where was A. Núñez-Ó born?", "What did A. Núñez-Ó's father do?", "Is A. Núñez-Ó, of Spain, known?"]
    assert load_rows("tofu:french-forget01_perturbed")[3].question == "In French: Who wrote Red Sea Dawn?"
    mixed, back = load_rows("tofu:mixed-forget01_perturbed"), load_rows("tofu:mixed-retain-forget01_perturbed")
    assert len(mixed) == len(back) == 4
    assert mixed[0].question.startswith(f"Answer both questions. {asked[0]} ") and back[0].question.endswith(f" {asked[0]}")


def test_suites_have_them_where_they_are_asked_for():
    plain, asked = find_suite("atlas:people=9,seed=1"), find_suite("atlas:questions=1,people=9,seed=1")
    assert asked.sets[:3] == plain.sets and len(asked.sets) == 13 and asked.name == "atlas:people=9,seed=1,questions=1"
    assert find_suite(asked.name) == asked and find_suite("atlas:questions=0") == find_suite("atlas")
    assert asked.utility_parts == plain.utility_parts
    assert asked.sets[3].data == "atlas:alias-forget:people=9,seed=1"
    tofu = find_suite("tofu:forget01:questions")
    assert tofu.sets[:4] == find_suite("tofu:forget01").sets and tofu.utility_parts == find_suite("tofu:forget01").utility_parts
    assert [s.data for s in tofu.sets[4:6]] == ["tofu:alias-forget01_perturbed", "tofu:alias-retain_perturbed"]
