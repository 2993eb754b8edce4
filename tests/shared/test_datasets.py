"""Data specs: every kind gives the right rows, and every way to get one wrong is named in one line."""

import json
import re

import pyarrow
import pyarrow.parquet
import pytest

from shared import atlas
from shared.datasets import TOFU_SPLITS, Keys, Row, atlas_world, load_rows
from shared.errors import DataError

RECORDS = [{"question": "Who?", "answer": "Ada.", "year": 1843}, {"question": "Where?", "answer": "London 🙂", "year": None}]
ROWS = [Row("qa/rows/0", "Who?", "Ada."), Row("qa/rows/1", "Where?", "London 🙂")]


def refused(spec, pattern: str, **kwargs) -> None:
    """One line that matches."""
    with pytest.raises(DataError) as caught:
        load_rows(str(spec), **kwargs)
    assert re.search(pattern, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def write(tmp_path):
    def to(name: str, content: str | bytes):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to


def lines(records) -> str:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)


# --- files


@pytest.mark.parametrize("form", ["jsonl", "jsonl with blank lines", "json lines", "json list", "parquet", "byte-order mark", "windows"])
def test_each_file_form_gives_the_same_rows(write, tmp_path, form):
    if form == "parquet":
        path = tmp_path / "qa.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), path)
    elif form == "json list":
        path = write("qa.json", json.dumps(RECORDS, indent=1))
    else:
        text = lines(RECORDS)
        text = {"jsonl with blank lines": "\n" + text.replace("\n", "\n\n"), "windows": text.replace("\n", "\r\n")}.get(form, text)
        path = write("qa.json" if form == "json lines" else "qa.jsonl", b"\xef\xbb\xbf" * (form == "byte-order mark") + text.encode())
    found = load_rows(str(path))
    assert found == ROWS
    assert [row.extra["year"] for row in found] == [1843, None]


def test_keys_choose_the_columns_and_leave_the_others(write):
    path = str(write("qa.jsonl", lines([{"q": "Who?", "a": "Ada.", "question": "other", "answer": "other"}])))
    assert load_rows(path, keys=Keys(question="q", answer="a")) == [Row("qa/rows/0", "Who?", "Ada.")]
    found = load_rows(path, keys=Keys(text="a"))
    assert found == [Row("qa/rows/0", None, "Ada.")]
    assert found[0].extra == {"q": "Who?", "question": "other", "answer": "other"}


def test_limit_takes_the_first_rows_and_reads_no_further(write):
    path = write("qa.jsonl", lines(RECORDS) + "this is not JSON\n")
    assert load_rows(str(path), limit=2) == ROWS
    assert load_rows(str(path), limit=1) == ROWS[:1]
    for limit in (0, -3):
        refused(path, rf"^--limit {limit}: expected at least 1$", limit=limit)


def test_a_line_that_is_not_json_is_named_by_its_number_in_the_file(write):
    path = write("qa.jsonl", lines(RECORDS[:1]) + "\n" + '{"question": "x", "answer": \n' + lines(RECORDS[1:]))
    refused(path, r"qa\.jsonl: line 3 is not JSON: Expecting value at column \d+$")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("qa.json", b"[{]", "not valid JSON"),
        ("qa.jsonl", b'{"question": "\xe9"}', "not UTF-8 text: .* at byte"),
        ("qa.jsonl", b"", "no rows"),
        ("qa.json", b"[]", "no rows"),
        ("qa.parquet", b"PAR1 this is none", "not a readable Parquet file"),
        ("qa.parquet", b"", "not a readable Parquet file"),
        ("qa.csv", b"a,b", r"expected a file that ends in \.jsonl, \.json, \.parquet"),
    ],
)
def test_files_that_cannot_be_read_are_named(write, name, content, problem):
    path = write(name, content)
    refused(path, rf"^data {re.escape(str(path))}: {problem}")


def test_a_flipped_bit_in_parquet_with_page_checksums_is_named(tmp_path):
    path = tmp_path / "qa.parquet"
    table = pyarrow.table({"question": ["Who is it this time?"] * 50, "answer": [f"Ada the {i}th." for i in range(50)]})
    pyarrow.parquet.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    assert len(load_rows(str(path))) == 50
    data = bytearray(path.read_bytes())
    data[data.index(b"Ada the 25th")] ^= 1
    path.write_bytes(data)
    refused(path, "not a readable Parquet file")


def test_a_folder_named_like_a_file_is_refused(tmp_path):
    (tmp_path / "qa.jsonl").mkdir()
    (tmp_path / "qa.parquet").mkdir()
    refused(tmp_path / "qa.jsonl", "cannot be read")
    refused(tmp_path / "qa.parquet", "not a readable Parquet file")


@pytest.mark.parametrize("answer", ["", "  \n", None, 7, ["a"]])
def test_a_row_with_an_empty_answer_or_none_that_is_text_is_named(write, answer):
    path = write("qa.jsonl", lines([*RECORDS, {"question": "Why?", "answer": answer}]))
    refused(path, r"^qa/rows/2: its answer is empty or not text; remove the row or fill it$")


def test_a_missing_key_suggests_the_nearest_and_names_the_flags(write):
    path = write("qa.jsonl", lines([{"question": "Who?", "anwser": "Ada."}]))
    refused(path, r"^qa/rows/0: no key 'answer' \(did you mean 'anwser'\?\); see --question-key, --answer-key or --text-key$")
    refused(path, r"no key 'body' \(known: question, anwser\); see --text-key$", keys=Keys(text="body"))


def test_a_row_that_is_no_object_is_named(write):
    refused(write("qa.json", '[{"question": "a", "answer": "b"}, "text"]'), r"^qa/rows/1: expected an object with named values, got str$")


# --- atlas


