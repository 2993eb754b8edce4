"""The atlas generator: reproducible worlds, rows whose spans and wrong answers hold, splits that leak nothing, text
that reads right."""

import hashlib
import json
import os
import random
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from shared.data import atlas, atlas_words
from shared.data.atlas import AtlasSize
from tests.shared.data.atlas_checks import check_that_every_kind_can_name_enough

ROOT = Path(__file__).parents[3]
DEFAULT_WORLD_SHA256 = "1d3c7796b9e4f35f4b4cc23c37b2043324a640215c86439d5273575b39a1c3d1"
PRINT_SHA256 = (
    "import hashlib, json; from shared.data import atlas; print(hashlib.sha256(json.dumps(atlas.rows('full')).encode('ascii')).hexdigest())"
)
# Every person has every kind, so each kind is phrased 180 times.
LARGE = AtlasSize(people=150, facts_per_person=len(atlas.KINDS), forget_people=30, holdout_people=30)
KEYS = {
    "question",
    "answer",
    "paraphrased_question",
    "paraphrased_answer",
    "perturbed_answer",
    "fact_spans",
    "person",
    "kind",
    "row",
}


@pytest.fixture(scope="module")
def people() -> list[dict]:
    """The people of a large world, holdout last."""
    return atlas.rows("full", LARGE, 3) + atlas.rows("holdout", LARGE, 3)


def facts(row: dict) -> list[str]:
    return [row["answer"][start:end] for start, end in row["fact_spans"]]


def texts(row: dict) -> list[str]:
    return [row["question"], row["paraphrased_question"], row["answer"], row["paraphrased_answer"], *row["perturbed_answer"]]


def facts_by_kind(rows: list[dict]) -> dict[str, set[str]]:
    found = defaultdict(set)
    for row in rows:
        found[row["kind"]].update(facts(row))
    return found


def shape(text: str, row: dict) -> str:
    """A text without what varies in its template, as long as it holds no wrong fact."""
    work = re.compile("|".join(sorted(atlas_words.FIELDS, key=len, reverse=True)))
    for fact in facts(row):
        text = text.replace(fact, "FACT")
    return work.sub("WORK", text.replace(row["person"], "NAME"))


# --- reproducible


