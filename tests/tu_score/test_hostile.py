"""Stores that somebody else made: what verify finds and readers refuse, what would fill the memory, names that lead out
of the folder."""

import json
import os
import resource
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.errors import StoreError
from shared.files.fs import hash_json
from shared.store.files import MANIFEST
from shared.store.pages import unpacked_sizes
from shared.store.parts import schema, sha256
from shared.store.scores import open_store
from tests.tu_score.test_mutations import DATA, made, rewrite_part, write_manifest  # noqa: F401 (a fixture)

MEMORY = 4 << 30
"""bytes of address space of a command, libraries included"""


@pytest.fixture
def store(made, tmp_path):  # noqa: F811
    return shutil.copytree(made, tmp_path / "store")


def target(row, k=-1):
    return [i for i, t in enumerate(row["is_target"]) if t][k]


def put(column, index, value):
    return lambda row: row[column].__setitem__(target(row) if index is None else index, value)


ROWS = {
    "importance is null": (put("importance", None, None), "importance is null at some targets only"),
    "importance is NaN": (put("importance", None, float("nan")), "importance is NaN"),
    "importance above 1": (put("importance", None, 1.5), "importance outside 0 to 1"),
    "importance below 0": (put("importance", None, -0.1), "importance outside 0 to 1"),
    "negative id": (put("input_ids", 3, -1), "an id below 0, or beyond the vocabulary of 500"),
    "id beyond the vocabulary": (put("input_ids", 3, 500), "beyond the vocabulary of 500"),
    "null id": (put("input_ids", 3, None), "input_ids null somewhere"),
    "null token": (put("tokens", 3, None), "tokens null somewhere"),
    "null target": (put("is_target", 3, None), "is_target null somewhere"),
    "log-probability above 0": (put("logprob", None, 0.5), "logprob above 0"),
    "absurd log-probability": (put("logprob", None, -1e30), "logprob below -1000000"),
    "infinite log-probability": (put("logprob", None, -float("inf")), "logprob is not finite"),
    "log-probability NaN": (put("logprob", None, float("nan")), "logprob is not finite"),
    "log-probability null": (put("logprob", None, None), "logprob is null elsewhere"),
    "base log-probability": (put("base_logprob", None, -1e30), "base_logprob below"),
    "negative entropy": (put("entropy", None, -1.0), "entropy below 0"),
    "entropy above log(vocabulary)": (put("entropy", None, 6.3), "entropy above log(vocabulary)"),
    "tempered entropy": (put("tempered_entropy", None, float("inf")), "tempered_entropy"),
    "delta": (put("delta", None, -1e30), "delta"),
    "longer list": (lambda row: row["entropy"].append(1.0), "unequal"),
    "null list": (lambda row: row.__setitem__("entropy", None), "no entropy"),
    "null spans": (lambda row: row.__setitem__("spans", None), "no spans"),
    "no id": (lambda row: row.__setitem__("example_id", None), "no example_id"),
    "span outside": (lambda row: row["spans"].__setitem__(0, {"start": 0, "end": 2**31 - 1}), "a span lies outside the row"),
    "span backwards": (lambda row: row["spans"].__setitem__(0, {"start": 5, "end": 2}), "a span lies outside the row"),
    "half a span": (lambda row: row["spans"].__setitem__(0, {"start": None, "end": 2}), "a span is null"),
    "delta_span": (put("delta_span", None, 99), "names no span"),
    "top ids": (put("top_ids", None, [500, 1]), "top_ids holds an id"),
    "top logprobs": (put("top_logprobs", None, [-1e30, -1e30]), "top_logprobs"),
    "null in top": (put("top_logprobs", None, [None, None]), "hold a null"),
    "first token a target": (put("is_target", 0, True), "first token is a target"),
    "escapes in the id": (lambda row: row.update(example_id="\x1b[2J\u202evil", entropy=None), "\\x1b[2J\\u202e"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_verify_finds_it_and_no_reader_trips_over_it(name, store, run_cli, tmp_path, tiny_model):
    change, says = ROWS[name]
    rows = open_store(store).part(0)
    change(rows[0])
    rewrite_part(store, rows, schema(open_store(store).optional))
    code, out, err = run_cli("tu-score", "verify", store)
    assert code == 2 and says in out and err.count("\n") == 1, out
    assert "\x1b" not in out + err and "\u202e" not in out + err
    for command in (
        ("inspect", store), ("inspect", store, "--html", tmp_path / "h.html"), ("recipe", store, "--recipe", "alpha=0.5,knowledge=gain"),
        ("agree", store, "--model", tiny_model), ("inspect", store, "--top", "2", "--signal", "entropy"),
    ):  # fmt: skip
        code, out, err = run_cli("tu-score", *command)
        assert code in (0, 2) and (code == 0 or (err.startswith("error: ") and err.count("\n") == 1)), (command, err)


def test_ids_with_escapes_are_spelled_out(store, run_cli):
    rows = open_store(store).part(0)
    rows[0]["example_id"] = "\x1b]0;owned\x07\u202e"
    rewrite_part(store, rows, schema(open_store(store).optional))
    for command in (("inspect", store), ("inspect", store, "--top", 50), ("inspect", store, "--example", "\x1b[2J"), ("verify", store)):
        code, out, err = run_cli("tu-score", *command)
        assert "\x1b" not in out + err and "\u202e" not in out + err and "\x07" not in out + err
        assert code == (2 if "--example" in command else 0)


def test_two_rows_of_one_id_and_wrong_counts_are_found(store, run_cli):
    rows = open_store(store).part(0)
    rewrite_part(store, [rows[0], *rows[:-1]] if len(rows) > 1 else rows * 2, schema(open_store(store).optional))
    code, out, _ = run_cli("tu-score", "verify", store)
    assert code == 2 and ("twice" in out or "its manifest says" in out)
    manifest = json.loads((store / MANIFEST).read_text())
    write_manifest(store, {**manifest, "rows": 99})
    assert "the manifest says 99" in run_cli("tu-score", "verify", store)[1]


def test_a_store_of_an_earlier_version_is_checked_but_for_what_it_does_not_say(store, run_cli):
    manifest = json.loads((store / MANIFEST).read_text())
    assert manifest.pop("vocabulary_size") == 500
    write_manifest(store, manifest)
    code, out, _ = run_cli("tu-score", "verify", store)
    assert code == 0 and "not checked: token ids against the vocabulary" in out
    rows = open_store(store).part(0)
    rows[0]["input_ids"][3] = 500
    rewrite_part(store, rows, schema(open_store(store).optional))
    assert run_cli("tu-score", "verify", store)[0] == 0
    rows[0]["input_ids"][3] = -1
    rewrite_part(store, rows, schema(open_store(store).optional))
    assert run_cli("tu-score", "verify", store)[0] == 2


# --- memory


def limited(store, *command):
    """A command under a limit of its address space: exit code, stdout and stderr."""

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    whole = [sys.executable, "-m", "tu_score", *map(str, command)]
    done = subprocess.run(whole, capture_output=True, text=True, preexec_fn=limit, timeout=60)
    return done.returncode, done.stdout, done.stderr


def replace_part(store, table, stored=True, **fields):
    manifest = json.loads((store / MANIFEST).read_text())
    entry = manifest["parts"][0]
    pq.write_table(table, store / entry["file"], compression="zstd", write_page_checksum=True, store_schema=stored)
    data = (store / entry["file"]).read_bytes()
    entry.update(bytes=len(data), sha256=sha256(data), **fields)
    write_manifest(store, manifest)
    return len(data)


def bomb(columns, kind):
    """A table of one row, and of a few kilobytes as Parquet."""
    many = 50_000_000
    row = {name: pa.array([[]], columns.field(name).type) for name in columns.names if name != "example_id"} | {
        "example_id": pa.array(["a"])
    }
    if kind == "values":
        row["logprob"] = pa.ListArray.from_arrays(pa.array([0, many], pa.int32()), pa.array(np.zeros(many, np.float32)))
    elif kind == "text":
        one = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2000, np.int32)), pa.array(["a" * 4_000_000]))
        row["tokens"] = pa.ListArray.from_arrays(pa.array([0, 2000], pa.int32()), one)
    elif kind == "one text":
        row["tokens"] = pa.array([["a" * 600_000_000]])
    return pa.table({name: row[name] for name in columns.names})


