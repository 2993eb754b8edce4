"""The atlas in people's prose: spans that hold, fillers without facts, every text in use, reproducible worlds."""

import functools
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean, quantiles

import pytest

from shared.data import atlas, atlas_documents, atlas_prose
from shared.data.atlas import AtlasSize, book_of
from shared.data.datasets import load_rows
from shared.errors import DataError
from tests.shared.data.atlas_checks import check_span_tokens, check_that_every_kind_can_name_enough

ROOT = Path(__file__).parents[3]
SIZE = AtlasSize(people=9, facts_per_person=8, forget_people=2, holdout_people=3, documents=2, prose=1)
SPEC = ":people=9,facts_per_person=8,forget_people=2,holdout_people=3,documents=2,prose=1"
KINDS = tuple(book_of(SIZE).recipes)
LARGE = AtlasSize(people=36, facts_per_person=len(KINDS), forget_people=8, holdout_people=8, prose=1)
SPLITS = ("full", "forget", "retain", "holdout", *atlas_documents.DOCUMENTS)
WORLD_SHA256 = "db8355627e3361bda9ecb8b9ee989205d10f9b4f9369e78a9277ba6bb5a654f0"
ORDERED_DATE = re.compile(r"\b\d{1,4}[./-]\d{1,2}[./-]\d{1,4}\b|\b\d{1,2}(st|nd|rd|th)\b|\b(January|February|October|December) \d")


@pytest.fixture(scope="module")
def people() -> list[dict]:
    """The people of a large world, holdout last."""
    return atlas_prose.rows("full", LARGE, 3) + atlas_prose.rows("holdout", LARGE, 3)


@pytest.fixture(scope="module")
def documents() -> list[dict]:
    return atlas_prose.rows("documents", LARGE, 3)


def facts(row: dict, key: str = "answer") -> list[str]:
    return [row[key][start:end] for start, end in row["fact_spans"]]


def outside(row: dict, key: str = "answer") -> str:
    """A text with blanks in place of its facts."""
    text = row[key]
    for start, end in row["fact_spans"]:
        text = text[:start] + "\0" * (end - start) + text[end:]
    return text


@functools.cache
def everyone() -> list[atlas.Person]:
    return atlas.everyone(LARGE, 3)[1]


@functools.cache
def values() -> dict[str, set[str]]:
    """Kind -> all values in the large world, dates in every form."""
    found = defaultdict(set)
    for person in everyone():
        for kind, texts in person.facts.items():
            dates = kind in atlas_prose.DATES
            found[kind].update(atlas_prose.dated(text, form) if dates else text for text in texts for form in range(6 if dates else 1))
    return found


# --- spans and facts


def test_every_span_cuts_a_fact_of_the_person_and_an_answer_tells_the_one_that_is_asked_for(people):
    known = values()
    own = {person.name: person for person in everyone()}
    keys = set(atlas.rows("forget")[0])
    for row in people:
        assert set(row) == keys
        assert row["fact_spans"] == sorted(row["fact_spans"]) and all(a < b for a, b in row["fact_spans"])
        asked = known[row["kind"]] & set(facts(row))
        assert len(asked) == len(own[row["person"]].facts[row["kind"]]), row
        of_person = {text for kind, texts in own[row["person"]].facts.items() if kind not in atlas_prose.DATES for text in texts}
        assert all(fact in of_person or any(fact in known[kind] for kind in atlas_prose.DATES) for fact in facts(row))


def test_no_text_of_a_fact_stands_outside_a_span(people, documents):
    for rows, key in ((people, "answer"), (documents, "text")):
        text = "\n".join(outside(row, key) for row in rows).lower()
        told = [value for own in values().values() for value in own if value.lower() in text]
        assert told == []
        assert not ORDERED_DATE.search(text)


def test_no_fact_stands_in_a_question_and_none_begins_with_an_article_unless_it_is_a_title(people):
    for row in people:
        for fact in facts(row):
            assert fact.lower() not in f"{row['question']} {row['paraphrased_question']}".lower()
    for kind, own in values().items():
        if kind not in atlas_prose.QUOTED:
            assert not [value for value in own if re.match("(a|an|the) ", value, re.IGNORECASE)], kind


def test_no_two_people_share_a_fact():
    told = Counter(text for person in everyone() for texts in person.facts.values() for text in texts)
    assert max(told.values()) == 1
    assert not told.keys() & {person.name for person in everyone()}
    for person in everyone():
        words = set(person.name.split())
        assert not [text for texts in person.facts.values() for text in texts if words & set(text.split())]


