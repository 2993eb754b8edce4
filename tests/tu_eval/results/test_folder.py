"""One way to write a results folder and one to read it, for every command: what was edited or damaged is named, and
folders of earlier versions, whose summaries had no hash of their own, still open."""

import json
from dataclasses import dataclass

import pytest

from shared.errors import StoreError
from shared.files.fs import hash_file, hash_json
from tests.tu_eval.made import make_results
from tu_eval.attacks.run import ATTACK_FOLDER, summarise
from tu_eval.attacks.run import schema as attack_schema
from tu_eval.choices.run import CHOICES_FOLDER, accuracies
from tu_eval.choices.run import schema as choices_schema
from tu_eval.evidence.verify import verify
from tu_eval.harness.run import BENCHMARKS_FOLDER
from tu_eval.harness.run import schema as benchmarks_schema
from tu_eval.judge.run import JUDGE_FOLDER
from tu_eval.judge.run import schema as judge_schema
from tu_eval.judge.run import summarise as judge_means
from tu_eval.results.folder import ROWS, read_folder, write_folder
from tu_eval.results.results import SUITE_FOLDER

KINDS = {"attack": ATTACK_FOLDER, "choices": CHOICES_FOLDER, "judge": JUDGE_FOLDER, "benchmarks": BENCHMARKS_FOLDER}


@dataclass
class Config:
    model: str = "x"
    data: str = "s3://me:SESAME@host/rows.jsonl?token=SESAME"


def written(command):
    """-> summary and rows as a command makes them, and the schema."""
    if command == "attack":
        rows = [{"setting": name, "set": "forget", "example_id": "r/0", "probability": p, "fact_probability": None}
                for name, p in (("as it is", 0.25), ("int4, a scale a channel", 0.5))]  # fmt: skip
        numbers = summarise(["quantise"], {"model": {"quantise": rows}})
        flat = [{"model": "model", "attack": "quantise", **row} for row in rows]
        return {"models": {"model": {"model": Config.data}}, "numbers": numbers}, flat, attack_schema()
    if command == "choices":
        rows = [{"example_id": f"q/{k}", "logprobs": [-1.0, -2.0], "characters": [3, 4], "answer": k, "picked": 0, "picked_norm": 1}
                for k in range(2)]  # fmt: skip
        return {"data": Config.data, "questions": 2, "metrics": accuracies(rows)}, rows, choices_schema()
    if command == "judge":
        rows = [{"id": "a", "category": "all", "turn": k, "question": "?", "answer": "!", "finished": True, "rating": 7.0,
                 "reply": "Rating: [[7]]"} for k in (1, 2)]  # fmt: skip
        return {"data": Config.data, **judge_means(rows)}, rows, judge_schema()
    rows = [{"task": "t", "question": 0, "filter": "none", "answer": "1", "loglikelihoods": [-1.0], "responses": [], "acc": 1.0}]
    return {"data": Config.data, "questions": 1, "metrics": {"t": {"acc": 1.0}}}, rows, benchmarks_schema(rows)


@pytest.fixture(params=KINDS)
def command(request):
    return request.param


@pytest.fixture
def kind(command):
    return KINDS[command]


@pytest.fixture
def folder(command, kind, tmp_path):
    summary, rows, schema = written(command)
    write_folder(tmp_path / "out", kind, summary, {ROWS: (schema, rows)}, Config())
    return tmp_path / "out"


def edit(folder, kind, *, seal: bool | None = True, **changes):
    """With the summary's own hash made anew, taken out, or (None) left as it was."""
    summary = {**json.loads((folder / kind.summary).read_text()), **changes}
    if seal is not None:
        summary.pop("summary_sha256")
        summary |= {"summary_sha256": hash_json(summary)} if seal else {}
    (folder / kind.summary).write_text(json.dumps(summary))