@pytest.mark.parametrize("kind", ["values", "text", "one text"])
def test_a_few_kilobytes_that_unpack_to_gigabytes_are_refused_before_they_do(kind, store):
    columns = schema(open_store(store).optional)
    size = replace_part(store, bomb(columns, kind), stored=kind != "text", rows=1, tokens=2000)
    assert size < 1 << 20
    says = {"values": "holds more values than", "text": "have 8000000000 bytes", "one text": "unpack to"}[kind]
    signal = {"values": "logprob"}.get(kind, "entropy")
    for command in (("verify", store), ("inspect", store), ("inspect", store, "--top", 3, "--signal", signal)):
        code, out, err = limited(store, *command)
        assert code == 2 and err.count("\n") == 1 and says in out + err, (command, out, err)


def test_a_long_span_in_a_small_part_is_refused(store):
    rows = open_store(store).part(0)
    rows[0]["spans"] = [{"start": 0, "end": 2**31 - 1}] * 50
    rewrite_part(store, rows, schema(open_store(store).optional))
    for command in (("verify", store), ("inspect", store)):
        code, _, err = limited(store, *command)
        assert code == 2 and err.count("\n") == 1 and "Memory" not in err, err


def test_sizes_of_pages_are_those_of_their_headers(store):
    data = (store / "part-00000.parquet").read_bytes()
    about = pq.read_metadata(store / "part-00000.parquet")
    for place in range(about.num_columns):
        chunk = about.row_group(0).column(place)
        sizes = list(unpacked_sizes(data, chunk))
        assert 1 <= len(sizes) <= 3 and sum(sizes) < chunk.total_uncompressed_size < sum(sizes) + 100 * len(sizes)
    for at in range(0, len(data), 7):  # whatever the pages hold, no loop without end and no other error
        changed = data[:at] + b"\xff\x8f\x07" + data[at + 3 :]
        for place in range(about.num_columns):
            try:
                list(unpacked_sizes(changed, about.row_group(0).column(place)))
            except StoreError:
                continue