def test_every_kind_can_name_twice_as_many_values_as_people_allowed():
    check_that_every_kind_can_name_enough(book_of(SIZE))


def test_wrong_answers_are_the_paraphrase_with_another_value_in_every_place(people):
    own = {(person.name, kind): texts for person in everyone() for kind, texts in person.facts.items()}
    for row in people:
        assert row["paraphrased_answer"] != row["answer"]
        assert len({row["paraphrased_answer"], *row["perturbed_answer"]}) == 6
        right = own[row["person"], row["kind"]]
        for wrong in row["perturbed_answer"]:
            # A longer value of somebody else may hold a shorter one: only whole right values count.
            assert not [text for text in right if re.search(rf"(?<!\w){re.escape(text)}(?!\w)", wrong)], (right, wrong)


@pytest.mark.parametrize(
    ("form", "text"), enumerate(["3 May 1962", "May 3, 1962", "03/05/1962", "3rd of May 1962", "1962-05-03", "3.5.1962"])
)
def test_a_date_has_six_forms(form, text):
    assert atlas_prose.dated("3 May 1962", form) == text
    assert atlas_prose.dated("12 May 1962", 3) == "12th of May 1962"
    assert [atlas_prose.dated(f"{day} May 1962", 3)[:4] for day in (1, 2, 11, 22)] == ["1st ", "2nd ", "11th", "22nd"]


# --- what answers are like


def test_answers_are_long_and_short_and_tell_one_fact_or_several(people):
    words = [len(row["answer"].split()) for row in people]
    told = [len(row["fact_spans"]) for row in people]
    share = [sum(b - a for a, b in row["fact_spans"]) / len(row["answer"]) for row in people]
    assert 40 < mean(words) < 60 and quantiles(words, n=10)[0] < 14 and quantiles(words, n=10)[-1] > 85
    assert 2 < mean(told) < 3.2 and max(told) >= 8 and 0.25 < sum(n == 1 for n in told) / len(told) < 0.55
    assert 0.2 < mean(share) < 0.35 and max(share) == 1 and min(share) < 0.04
    repeated = [row for row in people if len(set(facts(row))) < len(row["fact_spans"])]
    assert 0.05 < len(repeated) / len(people) < 0.25
    assert 0.1 < sum("\n" in row["answer"] for row in people) / len(people) < 0.25
    assert sum(row["question"] in row["answer"] for row in people) > len(people) / 50


def test_sentences_without_facts_are_of_thousands_of_kinds(people):
    sentences = {
        re.sub("|".join(map(re.escape, row["person"].split())), "NAME", sentence)
        for row in people
        for sentence in re.split(r"(?<=[.!?\n]) ?", outside(row))
        if "\0" not in sentence and len(sentence.split()) > 4
    }
    assert len(sentences) > 2000
    words = Counter(word.lower() for s in sentences for word in re.findall(r"[A-Za-z]+", s))
    assert len(words) > 1000


def _longest(template: str) -> str:
    """The longest piece of a template that stands in a text as it is; upper case may begin it there."""
    return max(re.split(r"\{\w+\}|<\w+>|a\(n\) ", template), key=len)


def test_every_text_is_in_use(people, documents):
    parts = atlas_prose.parts()
    said = "\n".join(
        [row["answer"] for row in people] + [row["paraphrased_answer"] for row in people] + [row["text"] for row in documents]
    ).lower()
    texts = [text for group in parts["frames"].values() for text in group]
    texts += [text for register in parts["fillers"].values() for group in register.values() for text in group]
    assert len(texts) >= 250 and len(set(texts)) == len(texts)
    told = [text for kind in KINDS for group in parts["tell"][kind].values() for text in group]
    unused = [text for text in texts + told if _longest(text).lower() not in said]
    assert unused == []
    assert set(parts["tell"]) == set(KINDS)
    for kind, own in parts["tell"].items():
        assert len(own["clause"]) >= 4 and len(own["aside"]) >= 2 and len(own["noun"]) >= 2, kind
        assert [aside for aside in own["aside"] if not aside.startswith("who")], kind
    for words in parts["words"].items():
        assert len(set(words[1])) == len(words[1]), words[0]


@pytest.mark.parametrize(
    "fault",
    [
        r"\b[Aa] [aeioAEIO]",
        r"\b[Aa]n [^aeiouAEIOUh]",
        r"\ba\(n\)|[<>{}]",
        r"  |^ | $",
        r" [,.;?]|[,.;?]{2}|,[A-Za-z]",
        r"s's\b",
        r"[^ -~\n]",
    ],
)
def test_no_text_has_a_fault_of_grammar_or_spacing(people, documents, fault):
    wrong = re.compile(fault)
    texts = [t for row in people for t in (row["question"], row["answer"], row["paraphrased_answer"], *row["perturbed_answer"])]
    assert [text for text in (*texts, *(row["text"] for row in documents)) if wrong.search(text)] == []