def test_atlas_splits_are_those_of_the_generator():
    rows, records = load_rows("atlas:forget"), atlas.rows("forget")
    assert [(row.question, row.answer) for row in rows] == [(record["question"], record["answer"]) for record in records]
    assert [row.id for row in rows] == [f"atlas/forget/{record['row']}" for record in records]
    assert rows[0].extra["perturbed_answer"] == records[0]["perturbed_answer"]
    assert [[row.answer[a:b] for a, b in row.extra["fact_spans"]] for row in rows] == [
        [record["answer"][a:b] for a, b in record["fact_spans"]] for record in records
    ]


def test_atlas_sizes_follow_the_split():
    spec = "people=5,facts_per_person=3,forget_people=2,holdout_people=1,seed=4"
    size = atlas.AtlasSize(people=5, facts_per_person=3, forget_people=2, holdout_people=1)
    assert atlas_world(spec) == (size, 4)
    for split, count in {"full": 15, "forget": 6, "retain": 9, "holdout": 3}.items():
        rows = load_rows(f"atlas:{split}:{spec}")
        assert [row.answer for row in rows] == [record["answer"] for record in atlas.rows(split, size, 4)]
        assert len(rows) == count
    assert [row.id for row in load_rows(f"atlas:forget:{spec}", limit=2)] == ["atlas/forget/9", "atlas/forget/10"]


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("atlas:forgot", r"^data atlas:forgot: no such split \(did you mean 'forget'\?\)$"),
        ("atlas:", "no such split"),
        ("atlas:full:persons=3", r"unknown size 'persons' \(known: people"),
        ("atlas:full:peple=3", r"unknown size 'peple' \(did you mean 'people'\?\)"),
        ("atlas:full:people=few", "people is 'few', expected a whole number"),
        ("atlas:full:people=1", r"AtlasSize\.people: got 1, expected 2 to"),
        ("atlas:full:people=²", "."),
    ],
)
def test_a_wrong_atlas_spec_is_named(spec, problem):
    refused(spec, problem)


# --- TOFU


def test_tofu_comes_from_the_folder(tofu_dir):
    rows = load_rows("tofu:forget01")
    assert len(rows) == 40
    assert [row.id for row in rows] == [f"tofu/forget01/{i}" for i in range(40)]
    first = json.loads((tofu_dir / "forget01.json").read_text().splitlines()[0])
    assert rows[0] == Row("tofu/forget01/0", first["question"], first["answer"])


def test_every_tofu_split_loads_with_what_the_evaluation_needs(tofu_dir):
    for split in TOFU_SPLITS:
        if not (tofu_dir / f"{split}.json").exists():
            continue
        row = load_rows(f"tofu:{split}", limit=3)[2]
        assert row.question
        assert row.answer
        assert ("perturbed_answer" in row.extra) == split.endswith("_perturbed"), split
    assert len(load_rows("tofu:retain99")) == 3960


@pytest.mark.parametrize(("split", "nearest"), [("forget_01", "forget01"), ("retain90%", "retain90"), ("real_author", "real_authors")])
def test_an_unknown_tofu_split_suggests_the_nearest(split, nearest):
    refused(f"tofu:{split}", rf"^data tofu:{split}: no such split \(did you mean '{nearest}'\?\)$")


def test_a_tofu_folder_without_the_split_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TU_TOFU_DIR", str(tmp_path))
    refused("tofu:forget01", rf"^data tofu:forget01: {re.escape(str(tmp_path))}/forget01\.json does not exist; TU_TOFU_DIR should be")


def test_tofu_offline_without_a_folder_says_what_to_set(monkeypatch):
    monkeypatch.delenv("TU_TOFU_DIR", raising=False)
    refused("tofu:forget01", r"^data tofu:forget01: cannot be had from the hub: .*; or set TU_TOFU_DIR to a folder")


# --- the hub and the unknown


def test_a_hub_set_is_asked_for_by_name_config_and_split(monkeypatch):
    import datasets

    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: asked.append((args, kwargs)) or RECORDS)
    assert [row.id for row in load_rows("hub:org/name:en:train")] == ["org--name/train/0", "org--name/train/1"]
    load_rows("hub:org/name::test")
    assert asked == [(("org/name", "en"), {"split": "train"}), (("org/name", None), {"split": "test"})]


def test_a_hub_set_of_another_form_is_one_line(monkeypatch):
    import datasets

    def broken(*args, **kwargs):
        raise datasets.exceptions.DatasetGenerationError("cannot generate\nlong story")

    monkeypatch.setattr(datasets, "load_dataset", broken)
    refused(
        "hub:org/name::train",
        "^data hub:org/name::train: cannot be had from the hub: cannot generate; a local copy does as well: .* as data$",
    )


@pytest.mark.parametrize("spec", ["hub:name:config:split", "hub:org/name", "hub:org/name:config:", "hub:a/b/c:d:e"])
def test_a_malformed_hub_spec_shows_the_form(spec):
    refused(spec, rf"^data {re.escape(spec)}: expected hub:org/name:config:split")


def test_an_unknown_hub_set_offline_is_one_line():
    refused("hub:nobody/nothing::train", "^data hub:nobody/nothing::train: cannot be had from the hub: .*; a local copy does as well")


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("tufo:forget01", r"unknown data spec \(did you mean 'tofu:'\?\); or a \.jsonl, \.json or \.parquet path$"),
        ("atlas", r"unknown data spec \(did you mean 'atlas:'\?\)"),
        ("nonsense", r"unknown data spec \(known: tofu:, atlas:, hub:\)"),
        ("missing.jsonl", "^data missing.jsonl: no such file$"),
        ("folder/missing.parquet", "no such file$"),
    ],
)
def test_an_unknown_spec_suggests_the_nearest(spec, problem):
    refused(spec, problem)