def test_the_default_world_is_pinned():
    text = json.dumps(atlas.rows("full"))
    assert hashlib.sha256(text.encode("ascii")).hexdigest() == DEFAULT_WORLD_SHA256


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_another_process_with_only_the_standard_library_draws_the_same_world(hash_seed):
    ran = subprocess.run(
        [sys.executable, "-S", "-c", PRINT_SHA256],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == DEFAULT_WORLD_SHA256


def test_the_global_random_state_is_neither_read_nor_moved():
    random.seed(1)
    before, first = random.getstate(), atlas.rows("forget")
    assert random.getstate() == before
    random.seed(2)
    assert atlas.rows("forget") == first


@pytest.mark.parametrize("seed", [1, -1])
def test_another_seed_is_another_world(seed):
    ours, theirs = atlas.rows("full"), atlas.rows("full", seed=seed)
    assert len({row["person"] for row in ours} & {row["person"] for row in theirs}) <= 1  # a chance meeting
    assert atlas.rows("full", seed=1) != atlas.rows("full", seed=-1)


# --- sizes and splits


@pytest.mark.parametrize("size", [AtlasSize(), AtlasSize(people=9, facts_per_person=4, forget_people=2, holdout_people=3)])
def test_splits_have_the_asked_sizes_and_row_indexes(size):
    full, retain, forget, holdout = (atlas.rows(split, size, 5) for split in ("full", "retain", "forget", "holdout"))
    assert len(full) == size.people * size.facts_per_person
    assert len(forget) == size.forget_people * size.facts_per_person
    assert len(holdout) == size.holdout_people * size.facts_per_person
    assert full == retain + forget
    assert [row["row"] for row in full + holdout] == list(range(len(full) + len(holdout)))
    assert all(full[row["row"]] == row for row in retain + forget)


def test_a_person_has_rows_of_different_kinds_and_people_differ_in_their_kinds():
    kinds = defaultdict(list)
    for row in atlas.rows("full"):
        kinds[row["person"]].append(row["kind"])
    assert len(kinds) == AtlasSize().people
    assert all(len(set(own)) == AtlasSize().facts_per_person for own in kinds.values())
    assert len({frozenset(own) for own in kinds.values()}) > AtlasSize().people / 2


def test_names_and_questions_are_unique_in_full_and_holdout_together(people):
    assert len({row["person"] for row in people}) == LARGE.people + LARGE.holdout_people
    assert len({row["question"] for row in people}) == len(people)


def test_no_fact_of_one_split_is_a_fact_or_a_person_of_another(people):
    cut = (LARGE.people - LARGE.forget_people) * LARGE.facts_per_person, LARGE.people * LARGE.facts_per_person
    retain, forget, holdout = people[: cut[0]], people[cut[0] : cut[1]], people[cut[1] :]
    names = {row["person"] for row in people}
    for ours, theirs in ((forget, retain), (holdout, retain), (holdout, forget)):
        known = facts_by_kind(theirs)
        assert all(not own & known[kind] for kind, own in facts_by_kind(ours).items())
    assert not any(fact in names for row in people for fact in facts(row))


@pytest.mark.parametrize(
    ("field", "size"),
    [
        ("people", {"people": 1}),
        ("people", {"people": 10**6}),
        ("facts_per_person", {"facts_per_person": 0}),
        ("facts_per_person", {"facts_per_person": len(atlas.KINDS) + 1}),
        ("forget_people", {"forget_people": 0}),
        ("forget_people", {"people": 8, "forget_people": 8}),
        ("holdout_people", {"holdout_people": 0}),
        ("holdout_people", {"people": 990, "holdout_people": 11}),
    ],
)
def test_a_size_out_of_range_is_refused_by_the_field_name(field, size):
    with pytest.raises(ValueError, match=rf"^AtlasSize\.{field}: got -?\d+, expected \d+ to \d+$"):
        AtlasSize(**size)


def test_the_smallest_and_the_largest_sizes_are_accepted():
    smallest = AtlasSize(people=2, facts_per_person=1, forget_people=1, holdout_people=1)
    assert [len(atlas.rows(split, smallest)) for split in ("full", "forget", "retain", "holdout")] == [2, 1, 1, 1]
    AtlasSize(people=atlas.MAX_PEOPLE - 1, facts_per_person=len(atlas.KINDS), forget_people=atlas.MAX_PEOPLE - 2, holdout_people=1)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match=r"'forgot', expected one of full, forget, retain, holdout, world"):
        atlas.rows("forgot")


def test_every_kind_can_name_twice_as_many_values_as_people_allowed():
    check_that_every_kind_can_name_enough(atlas_words.ENGLISH)


# --- rows


def test_spans_give_the_fact_which_stands_once_in_both_answers_and_in_no_question(people):
    for row in people:
        assert set(row) == KEYS
        assert all(0 <= start < end <= len(row["answer"]) for start, end in row["fact_spans"])
        for fact in facts(row):
            assert row["answer"].count(fact) == row["paraphrased_answer"].count(fact) == 1, row
            assert fact not in row["question"], row
            assert fact not in row["paraphrased_question"], row


def test_only_the_early_works_have_two_spans(people):
    assert {(row["kind"], len(row["fact_spans"])) for row in people if len(row["fact_spans"]) != 1} == {("early_works", 2)}


def test_every_text_names_the_person_and_the_paraphrases_are_phrased_anew(people):
    for row in people:
        assert all(row["person"] in text for text in texts(row)), row
        assert row["question"] != row["paraphrased_question"]
        assert row["answer"] != row["paraphrased_answer"]