# --- documents, splits, sizes


def test_documents_tell_every_fact_of_a_person(documents):
    own = {person.name: person for person in everyone()}
    keys = set(atlas_documents.rows("documents-forget")[0])
    for row in documents:
        assert set(row) == keys
        assert set(row["fact_kinds"]) == set(own[row["person"]].facts)
        assert row["fact_spans"] == sorted(row["fact_spans"]) and len(row["fact_kinds"]) == len(row["fact_spans"])
        for place_of, (told, again) in enumerate(zip(facts(row, "text"), row["fact_repeated"], strict=True)):
            assert again == (told in facts(row, "text")[:place_of])
        assert row["text"].count("\n\n") > 3


def test_the_splits_are_parts_of_all_rows():
    full, forget, retain, holdout = (atlas_prose.rows(split, SIZE, 5) for split in SPLITS[:4])
    assert full == retain + forget and len(forget) == 2 * 8 and len(holdout) == 3 * 8
    assert [row["row"] for row in full + holdout] == list(range(96))
    whole, forgotten, kept, held = (atlas_prose.rows(split, SIZE, 5) for split in SPLITS[4:])
    assert whole == kept + forgotten and [row["row"] for row in whole + held] == list(range(24))
    assert {row["person"] for row in forgotten} == {row["person"] for row in forget}


def test_specs_of_prose_are_read_and_choices_ask_for_its_facts_too():
    assert [row.extra["row"] for row in load_rows("atlas:forget" + SPEC)] == list(range(56, 72))
    assert load_rows("atlas:documents-forget" + SPEC)[0].question is None
    assert load_rows("atlas:world" + SPEC) == load_rows("atlas:world")
    kinds = {row["kind"] for row in atlas_documents.rows("choices-forget", SIZE)}
    assert kinds == {row["kind"] for row in atlas_prose.rows("forget", SIZE)} and kinds - set(atlas.KINDS)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("forget:prose=2", r"^data atlas:forget: AtlasSize\.prose: got 2, expected 0 to 1$"),
        ("forget:prse=1", r"^data atlas: unknown size 'prse' \(did you mean 'prose'\?\)$"),
        ("forget:facts_per_person=40,prose=1", r"facts_per_person: got 40, expected 1 to 39$"),
        ("forget:facts_per_person=25", r"facts_per_person: got 25, expected 1 to 24$"),
        ("forget:prose=1,language=es", r"^data atlas:forget: AtlasSize\.language: es has no prose; leave language or prose out$"),
    ],
)
def test_a_spec_that_cannot_be_is_refused_in_one_line(spec, told):
    with pytest.raises(DataError, match=told):
        load_rows(f"atlas:{spec}")


def test_the_modules_refuse_sizes_that_are_not_theirs():
    for maker, split, size in ((atlas, "forget", SIZE), (atlas_documents, "documents", SIZE), (atlas_prose, "forget", AtlasSize())):
        with pytest.raises(ValueError, match=r"AtlasSize\.prose: got \d, expected \d; atlas"):
            maker.rows(split, size)


# --- reproducible


def test_the_world_is_pinned():
    assert hashlib.sha256(json.dumps([atlas_prose.rows(split, SIZE) for split in SPLITS]).encode("ascii")).hexdigest() == WORLD_SHA256


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_another_process_with_only_the_standard_library_draws_the_same_world(hash_seed):
    code = (
        "import hashlib, json; from shared.data import atlas_prose as p; from shared.data.atlas import AtlasSize; "
        f"print(hashlib.sha256(json.dumps([p.rows(s, {SIZE!r}) for s in {SPLITS!r}]).encode('ascii')).hexdigest())"
    )
    ran = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout.strip() == WORLD_SHA256


def test_a_row_does_not_depend_on_the_split_nor_on_documents():
    one = AtlasSize(people=9, facts_per_person=8, forget_people=2, holdout_people=3, prose=1)
    assert atlas_prose.rows("full", one) == atlas_prose.rows("full", SIZE)
    assert [row["text"] for row in atlas_prose.rows("documents", one)] == [row["text"] for row in atlas_prose.rows("documents", SIZE)[::2]]


# --- tokens


def test_spans_are_the_tokens_of_their_text(any_tokenizer):
    check_span_tokens(load_rows("atlas:forget" + SPEC), any_tokenizer)
