"""tu-score run --dry-run against the run itself, and what the progress line says."""

import json
import re

import pytest

from shared.console import Progress, duration, readable_bytes
from shared.store.scores import open_store

DATA = "atlas:forget:people=8,facts_per_person=6,forget_people=6,holdout_people=1"


@pytest.fixture
def dry(run_cli, tiny_model):
    def run(*arguments):
        code, out, err = run_cli("tu-score", "run", "--model", tiny_model, "--data", DATA, "--dry-run", *arguments)
        assert code == 0, err
        return out

    return run


def numbers(out: str) -> dict[str, float]:
    """The first number of each line."""
    return {line[:16].strip(): float(re.search(r"[\d,.]+", line[16:])[0].replace(",", "")) for line in out.splitlines()}


@pytest.mark.parametrize("extra", [("--spans", "window"), ("--spans", "question", "--keep-spans", "--topk", "20"), ("--spans", "none")])
def test_a_dry_run_counts_what_the_run_then_holds(dry, run_cli, tiny_model, tiny_base, tmp_path, extra):
    options = ("--base-model", tiny_base, "--set", "part_tokens=900", *extra)
    found = numbers(dry(*options))
    code, _, err = run_cli("tu-score", "run", "--model", tiny_model, "--data", DATA, "--out", tmp_path / "store", *options)
    assert code == 0, err
    store = open_store(tmp_path / "store")
    rows = list(store.rows())
    assert found["rows"] == len(rows)
    assert found["tokens"] == store.manifest["tokens"]
    assert found["masked variants"] == sum(len(row["spans"]) for row in rows)
    size = sum(part["bytes"] for part in store.manifest["parts"])
    unit = {"kB": 1e3, "MB": 1e6}[re.search(r"on disk .*? (kB|MB) in", dry(*options))[1]]
    assert found["on disk"] * unit == pytest.approx(size, rel=0.35)
    assert f"in {len(store.manifest['parts'])} part" in dry(*options)
    # the last line comes when the last part is written
    told = re.findall(r"\((\d+)/(\d+) rows, (\d+)/(\d+) masked variants, ([\d.]+ k?B) written\)", err)[-1]
    assert int(told[1]) == len(rows)
    assert int(told[3]) == found["masked variants"]
    assert int(told[0]) == len(rows) and int(told[2]) == found["masked variants"]