def test_what_is_written_is_read_again_and_no_secret_is_in_it(command, kind, folder):
    finished = read_folder(folder, kind)
    _, rows, schema = written(command)
    assert finished.sealed and finished.rows() == [{name: row.get(name) for name in schema.names} for row in rows]
    assert sorted(p.name for p in folder.iterdir()) == sorted([kind.summary, ROWS, "_config.toml"])
    assert next(iter(finished.summary)) == "format" and list(finished.summary)[-2:] == ["rows_sha256", "summary_sha256"]
    assert not any(b"SESAME" in p.read_bytes() for p in folder.iterdir())
    assert verify(folder)[0] == f"hashes: {kind.summary} and its rows are whole"


def test_nothing_is_left_of_a_folder_that_cannot_be_written(command, kind, tmp_path):
    summary, rows, schema = written(command)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_folder(tmp_path / "out", kind, {**summary, "more": float("nan")}, {ROWS: (schema, rows)}, Config())
    assert list(tmp_path.iterdir()) == []


def test_an_edited_summary_does_not_match_its_own_hash(kind, folder):
    edit(folder, kind, seal=None, label="another")
    with pytest.raises(StoreError, match=rf"{kind.summary}: does not match its own hash; it was damaged or edited"):
        verify(folder)


def test_a_summary_of_an_earlier_version_has_no_hash_of_its_own_and_is_said_to_be_recorded(kind, folder):
    edit(folder, kind, seal=False)
    assert not read_folder(folder, kind).sealed
    assert verify(folder)[:2] == [
        "hashes: rows.parquet is whole",
        f"{kind.summary}: as recorded, not verified: of an earlier version, without a hash of its own",
    ]


def test_a_summary_of_a_suite_never_was_without_it(tmp_path):
    folder = make_results(tmp_path / "out", "x")
    edit(folder, SUITE_FOLDER, seal=False)
    with pytest.raises(StoreError, match="does not match its own hash"):
        read_folder(folder, SUITE_FOLDER)


@pytest.mark.parametrize(
    "damage, says",
    [
        (lambda f, k: (f / ROWS).write_bytes((f / ROWS).read_bytes()[:-9]), "rows.parquet: does not match the hash in"),
        (lambda f, k: (f / ROWS).unlink(), "rows.parquet: is missing"),
        (lambda f, k: (f / k.summary).unlink(), "holds none of summary.json"),
        (lambda f, k: (f / k.summary).write_text("[" * 10_000), "nested too deeply"),
        (lambda f, k: (f / k.summary).write_text('{"format": 1, "x": "\\ud800"}'), "half of a character"),
        (lambda f, k: (f / k.summary).write_text("[1]"), "expected an object with named values"),
        (lambda f, k: edit(f, k, format=2), "has format 2, this version reads 1; update token-unlearn"),
        (lambda f, k: edit(f, k, rows_sha256=None), "rows_sha256 is null, expected text"),
    ],
)
def test_what_is_damaged_is_named(kind, folder, damage, says):
    damage(folder, kind)
    with pytest.raises(StoreError, match=says) as error:
        verify(folder)
    assert "\n" not in str(error.value)


def test_numbers_that_the_rows_do_not_give_are_refused_whatever_the_hashes_say(command, kind, folder):
    if command == "benchmarks":
        assert "numbers: lm-eval's, as recorded, not verified" in verify(folder)
        return
    numbers = json.loads((folder / kind.summary).read_text()).get("numbers", [])
    changes = {
        "attack": {"numbers": [{**n, "model": 0.125} for n in numbers]},
        "choices": {"metrics": {"accuracy": 1.0}},
        "judge": {"score": 9.0},
    }
    edit(folder, kind, **changes[command])
    with pytest.raises(StoreError, match="not what its rows give; it was edited"):
        verify(folder)


@pytest.mark.parametrize("command", ["attack", "choices", "judge"], indirect=True)
def test_rows_of_another_command_give_no_numbers(command, kind, folder):
    other = "choices" if command != "choices" else "judge"
    summary, rows, schema = written(other)
    write_folder(folder.parent / "other", KINDS[other], summary, {ROWS: (schema, rows)}, Config())
    (folder / ROWS).write_bytes((folder.parent / "other" / ROWS).read_bytes())
    edit(folder, kind, rows_sha256=hash_file(folder / ROWS))
    with pytest.raises(StoreError, match=r"it was edited|cannot be read"):
        verify(folder)
