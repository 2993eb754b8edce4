"""Data specs: every kind gives the right rows, and every way to get one wrong is named in one line."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import tracemalloc

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.data import atlas, data_files, json_records
from shared.data.datasets import TOFU_SPLITS, Keys, Row, atlas_world, load_rows
from shared.data.examples import make_examples
from shared.errors import DataError

RECORDS = [{"question": "Who?", "answer": "Ada.", "year": 1843}, {"question": "Where?", "answer": "London 🙂", "year": None}]
ROWS = [Row("qa/rows/0", "Who?", "Ada."), Row("qa/rows/1", "Where?", "London 🙂")]


def refused(spec, pattern: str, **kwargs) -> None:
    """One line that matches, but for the place that it ends with where it is of a row."""
    with pytest.raises(DataError) as caught:
        load_rows(str(spec), **kwargs)
    assert re.search(pattern, re.sub(r" \([^()]*\.\w+(:\d+)?\)$", "", str(caught.value))), str(caught.value)
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
        ("qa.txt", b"a,b", r"expected a file that ends in \.jsonl, \.json, \.csv, \.tsv .* or \.parquet$"),
        ("qa.parquet.gz", b"a,b", "expected a file that ends in"),
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


def test_a_folder_is_refused_with_what_it_holds(tmp_path):
    (tmp_path / "qa.jsonl").mkdir()
    refused(tmp_path / "qa.jsonl", r"qa\.jsonl: is a folder; name the file in it: it holds none that can be read \(\.jsonl")
    for name in ("b.parquet", "a.CSV.gz", "notes.txt"):
        (tmp_path / "qa.jsonl" / name).write_text("x")
    refused(tmp_path / "qa.jsonl", r"it holds a\.CSV\.gz, b\.parquet$")
    (tmp_path / "data").mkdir()
    refused(tmp_path / "data", "is a folder")


@pytest.mark.parametrize("answer", ["", "  \n", None, ["a"], {"a": 1}])
def test_a_row_with_an_empty_answer_or_none_that_is_text_is_named(write, answer):
    path = write("qa.jsonl", lines([*RECORDS, {"question": "Why?", "answer": answer}]))
    refused(path, r"^qa/rows/2: its answer is empty or not text; remove the row or fill it$")


def test_a_missing_key_suggests_the_nearest_and_names_the_flags(write):
    path = write("qa.jsonl", lines([{"question": "Who?", "anwser": "Ada."}]))
    refused(path, r"^qa/rows/0: no key 'answer' \(did you mean 'anwser'\?\); see --question-key, --answer-key or --text-key$")
    refused(path, r"no key 'body' \(known: question, anwser\); see --text-key$", keys=Keys(text="body"))


def test_a_row_that_is_no_object_is_named(write):
    refused(write("qa.json", '[{"question": "a", "answer": "b"}, "text"]'), r"^qa/rows/1: expected an object with named values, got str$")


# --- other forms, and files that are not what they seem

WORLD = [
    {"question": "Кто это, «она»?", "answer": 'Ада,\nграфиня "Л"'},
    {"question": "是谁？", "answer": "艾达\t是"},
    {"question": "من هي؟", "answer": "007"},
]
PACK = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: pyarrow.compress(data, "zstd", asbytes=True),
}


def table(rows, delimiter: str) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


FORMS = {
    ".jsonl": lines(WORLD),
    ".JSON": "\n \t\n" + json.dumps(WORLD),
    ".csv": table(WORLD, ","),
    ".TSV": table(WORLD, "\t"),
}


@pytest.mark.parametrize("place", ["folder", "url"])
@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_compressed_or_not_here_or_behind_a_url_gives_the_same_rows(write, form, packing, place):
    data = PACK[packing](FORMS[form].encode())
    path = str(write(f"my.qa{form}{packing.upper()}", data))
    if place == "url":
        fsspec.filesystem("memory").pipe_file("/rows/" + path.rpartition("/")[2], data)
        path = "memory://rows/" + path.rpartition("/")[2]
    found = load_rows(path)
    assert [(r.question, r.answer) for r in found] == [(r["question"], r["answer"]) for r in WORLD]
    assert [r.id for r in found] == [f"my.qa/rows/{i}" for i in range(3)]


@pytest.mark.parametrize("packing", [p for p in PACK if p])
@pytest.mark.parametrize("damage", ["cut", "not compressed"])
def test_a_compressed_file_that_is_damaged_is_named(write, packing, damage):
    data = PACK[packing](lines([{"question": f"Who is {i}?", "answer": str(i * i)} for i in range(2000)]).encode())
    path = write(f"qa.jsonl{packing}", data[: len(data) // 2] if damage == "cut" else b"{}\n" * 50)
    refused(path, rf"^data {re.escape(str(path))}: cannot be read: .")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("question,answer\na,b,c\n", "line 2: 3 cells, its header has 2; put cells in quotes that hold a comma"),
        ("question,answer\na\n", "line 2: 1 cells, its header has 2"),
        ("question,answer,answer\na,b,c\n", "its header names 'answer' twice"),
        ('question,answer\n"a"b,c\n', "line 2: not valid CSV"),
        ('question,answer\n"a,c\n', "line 2: not valid CSV: unexpected end of data"),
        ("question,answer\n", "no rows"),
        ("\n\n", "no rows"),
    ],
)
def test_a_table_that_is_torn_is_named(write, content, problem):
    path = write("qa.csv", content)
    refused(path, rf"^data {re.escape(str(path))}: {problem}")


def test_cells_of_a_table_are_text_and_empty_ones_are_empty(write):
    rows = load_rows(str(write("qa.csv", "question,answer,note\r\n\r\nHow many?,0042,\r\nLong?," + "x" * 200_000 + ",1\r\n")))
    assert [r.answer for r in rows] == ["0042", "x" * 200_000]
    assert [r.extra["note"] for r in rows] == ["", "1"]
    refused(write("qa.csv", "question,answer\nWhy?,\n"), r"^qa/rows/0: its answer is empty")
    refused(write("qa.csv", "question;answer\nWhy?;so\n"), r"no key 'question' .*separated by ';'")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("qa.jsonl", b'{"question": "a", "answer": "\\ud800"}', "line 1: its 'answer' holds half of a character"),
        ("qa.json", b'[{"question": "a", "answer": "b", "more": [{"x": "\\uDC00"}]}]', "row 0 of its list: its 'more' holds half"),
        ("qa.json", b'[{"question": "a", "answer": "b"}, {"\\ud83d": 1}]', r"row 1 of its list: its '\\ud83d' holds half"),
        ("qa.jsonl", b'{"question": ' + b"[" * 100_000, "line 1 cannot be read: it is nested too deeply"),
        ("qa.json", b'[{"question": ' + b"[" * 100_000, "row 0 of its list cannot be read: it is nested too deeply"),
        ("qa.jsonl", b'{"question": ' + b"9" * 5000 + b"}", "line 1 cannot be read: it holds a number of too many digits; quote it"),
        ("qa.json", b'[{"question": ' + b"9" * 5000 + b"}]", "row 0 of its list cannot be read: it holds a number of too many digits"),
        ("qa.json", b'[{"question": "a", "answer": "b"}', "not valid JSON: the list has no end after row 0"),
        ("qa.json", b'[{"question": "a", "answer": "b"}] x', "not valid JSON: more text after the end of its list"),
        ("qa.json", b'[{"question": "a", "answer": "b"} {}]', "not valid JSON: expected a comma or ] before row 1"),
        ("qa.json", b'{\n "question": "a",\n "answer": "b"}', "line 1 is not JSON: .*; an object must stand on one line, or"),
        ("qa.jsonl", '{"question": "a"}'.encode("utf-16"), "not UTF-8 text: begins like UTF-16"),
        ("qa.jsonl", '{"question": "a"}'.encode("utf-16-le"), "not UTF-8 text: begins like UTF-16"),
        ("qa.csv", b"\0" * 64, "not UTF-8 text"),
        ("qa.jsonl", gzip.compress(b"{}", mtime=0), r"begins like a \.gz file, not like text; let its name end in \.gz"),
        ("qa.csv", b"PK\x03\x04 an Excel book", r"begins like a \.zip file, not like text; unpack it"),
    ],
)
def test_a_file_that_is_not_what_it_seems_is_named(write, name, content, problem):
    path = write(name, content)
    refused(path, rf"^data {re.escape(str(path))}: {problem}")


@pytest.mark.parametrize("name", ["qa.jsonl", "qa.csv", "qa.parquet", "qa.jsonl.gz"])
@pytest.mark.parametrize("place", ["folder", "url"])
def test_a_pointer_of_git_lfs_says_how_to_get_the_data(write, name, place):
    content = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
    path = str(write(name, content))
    if place == "url":
        fsspec.filesystem("memory").pipe_file(f"/pointers/{name}", content)
        path = f"memory://pointers/{name}"
    refused(path, rf"^data {re.escape(path)}: it is a Git LFS pointer, not the data itself; fetch it with git lfs pull$")


def test_a_folder_behind_a_url_is_refused_with_what_it_holds():
    files = fsspec.filesystem("memory")
    for name in ("a.jsonl", "b.txt"):
        files.pipe_file(f"/shelf/{name}", b"{}")
    refused("memory://shelf", r"^data memory://shelf: is a folder; name the file in it: it holds a\.jsonl$")
    refused("memory://shelf/c.jsonl", "^data memory://shelf/c.jsonl: no such file$")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            {"messages": [{"role": "user", "content": "你好"}]},
            "its column messages has no assistant turn, so there is no answer; remove the row$",
        ),
        ({"conversations": [{"from": "human", "value": "a"}]}, "its column conversations has no assistant turn"),
        ({"messages": [], "answer": "b"}, "no key 'question'; 'messages' holds a conversation: read it with --messages-key messages$"),
        ({"question": "How many?", "answer": 42}, 'its answer is a number, which is no text; quote it: "answer": "..."$'),
        ({"question": "Is it?", "answer": True}, 'its answer is true or false, which is no text; quote it: "answer": "..."$'),
        ({"question": "a", "answer": float("nan")}, "its answer is NaN, which stands for an empty cell"),
        ({"question": {"0": "a"}, "answer": {"0": "b"}}, r"holds whole columns, .*to_json\(PATH, orient='records', lines=True\)$"),
        ({"question": ["a", "b"], "answer": ["c", "d"]}, "holds whole columns"),
        ({"columns": ["question", "answer"], "index": [0], "data": [["a", "b"]]}, "holds whole columns"),
        ({"0": {"question": "a", "answer": "b"}}, "holds whole columns"),
    ],
)
def test_a_row_of_another_tool_says_what_to_write_instead(write, row, problem):
    refused(write("qa.jsonl", lines([row])), rf"^qa/rows/0: {problem}")


def test_parquet_with_other_types_is_named(tmp_path):
    path = tmp_path / "qa.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"question": ["a"], "answer": [1.5]}), path)
    refused(path, r"^qa/rows/0: its answer is a number, which is no text; quote it")
    pyarrow.parquet.write_table(pyarrow.table({"question": ["a"], "answer": [b"b"]}), path)
    refused(path, "^qa/rows/0: its answer is bytes, not text; write the column as strings")
    torn = pyarrow.array([b"\xff"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"question": ["a"], "answer": torn}), path)
    refused(path, "not a readable Parquet file")
    stamps = pyarrow.array([2**62], pyarrow.timestamp("us"))
    pyarrow.parquet.write_table(pyarrow.table({"question": ["a"], "answer": ["b"], "when": stamps}), path)
    refused(path, "not a readable Parquet file")


@settings(deadline=None, max_examples=150)
@given(st.lists(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
                             lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner,
                                                                                         max_size=3), max_leaves=8), max_size=6),
       st.integers(1, 9), st.booleans())  # fmt: skip
def test_a_list_read_in_small_blocks_is_the_list(entries, block, plain):
    text = json.dumps(entries, ensure_ascii=plain, indent=None if plain else 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_records, "BLOCK", block)
        assert list(json_records.list_items(io.StringIO(text[1:] + " \n"), "x")) == entries


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(["qa.jsonl", "qa.json", "qa.csv", "qa.tsv", "qa.parquet", "qa.jsonl.gz", "qa.json.zst"]),
       st.binary(max_size=60) | st.text('[]{}",:\\ud8ntfx01 \n\r\t\0', max_size=60).map(lambda t: t.encode()))  # fmt: skip
@example("qa.json", b"[1e999999]")
@example("qa.json", b"\xef\xbb\xbf\n [NaN, -Infinity]")
def test_whatever_a_file_holds_it_is_rows_or_one_line(tmp_path_factory, name, content):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    try:
        load_rows(str(path))
    except DataError as error:
        assert str(error).startswith((f"data {path}: ", "qa/rows/")), "it names the file or the row"


@pytest.mark.parametrize("name", ["qa.json", "qa.jsonl.gz", "qa.csv", "qa.parquet"])
def test_memory_does_not_grow_with_the_file(write, tmp_path, name):
    def rows() -> list[dict]:
        return [{"question": f"Who is {i}?", "answer": "x" * 1000} for i in range(20_000)]

    if name == "qa.parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows()), tmp_path / name, row_group_size=1000)
    else:
        made = {"qa.json": lambda: json.dumps(rows()), "qa.csv": lambda: table(rows(), ",")}.get(name, lambda: lines(rows()))()
        write(name, gzip.compress(made.encode()) if name.endswith(".gz") else made)
    tracemalloc.start()
    try:
        assert sum(1 for _ in data_files.file_records(str(tmp_path / name))[1]) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


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
        ("atlas:full:folk=3", r"unknown size 'folk' \(known: people"),
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
        ("tufo:forget01", r"unknown data spec \(did you mean 'tofu:'\?\); or the path of a \.jsonl, \.json, .* or \.parquet file$"),
        ("atlas", r"unknown data spec \(did you mean 'atlas:'\?\)"),
        ("nonsense", r"unknown data spec \(known: tofu:, atlas:, lume:, hub:\)"),
        ("missing.jsonl", "^data missing.jsonl: no such file$"),
        ("folder/missing.parquet", "no such file$"),
    ],
)
def test_an_unknown_spec_suggests_the_nearest(spec, problem):
    refused(spec, problem)


BAD = {"question": "Où ?", "answer": ""}
GOOD = {"question": "Où ?", "answer": "À Pskov."}
PLACED = {
    "lines": ("r.jsonl", "\n" + json.dumps(GOOD) + "\n\n" + json.dumps(BAD) + "\n", ":4"),
    "packed": ("r.jsonl.gz", json.dumps(GOOD) + "\n" + json.dumps(BAD) + "\n", ":2"),
    "cells": ("r.csv", 'question,answer\nOù ?,"À\nPskov."\nOù ?,\n', ":4"),
    "list": ("r.json", json.dumps([GOOD, BAD]), ""),
}


@pytest.mark.parametrize(("name", "text", "line"), PLACED.values(), ids=PLACED)
def test_an_error_of_a_row_says_in_which_file_and_line_it_stands(tmp_path, name, text, line):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    with pytest.raises(DataError) as caught:
        load_rows(str(path))
    assert str(caught.value).startswith("r/rows/1: its answer ") and str(caught.value).endswith(f" ({path}{line})")


def test_so_does_an_error_that_only_a_tokenizer_finds(tmp_path, any_tokenizer):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps({**GOOD, "answer": "Владимир " * 200}) + "\n")
    with pytest.raises(DataError, match=r"^r/rows/1: \d+ tokens, but .*r\.jsonl:3\)$"):
        make_examples(load_rows(str(path)), any_tokenizer, context=200)