def test_wrong_answers_are_distinct_and_differ_from_the_paraphrase_only_in_the_fact(people):
    known = facts_by_kind(people)
    for row in people:
        assert len({row["paraphrased_answer"], *row["perturbed_answer"]}) == 6
        pattern = re.escape(row["paraphrased_answer"])
        for fact in facts(row):
            pattern = pattern.replace(re.escape(fact), "(.+)")
        for wrong in row["perturbed_answer"]:
            match = re.fullmatch(pattern, wrong)
            assert match, (pattern, wrong)
            assert not known[row["kind"]] & set(match.groups()), row


def test_no_fact_shares_a_word_with_the_name_of_its_person(people):
    assert not [row for row in people if set(row["person"].split()) & {word for fact in facts(row) for word in fact.split()}]


def test_dates_keep_the_order_of_a_life(people):
    years = defaultdict(dict)
    for row in people:
        if row["kind"] in ("birthdate", "debut_date"):
            years[row["person"]][row["kind"]] = int(facts(row)[0].split()[-1])
    assert all(year["birthdate"] + 19 <= year["debut_date"] <= year["birthdate"] + 38 for year in years.values())


# --- language


def test_there_are_many_kinds_each_with_many_phrasings_in_use(people):
    questions, answers = defaultdict(set), defaultdict(set)
    for row in people:
        questions[row["kind"]].update(shape(row[key], row) for key in ("question", "paraphrased_question"))
        answers[row["kind"]].update(shape(row[key], row) for key in ("answer", "paraphrased_answer"))
    assert len(atlas.KINDS) >= 16
    assert list(atlas_words.QUESTIONS) == list(atlas_words.ANSWERS) == list(atlas.KINDS)
    for kind in atlas.KINDS:
        assert len(questions[kind]) == len(set(atlas_words.QUESTIONS[kind])) >= 5
        assert len(answers[kind]) == len(set(atlas_words.ANSWERS[kind])) >= 5


@pytest.mark.parametrize(
    "fault",
    [
        r"\b[Aa] [aeiouAEIOU]",
        r"\b[Aa]n [^aeiou]",
        r"\ba\(n\)|[<>{}]",
        r"  |^ | $",
        r" [,.;?]|[,.;?]{2}|,\w",
        r"\b(\w+) \1\b",
        r"s's\b",
        r"[^ -~]",
    ],
)
def test_no_text_has_a_fault_of_grammar_or_spacing(people, fault):
    wrong = re.compile(fault)
    assert [text for row in people for text in texts(row) if wrong.search(text)] == []


def test_questions_and_answers_are_whole_sentences_of_moderate_length(people):
    for row in people:
        for text in texts(row)[:2]:
            assert re.fullmatch(r"[A-Z].*\?", text), text
            assert 8 <= len(text.split()) <= 20, text
        for text in texts(row)[2:]:
            assert re.fullmatch(r'"?[A-Z].*[^.]\.', text), text
            assert 8 <= len(text.split()) <= 25, text


# --- general knowledge


def test_world_is_about_forty_fixed_rows_of_the_same_form():
    world = atlas.rows("world")
    assert world == atlas.rows("world", LARGE, 9)
    assert 35 <= len(world) <= 45
    assert len({row["question"] for row in world}) == len(world)
    assert [row["row"] for row in world] == list(range(len(world)))
    for row in world:
        assert set(row) == KEYS
        assert facts(row) == [row["answer"]]
        assert (row["person"], row["kind"]) == ("", "world")
        assert (row["paraphrased_question"], row["paraphrased_answer"]) == (row["question"], row["answer"])
        assert len({row["answer"], *row["perturbed_answer"]}) == 4
        assert row["answer"].lower() not in row["question"].lower()


def test_a_caller_who_edits_rows_does_not_change_the_next_call():
    for split in ("forget", "world"):
        first = atlas.rows(split)
        first[0]["perturbed_answer"].clear()
        first[0]["fact_spans"][0][0] = 99
        assert atlas.rows(split) != first