def test_a_dry_run_writes_nothing_and_needs_no_out(dry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "duration         about" in dry()
    assert "8 rows timed" in dry("--out", tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_a_dry_run_refuses_what_the_run_would_refuse(run_cli, tiny_model, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("mine")
    code, _, err = run_cli("tu-score", "run", "--model", tiny_model, "--data", DATA, "--out", tmp_path / "taken", "--dry-run")
    assert code == 2
    assert "not a score store" in err
    code, _, err = run_cli("tu-score", "run", "--model", tiny_model, "--data", DATA, "--dry-run", "--set", "replacement=mask")
    assert code == 2
    assert "no mask token" in err


def test_a_dry_run_finds_a_place_that_cannot_be_written(run_cli, tiny_model, tmp_path):
    (tmp_path / "file").write_text("mine")
    words = ("tu-score", "run", "--model", tiny_model, "--data", DATA, "--dry-run", "--limit", 2)
    for more in ((), ("--shard", "1/2")):
        code, _, err = run_cli(*words, "--out", tmp_path / "file" / "store", *more)
        assert code == 2 and f"error: {tmp_path / 'file' / 'store'}" in err and "cannot be made" in err
    (tmp_path / "run.toml").write_text(f'out = "{tmp_path / "file" / "store"}"\n')
    code, _, err = run_cli(*words, "--config", tmp_path / "run.toml")
    assert code == 2 and "cannot be made" in err, err


def test_a_dry_run_of_a_shard_says_what_the_shard_holds(dry, run_cli, tiny_model, tmp_path):
    options, sums = ("--set", "part_tokens=400", "--spans", "question"), {}
    whole = numbers(dry(*options))
    for number in range(1, 4):
        out = dry(*options, "--out", tmp_path / "store", "--shard", f"{number}/3")
        assert f" in shard {number}/3" in out and not list(tmp_path.iterdir())
        for name, value in numbers(out).items():
            sums[name] = sums.get(name, 0) + value
        assert 0 < numbers(out)["rows"] < whole["rows"]
    assert all(sums[name] == whole[name] for name in ("rows", "tokens", "masked variants"))
    words = ("--data", DATA, "--out", tmp_path / "store", "--shard", "2/3", *options)
    assert run_cli("tu-score", "run", "--model", tiny_model, *words)[0] == 0
    entries = json.loads((tmp_path / "store" / "_shards" / "2-of-3" / "_shard.json").read_text())["parts"]
    found = dry(*options, "--shard", "2/3")
    assert f"in {len(entries)} part" in found
    for name in ("rows", "tokens"):
        assert numbers(found)[name] == sum(part["entry"][name] for part in entries)
    empty = dry("--set", "part_tokens=100000", "--shard", "2/2")
    assert numbers(empty)["rows"] == 0 and "in 0 parts" in empty


def test_the_base_models_pass_counts(dry, tiny_base):
    reads = [int(re.search(r"\(([\d,]+) tokens to read", out)[1].replace(",", "")) for out in (dry(), dry("--base-model", tiny_base))]
    assert reads[1] - reads[0] == numbers(dry())["tokens"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (7505, "2 h 05 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(12, "12 B"), (12_345, "12.3 kB"), (2.5e6, "2.5 MB"), (3e12, "3 TB")])
def test_sizes(count, text):
    assert readable_bytes(count) == text


def test_the_time_left_is_told_from_the_speed_so_far(monkeypatch):
    clock = iter([0.0, 0.0])
    monkeypatch.setattr("shared.console.time.monotonic", lambda: next(clock, 30.0))
    bar = Progress("scoring", 400, "tokens")
    bar.done = 100
    assert bar.left() == ", 1 min 30 s left"
    bar.done = 400
    assert bar.left() == ""


def test_nothing_is_masked_for_a_recipe_that_reads_no_masked_run(dry, run_cli, tiny_model, tmp_path):
    """The default recipe's importance is the same with and without masked variants, which cost as many tokens again."""
    plain, masked = numbers(dry()), numbers(dry("--spans", "question"))
    assert plain["masked variants"] == 0 and f"--spans question would add {masked['masked variants']:,.0f} and" in dry()
    run = ("tu-score", "run", "--model", tiny_model, "--data", DATA, "--limit", 3, "--out")
    found = {}
    for name, more in {"auto": (), "question": ("--spans", "question"), "none": ("--spans", "none")}.items():
        code, _, err = run_cli(*run, tmp_path / name, *more)
        assert code == 0, err
        found[name] = [row["importance"] for row in open_store(tmp_path / name).rows(("importance",))]
    assert found["auto"] == found["question"] == found["none"] and any(any(v or 0 for v in row) for row in found["auto"])
    assert open_store(tmp_path / "auto").manifest["options"]["spans"] == "none", "the plan says what was done"


@pytest.mark.parametrize(
    "more",
    [
        ("--set", "alpha=0.5"),
        ("--keep-spans",),
        ("--set", "uncertainty=masked_entropy"),
        ("--set", "replacement=random"),
        ("--set", "window_length=3"),
        ("--set", "copy_aware=true"),
    ],
)
def test_what_reads_masked_runs_gets_them(dry, more):
    assert numbers(dry(*more))["masked variants"] > 0 and "would add" not in dry(*more)


def test_raw_text_needs_no_spans_and_gets_windows_where_they_are_read(run_cli, tiny_model, tmp_path):
    (tmp_path / "raw.jsonl").write_text('{"text": "Ольга живёт в Пскове. Orla Venn lives in Port Sable."}\n', encoding="utf-8")
    run = ("tu-score", "run", "--model", tiny_model, "--data", tmp_path / "raw.jsonl", "--text-key", "text", "--out")
    for name, more, spans in (("plain", (), "none"), ("masked", ("--set", "alpha=0.5"), "window")):
        code, _, err = run_cli(*run, tmp_path / name, *more)
        assert code == 0, err
        assert open_store(tmp_path / name).manifest["options"]["spans"] == spans
