"""What must not be seen: text of the data in messages, credentials of URLs in anything that is written or printed."""

import json
import re
import subprocess

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.store.scores import open_store

MARK = "Zanzibarium"
"""stands in the data, in a place that a message could quote"""
GOOD = {"question": "Who keeps it?", "answer": "Yusuf keeps it."}


def lines(path, *rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def refused(run_cli, tmp_path, tiny_model):
    def run(data, *arguments, model=tiny_model):
        code, out, err = run_cli("tu-score", "run", "--model", model, "--data", data, "--out", tmp_path / "out", *arguments)
        assert code == 2 and err.count("error: ") == 1 and "Traceback" not in err, err
        assert MARK.lower() not in (out + err).lower(), err
        return err

    return run


MARKED = [
    ("a.jsonl", [GOOD, {"question": "Who?", "answer": {MARK: MARK}}], "a/rows/1: its answer"),
    ("a.jsonl", [GOOD, {"question": "Who?", "answer": [MARK]}], "a/rows/1: its answer"),
    ("a.jsonl", [GOOD, [MARK]], "a/rows/1"),
    ("a.jsonl", [GOOD, MARK], "line 2"),
    ("a.jsonl", [GOOD, f'{{"question": "{MARK}", "answer"\n'], "line 2"),
    ("a.jsonl", [GOOD, f'{{"question": "{MARK}", "answer": "{MARK} \\ud800"}}\n'], "line 2"),
    ("a.jsonl", [GOOD, {**GOOD, "system": [MARK]}], "a/rows/1: its system"),
    ("a.jsonl", [GOOD, f'{{"question": "{MARK}", "answer": {"9" * 5000}}}\n'], "line 2"),
    ("a.jsonl", [GOOD, f'{{"question": "{MARK}", "answer": {"[" * 100_000}\n'], "line 2"),
    ("a.json", [f'[{{"question": "{MARK}", "answer": "x"}}, {MARK}]'], "row 1"),
    ("a.json", [f'[{{"question": "{MARK}", "answer": "x"}} {MARK}'], "comma or ]"),
    ("a.json", [json.dumps({"question": {"0": MARK}, "answer": {"0": MARK}})], "whole columns"),
    ("a.csv", [f"Who is {MARK}?,{MARK} keeps it.\nWho?,Me.\n"], "header"),
    ("a.csv", [f"{MARK} a,{MARK} a\nWho?,Me.\n"], "twice"),
    ("a.csv", ["question,answer\n", f"Who?,{MARK},{MARK}\n"], "line 2"),
    ("a.csv", ["question,answer\n", f'Who?,"{MARK}"{MARK}\n'], "line 2"),
    ("a.tsv", [f"question;answer {MARK}\n", f"Who?;{MARK}\n"], "separated by ';'"),
]


@pytest.mark.parametrize(("name", "rows", "says"), MARKED)
def test_rows_that_cannot_be_read_are_named_and_not_quoted(name, rows, says, refused, tmp_path):
    assert says in refused(lines(tmp_path / name, *rows))


@pytest.mark.parametrize(
    "value", [MARK, [MARK], [[MARK, MARK]], {"start": MARK}, [[0, MARK]], None, [[0, 10**30]], [[-(10**4000), 2]], [[5, 3]], [[0, 900]]]
)
def test_spans_of_a_wrong_form_are_named_and_not_quoted(value, refused, tmp_path, run_cli, tiny_model):
    """score, agree"""
    data = lines(tmp_path / "a.jsonl", GOOD, {"question": f"Who is {MARK}?", "answer": f"{MARK}.", "where": value})
    err = refused(data, "--spans", "given", "--span-key", "where")
    assert "a/rows/0: no key 'where'" in err
    data = lines(tmp_path / "a.jsonl", {**GOOD, "where": [[0, 3]]}, {"question": f"Who is {MARK}?", "answer": f"{MARK}.", "where": value})
    err = refused(data, "--spans", "given", "--span-key", "where")
    assert "a/rows/1: its where" in err and max(map(len, err.splitlines())) < 400
    store = tmp_path / "store"
    assert run_cli("tu-score", "run", "--model", tiny_model, "--data", data, "--out", store)[0] == 0
    for key, row in (("where", 1), ("here", 0)):
        code, out, err = run_cli("tu-score", "agree", store, "--model", tiny_model, "--truth-key", key)
        if value in (MARK, [MARK]) and key == "where":  # words and phrases
            assert code == 0, err
        else:
            assert code == 2 and f"a/rows/{row}: " in err and repr(key) in err.replace("its where", "'where'"), err
        assert MARK not in out + err and len(err) < 400
    lines(data, GOOD)
    code, out, err = run_cli("tu-score", "agree", store, "--model", tiny_model, "--truth-key", "where")
    assert code == 2 and "other data" in err and MARK not in out + err


def test_values_of_parquet_that_cannot_be_read_are_not_quoted(refused, tmp_path):
    stamps = pa.array([1_234_567_891_234_567_891], pa.timestamp("ns"))
    pq.write_table(pa.table({"question": ["Who?"], "answer": [MARK], "when": stamps}), tmp_path / "a.parquet")
    assert "1234567891" not in refused(tmp_path / "a.parquet", "--answer-key", "anser")
    bad = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\x0c\0\0\0"), pa.py_buffer(MARK.encode() + b"\xff"))
    pq.write_table(pa.table({"question": ["Who?"], "answer": bad}), tmp_path / "a.parquet")
    assert "a.parquet" in refused(tmp_path / "a.parquet")


def test_a_template_that_quotes_the_row_is_not_repeated(refused, tmp_path, tiny_model):
    model = tmp_path / "model"
    subprocess.run(["cp", "-r", str(tiny_model), str(model)], check=True)
    for file in model.glob("chat_template*"):
        file.unlink()
    config = json.loads((model / "tokenizer_config.json").read_text())
    template = "{{ raise_exception('not this: ' + messages[0]['content']) }}"
    (model / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    data = lines(tmp_path / "a.jsonl", {"question": f"Who is {MARK}?", "answer": "Me."})
    assert "not this: …" in refused(data, model=model)


def test_messages_about_a_store_quote_no_text_of_it(run_cli, tmp_path, tiny_model):
    """inspect, recipe, verify, agree"""
    data = lines(tmp_path / "a.jsonl", {"question": f"Who is {MARK}?", "answer": f"{MARK} keeps it."})
    store = tmp_path / "store"
    assert run_cli("tu-score", "run", "--model", tiny_model, "--data", data, "--out", store)[0] == 0
    (store / "part-00000.parquet").write_bytes((store / "part-00000.parquet").read_bytes()[:-9])
    for command in (
        ("verify", store), ("inspect", store), ("inspect", store, "--top", 3), ("inspect", store, "--html", tmp_path / "h.html"),
        ("recipe", store, "--recipe", "alpha=0.5"), ("agree", store, "--model", tiny_model), ("inspect", store, "--example", "b"),
    ):  # fmt: skip
        code, out, err = run_cli("tu-score", *command)
        assert code == 2 and err.count("\n") == 1 and MARK not in out + err, (command, out, err)


def test_credentials_of_a_url_stand_in_no_file_and_no_line_and_a_run_goes_on_with_others(run_cli, tmp_path, tiny_model, monkeypatch):
    rows = json.dumps(GOOD).encode() + b"\n"
    fsspec.filesystem("memory").pipe_file("/me:hunter2@host/rows.jsonl?token=hunter2", rows)

    def url_to_fs(url, **_):
        assert "***" not in url
        return fsspec.filesystem("memory"), "/me:hunter2@host/rows.jsonl?token=hunter2"

    monkeypatch.setattr("fsspec.core.url_to_fs", url_to_fs)
    run = ("tu-score", "run", "--model", tiny_model, "--out", tmp_path / "out", "--data")
    code, out, err = run_cli(*run, "https://me:hunter2@host/rows.jsonl?token=hunter2")
    assert code == 0, err
    for file in (tmp_path / "out").rglob("*"):
        assert b"hunter2" not in file.read_bytes(), file
    store = open_store(tmp_path / "out")
    assert store.manifest["options"]["data"] == "https://***@host/rows.jsonl?token=***"
    assert [row["example_id"] for row in store.rows()] == ["rows/rows/0"]
    assert "hunter2" not in out + err and "***@host" in (tmp_path / "out" / "_config.toml").read_text()
    for password in ("hunter2", "changed"):
        code, _, err = run_cli(*run, f"https://me:{password}@host/rows.jsonl?token={password}1")
        assert code == 0 and "finished" in err and password not in err
    assert run_cli("tu-score", "inspect", tmp_path / "out", "--html", tmp_path / "h.html")[0] == 0
    assert "hunter2" not in (tmp_path / "h.html").read_text() and "***@host" in (tmp_path / "h.html").read_text()
    code, _, err = run_cli("tu-score", "agree", tmp_path / "out", "--model", tiny_model)
    assert code == 2 and "credentials" in err and "--data" in err and err.count("\n") == 1


@pytest.mark.parametrize("fault", ["no such kind", "refused", "missing", "folder"])
def test_errors_about_a_url_hold_none_of_its_credentials(fault, refused, monkeypatch):
    url = f"https://me:{MARK}@host/rows.jsonl?token={MARK}"

    class Files:
        def info(self, path):
            raise {"refused": OSError(f"401, url='{url}'"), "missing": FileNotFoundError(url)}.get(fault, ValueError(url))

    def url_to_fs(asked, **_):
        if fault == "no such kind":
            raise ValueError(f"protocol not known: {asked}")
        return Files(), asked

    monkeypatch.setattr("fsspec.core.url_to_fs", url_to_fs)
    assert "***" in refused(url)


def test_a_plan_of_an_earlier_version_with_its_password_goes_on(run_cli, tmp_path, tiny_model, monkeypatch):
    fsspec.filesystem("memory").pipe_file("/rows.jsonl", json.dumps(GOOD).encode())
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda url, **_: (fsspec.filesystem("memory"), "/rows.jsonl"))
    run = ("tu-score", "run", "--model", tiny_model, "--out", tmp_path / "out", "--data", "https://me:hunter2@host/rows.jsonl")
    assert run_cli(*run)[0] == 0
    (tmp_path / "out" / "_manifest.json").unlink()
    plan = tmp_path / "out" / "_plan.json"
    plan.write_text(plan.read_text().replace("***", "me:hunter2"))
    assert run_cli(*run)[0] == 0
    assert b"hunter2" not in (tmp_path / "out" / "_manifest.json").read_bytes()


def test_limits_beyond_every_file_are_one_line(refused, tmp_path):
    data = lines(tmp_path / "a.jsonl", GOOD)
    for limit in (2**63, 10**40, -1, -(2**63), 0):
        assert re.search("limit.*expected", refused(data, "--limit", str(limit)))