# --- names


@pytest.mark.parametrize(
    "name", ["/dev/zero", "/etc/passwd", "../store/part-00000.parquet", "a/b", "..", "", ".", "part-00001.parquet", "x\0"]
)
def test_parts_have_the_names_that_the_store_gives_them(name, store, run_cli):
    manifest = json.loads((store / MANIFEST).read_text())
    manifest["parts"][0]["file"] = name
    write_manifest(store, manifest)
    for command in (("verify", store), ("inspect", store), ("recipe", store)):
        code, _, err = run_cli("tu-score", *command)
        assert code == 2 and "parts.0.file is not part-00000.parquet" in err and err.count("\n") == 1


@pytest.mark.parametrize("name", ["part-00000.parquet", MANIFEST, "_next/_manifest.json", "_next/part-00000.parquet"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "endless link"])
def test_files_that_are_none_neither_block_nor_fill_the_memory(kind, name, store):
    (store / name).parent.mkdir(exist_ok=True)
    (store / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(store / name)
    elif kind == "folder":
        (store / name).mkdir()
    else:
        os.symlink("/dev/zero" if kind == "device" else name.rpartition("/")[2], store / name)
    for command in (("verify", store), ("inspect", store)):
        code, _, err = limited(store, *command)
        spare = name == "_next/part-00000.parquet"  # nobody reads it while the store's own part is whole
        assert (code == 0) if spare else (code == 2 and err.count("\n") == 1), (command, err)


@pytest.mark.parametrize("count", [2**31, 2**63, -1, 10**300])
def test_absurd_sizes_in_a_manifest(count, store, run_cli):
    for field in ("rows", "tokens", "bytes"):
        manifest = json.loads((store / MANIFEST).read_text())
        manifest["parts"][0][field] = count
        body = {k: v for k, v in manifest.items() if k != "manifest_sha256"}
        write_manifest(store, {**body, "manifest_sha256": hash_json(body)})
        code, _, err = run_cli("tu-score", "verify", store)
        assert code == 2 and err.count("\n") == 1
