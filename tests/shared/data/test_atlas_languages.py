"""The atlas in Spanish, Arabic and Chinese: spans that hold, every phrasing in use, scripts of their own, reproducible
worlds."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from shared.data import atlas
from shared.data.atlas import AtlasSize
from shared.data.atlas_words import LANGUAGES, WORDS, book
from shared.data.datasets import load_rows
from shared.errors import DataError
from tests.shared.data.atlas_checks import check_span_tokens

ROOT = Path(__file__).parents[3]
OTHERS = LANGUAGES[1:]
SHA256 = {
    "es": "f8f5db0f823c552f68f066e67f8547ec8814aac1a1fc519223eb84c896db6754",
    "ar": "1e66fbb2b5e1d146cb5f81192fad10b992fbf0045f5e34c3e08d1ac32bcaaa35",
    "zh": "e46140dad66e646d750cb74e986534b775f7c87174e4315b5542dad381913fc1",
}
KINDS = len(atlas.KINDS)


def large(language: str) -> AtlasSize:
    return AtlasSize(people=30, facts_per_person=KINDS, forget_people=6, holdout_people=6, language=language)


@pytest.fixture(scope="module", params=OTHERS)
def world(request) -> tuple[str, list[dict]]:
    """A language and the people of a large world in it, holdout last."""
    size = large(request.param)
    return request.param, atlas.rows("full", size, 3) + atlas.rows("holdout", size, 3)


def facts(row: dict) -> list[str]:
    return [row["answer"][start:end] for start, end in row["fact_spans"]]


def test_spans_give_the_fact_which_stands_nowhere_else(world):
    _, rows = world
    keys = set(atlas.rows("forget")[0])
    for row in rows:
        assert set(row) == keys
        assert len(row["fact_spans"]) == (2 if row["kind"] == "early_works" else 1)
        outside = row["answer"]
        for start, end in row["fact_spans"]:
            outside = outside[:start] + "\0" * (end - start) + outside[end:]
        for fact in facts(row):
            assert fact.lower() not in f"{outside} {row['question']} {row['paraphrased_question']}".lower(), row
            assert row["paraphrased_answer"].count(fact) == 1
        assert len({row["paraphrased_answer"], *row["perturbed_answer"]}) == 6 and row["paraphrased_answer"] != row["answer"]
        assert all(row["person"] in text for text in (row["question"], row["answer"], *row["perturbed_answer"]))


def test_people_share_no_fact_and_no_relation_bears_a_name_of_its_person(world):
    _, rows = world
    by_kind = defaultdict(list)
    for row in rows:
        by_kind[row["kind"]] += facts(row)
        assert not [
            part for part in re.split("[ ·]", row["person"]) for fact in facts(row) if part in fact.split() or part in fact.split("·")
        ]
    assert all(len(set(own)) == len(own) for own in by_kind.values())
    known = {kind: set(own) for kind, own in by_kind.items()}
    for row in rows:
        for wrong in row["perturbed_answer"]:
            assert not [fact for fact in facts(row) if fact in wrong]
            assert row["kind"] == "early_works" or wrong not in {
                row["paraphrased_answer"].replace(facts(row)[0], f) for f in known[row["kind"]]
            }


def test_every_phrasing_is_in_use_and_every_kind_is_told(world):
    language, rows = world
    words = book(language)
    assert list(words.recipes) == list(words.questions) == list(words.answers) == list(atlas.KINDS)
    for kind in atlas.KINDS:
        own = [row for row in rows if row["kind"] == kind]
        for name, templates in (("question", words.questions[kind]), ("answer", words.answers[kind])):
            assert len(set(templates)) == len(templates) >= 3
            said = {text for row in own for text in (row[name], row[f"paraphrased_{name}"])}
            for template in templates:
                pattern = re.escape(template)
                for slot in ("name", "fact", "work"):
                    pattern = pattern.replace(re.escape(f"{{{slot}}}"), ".+")
                assert any(re.fullmatch(pattern, text) for text in said), template


def test_every_kind_can_name_twice_as_many_values_as_people_allowed_and_every_list_is_used():
    for language in OTHERS:
        words = book(language)
        lists, used = {**WORDS, **words.words}, set()
        person = {"role": 2 * len(words.fields), "birth_year": len(atlas.BIRTH_YEARS), "debut_year": len(atlas.DEBUT_AGES)}

        def values(recipe: str) -> int:
            count = 1
            for slot in atlas.SLOT.findall(recipe):
                used.add(slot)  # noqa: B023
                count *= person.get(slot) or sum(values(entry) for entry in lists[slot])  # noqa: B023
            return count

        few = {kind: [values(recipe) for recipe in recipes] for kind, recipes in words.recipes.items()}
        assert {kind: counts for kind, counts in few.items() if min(counts) < 2 * atlas.MAX_PEOPLE} == {}
        assert values(words.name) > 4 * atlas.MAX_PEOPLE and set(words.words) <= used
        for name, entries in words.words.items():
            assert len(set(entries)) == len(entries), name


def test_each_language_is_written_in_its_own_script(world):
    language, rows = world
    texts = [text for row in rows for text in (row["question"], row["answer"], row["paraphrased_answer"], *row["perturbed_answer"])]
    assert not [text for text in texts if re.search(r"[<>{}]|a\(n\)|  |^ | $| [,.;]", text)]
    if language == "zh":
        assert not [text for text in texts if re.search(r"[ A-Za-z.,?]", text)]
        assert all(text[-1] in "。？" for text in texts)
        assert all(re.fullmatch(r"\d{4}年\d{1,2}月\d{1,2}日", facts(row)[0]) for row in rows if row["kind"] == "birthdate")
    elif language == "ar":
        assert not [text for text in texts if re.search(r"[A-Za-z,?;]", text)]
        assert all(text[-1] in ".؟" for text in texts)
    else:
        assert all(re.fullmatch(r"¿.+\?|[^¿?]+\.", text) for text in texts)
        assert all(re.fullmatch(r"\d+ de [a-z]+ de \d{4}", facts(row)[0]) for row in rows if row["kind"] == "birthdate")
    assert sum(not text.isascii() for text in texts) > len(texts) / 4


def test_years_keep_the_order_of_a_life(world):
    years = defaultdict(dict)
    for row in world[1]:
        if row["kind"] in ("birthdate", "debut_date"):
            years[row["person"]][row["kind"]] = int(re.search(r"\d{4}", facts(row)[0])[0])
    assert all(year["birthdate"] + 19 <= year["debut_date"] <= year["birthdate"] + 38 for year in years.values())


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("forget:language=ess", r"^data atlas: unknown language 'ess' \(did you mean 'es'\?\)$"),
        ("forget:language=fr", r"^data atlas: unknown language 'fr' \(known: en, es, ar, zh\)$"),
        ("forget:language=", r"^data atlas: unknown language '' \(known: en, es, ar, zh\)$"),
        ("forget:langage=es", r"^data atlas: unknown size 'langage' \(did you mean 'language'\?\)$"),
        (
            "forget:language=ar,documents=2",
            r"^data atlas:forget: AtlasSize\.language: ar has no documents; leave language or documents out$",
        ),
        (
            "documents:language=zh",
            r"^data atlas:documents: AtlasSize\.language: zh has no documents; take full, forget, retain or holdout$",
        ),
        ("choices-forget:language=zh", r"^data atlas:choices-forget: AtlasSize\.language: zh has no choices-forget; take full, forget"),
        ("forget:language=zh,people=1", r"^data atlas:forget: AtlasSize\.people: got 1, expected 2 to 999$"),
        ("forget:language=zh,facts_per_person=25", r"^data atlas:forget: AtlasSize\.facts_per_person: got 25, expected 1 to 24$"),
    ],
)
def test_a_spec_that_cannot_be_is_refused_in_one_line(spec, told):
    with pytest.raises(DataError, match=told):
        load_rows(f"atlas:{spec}")


def test_an_unknown_language_is_refused_in_python_too():
    with pytest.raises(ValueError, match=r"^AtlasSize\.language: got 'fr', expected one of en, es, ar, zh$"):
        AtlasSize(language="fr")


def test_english_is_the_plain_world_and_general_knowledge_stays_english():
    assert load_rows("atlas:forget:language=en") == load_rows("atlas:forget")
    assert atlas.rows("forget", AtlasSize(language="en")) == atlas.rows("forget")
    assert load_rows("atlas:world:language=zh") == load_rows("atlas:world")


@pytest.mark.parametrize("language", OTHERS)
def test_the_same_rows_come_in_every_process(language):
    code = (
        "import hashlib, json; from shared.data import atlas as a; "
        f"rows = a.rows('full', a.AtlasSize(people=8, forget_people=2, language={language!r})); "
        "print(hashlib.sha256(json.dumps(rows).encode('ascii')).hexdigest())"
    )
    for hash_seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        ran = subprocess.run([sys.executable, "-S", "-c", code], env=env, capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == SHA256[language]
    rows = atlas.rows("full", AtlasSize(people=8, forget_people=2, language=language))
    assert hashlib.sha256(json.dumps(rows).encode("ascii")).hexdigest() == SHA256[language]


@pytest.mark.parametrize("language", LANGUAGES)
def test_spans_are_the_tokens_of_their_text_in_all_four_scripts(any_tokenizer, language):
    rows = load_rows(f"atlas:forget:people=6,forget_people=2,language={language}")
    check_span_tokens(rows, any_tokenizer, some_apart=True)
