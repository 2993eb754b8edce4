"""Biographies of the atlas and the questions on them."""

import hashlib
import json
import re
import subprocess
import sys

import pytest

from shared.data import atlas
from shared.data.atlas import AtlasSize
from shared.data.atlas_documents import CHOICES, DOCUMENTS, rows
from shared.data.datasets import load_rows
from shared.data.examples import make_examples
from shared.errors import DataError

SIZE = AtlasSize(people=9, facts_per_person=6, forget_people=2, holdout_people=3, documents=3)
LARGE = AtlasSize(people=40, facts_per_person=len(atlas.KINDS), forget_people=8, holdout_people=8, documents=atlas.VERSIONS)
SPEC = ":people=9,facts_per_person=6,forget_people=2,holdout_people=3,documents=3"


def test_the_splits_are_parts_of_all_documents():
    whole, forget, retain, holdout = (rows(split, SIZE, 5) for split in DOCUMENTS)
    assert retain + forget == whole and len(whole) == 9 * 3 and len(forget) == 2 * 3 and len(holdout) == 3 * 3
    assert [row["row"] for row in whole + holdout] == list(range(36))
    people = [row["person"] for row in atlas.rows("forget", SIZE, 5)]
    assert {row["person"] for row in forget} == set(people)
    assert not {row["person"] for row in holdout} & {row["person"] for row in whole}


@pytest.mark.parametrize(("size", "seed"), [(SIZE, 0), (LARGE, 3)])
def test_every_fact_is_told_and_every_place_of_it_is_a_span(size, seed):
    facts = {}
    for row in atlas.rows("full", size, seed):
        facts.setdefault(row["person"], {})[row["kind"]] = [row["answer"][a:b] for a, b in row["fact_spans"]]
    for row in rows("documents", size, seed):
        text, spans = row["text"], row["fact_spans"]
        told = [text[a:b] for a, b in spans]
        assert spans == sorted(spans) and all(a < b for a, b in spans)
        own = facts[row["person"]]
        assert set(row["fact_kinds"]) == set(own) and {value for values in own.values() for value in values} == set(told)
        for (a, b), kind, again in zip(spans, row["fact_kinds"], row["fact_repeated"], strict=True):
            assert text[a:b] in own[kind]
            assert again == any(text[x:y] == text[a:b] for x, y in spans if x < a)
        assert 0 < sum(row["fact_repeated"]) < len(spans) / 1.5 and row["fact_repeated"] == sorted(row["fact_repeated"])
        for value in set(told):
            assert len(re.findall(re.escape(value), text)) == told.count(value), "a fact stands nowhere else"
        assert text.isascii() and "  " not in text and "{" not in text and "<" not in text


def test_versions_tell_the_same_facts_in_other_words():
    by_person = {}
    for row in rows("documents", LARGE, 1):
        by_person.setdefault(row["person"], []).append(row)
    for documents in by_person.values():
        assert [row["version"] for row in documents] == list(range(atlas.VERSIONS))
        assert len({frozenset(row["fact_kinds"]) for row in documents}) == 1
        for kind in documents[0]["fact_kinds"]:
            told = []
            for row in documents:
                (a, _), *_ = [s for s, k in zip(row["fact_spans"], row["fact_kinds"], strict=True) if k == kind]
                begin = max(row["text"].rfind(mark, 0, a) for mark in (". ", "\n", "! "))
                told.append(re.sub(r"[A-Z]\w+", "", row["text"][begin + 1 : a]))
            assert len(set(told)) > atlas.VERSIONS / 3, kind


def test_documents_do_not_depend_on_how_many_are_asked_for_nor_the_world_on_them():
    one = AtlasSize(people=9, facts_per_person=6, forget_people=2, holdout_people=3)
    assert [row["text"] for row in rows("documents", one)] == [row["text"] for row in rows("documents", SIZE)[::3]]
    assert atlas.rows("full", one) == atlas.rows("full", SIZE)
    assert rows("choices-retain", one) == rows("choices-retain", SIZE)


@pytest.mark.parametrize("split", CHOICES)
def test_choices_hold_the_right_value_and_wrong_ones_that_are_nobodys(split):
    made = rows(split, SIZE)
    if split == "choices-world":
        assert [row["choices"][row["answer"]] for row in made] == [answer for _, answer, _ in atlas.WORLD]
    else:
        facts = atlas.rows(split.removeprefix("choices-"), SIZE)
        everyone = {row["answer"][a:b] for row in atlas.rows("full", SIZE) + atlas.rows("holdout", SIZE) for a, b in row["fact_spans"]}
        assert [(r["person"], r["kind"], r["row"]) for r in made] == [(r["person"], r["kind"], r["row"]) for r in facts]
        for row, fact in zip(made, facts, strict=True):
            assert row["choices"][row["answer"]] == " and ".join(fact["answer"][a:b] for a, b in fact["fact_spans"])
            assert not set(row["choices"]) - {row["choices"][row["answer"]]} & everyone
            assert row["person"] in row["question"]
    assert all(len(set(row["choices"])) == 4 for row in made)
    assert {row["answer"] for row in made} == {0, 1, 2, 3}


def test_documents_are_raw_text_and_choices_are_read_as_such(any_tokenizer):
    read = load_rows("atlas:documents-forget" + SPEC)
    assert [row.question for row in read] == [None] * 6 and read[0].id == "atlas/documents-forget/21"
    assert load_rows("atlas:documents-forget" + SPEC, limit=2) == read[:2]
    assert read[0].extra["fact_spans"] and "text" not in read[0].extra
    lengths = [len(e.input_ids) for e in make_examples(read, any_tokenizer, context=None, text_length=4096)]
    assert min(lengths) > 100


def test_a_split_that_is_near_is_named():
    with pytest.raises(DataError, match=r"did you mean 'documents-forget'\?"):
        load_rows("atlas:document-forget")
    with pytest.raises(DataError, match=r"AtlasSize\.documents: got 7, expected 1 to 6"):
        load_rows("atlas:documents:documents=7")


HASH = """
import hashlib, json
from shared.data import atlas_documents as a
print(hashlib.sha256(json.dumps([a.rows(s) for s in (*a.DOCUMENTS, *a.CHOICES)]).encode("ascii")).hexdigest())
"""


def test_the_same_rows_come_in_every_process():
    own = hashlib.sha256(json.dumps([rows(s) for s in (*DOCUMENTS, *CHOICES)]).encode("ascii")).hexdigest()
    other = subprocess.run([sys.executable, "-c", HASH], capture_output=True, text=True, check=True).stdout.strip()
    assert own == other
