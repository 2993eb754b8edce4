"""Every file that an evaluation reads, changed at random with its hashes made anew: one line and exit code 2, or right
numbers.

TU_MUTATIONS: changes a file (40); each test prints how many were refused.
"""

import json
import os
import random
import shutil

import pandas
import pytest

from shared.files.fs import hash_file
from tests.tu_eval.mutations import cut, judged, mutate, text_of, within

COUNT = int(os.environ.get("TU_MUTATIONS", "40"))
MOST_S = 60


def hashed(summary: dict) -> str | None:
    """The hash that a summary must carry; None where it cannot be hashed at all."""
    import hashlib

    try:
        body = {k: v for k, v in summary.items() if k != "summary_sha256"}
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    except (TypeError, ValueError, RecursionError):
        return None


def commands(tmp_path, made):
    before, after, retain = made
    out = tmp_path / "out"
    return (
        ("compare", before, after, retain, "--out", out / "r.html", "--csv", out / "r.csv", "--markdown", out / "r.md"),
        ("evidence", "--before", before, "--after", after, "--retain", retain, "--out", out),
        ("verify", after),
    )


def run_all(run_cli, tmp_path, made, what) -> int:
    """-> how many of the commands refuse."""
    refusals = 0
    for arguments in commands(tmp_path, made):
        with within(MOST_S):
            refusals += judged(run_cli("tu-eval", *arguments), f"{what}, {arguments[0]}") == 2
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    return refusals


def test_summaries(run_cli, made, tmp_path):
    place = made[1] / "summary.json"
    good, refusals = json.loads(place.read_text()), 0
    for seed in range(COUNT):
        bad = mutate(good, random.Random(seed))
        if isinstance(bad, dict):
            bad["summary_sha256"] = hashed(bad)
        place.write_text(text_of(bad))
        refusals += run_all(run_cli, tmp_path, made, f"summary {seed}")
    print(f"{COUNT} summaries, {refusals} of {3 * COUNT} refused")
    assert refusals > COUNT


@pytest.mark.parametrize("name", ["rows.parquet", "membership.parquet"])
def test_rows(run_cli, made, tmp_path, name):
    folder, rng, refusals = made[1], random.Random(0), 0
    good, summary = (folder / name).read_bytes(), json.loads((folder / "summary.json").read_text())
    frame = pandas.read_parquet(folder / name)
    values = [None, "x", -1, 1e308, float("nan"), float("inf"), "\x1b", b"\xff", [1], True, 10**18]
    for seed in range(COUNT):
        kind, bad = rng.randrange(5), frame.copy()
        column = rng.choice(list(bad.columns))
        if kind == 0:
            bad = bad.drop(columns=[column])
        elif kind == 1:
            bad = bad.iloc[: rng.randrange(len(bad))]
        elif kind == 2:
            bad[column] = [rng.choice(values)] * len(bad)
        elif kind == 3:
            bad[column] = bad[column].astype(object)
            bad.iat[rng.randrange(len(bad)), list(bad.columns).index(column)] = rng.choice([None, 0.25, -1.0, 1e308, float("nan")])
        try:
            (folder / name).write_bytes(cut(good, rng)) if kind == 4 else bad.to_parquet(folder / name)
        except (ValueError, TypeError, OSError):  # pyarrow's are among them: no file of such values
            (folder / name).write_bytes(cut(good, rng))
        changed = {**summary, ("rows_sha256" if name.startswith("rows") else "membership_sha256"): hash_file(folder / name)}
        (folder / "summary.json").write_text(json.dumps({**changed, "summary_sha256": hashed(changed)}))
        refusals += run_all(run_cli, tmp_path, made, f"{name} {seed}")
    print(f"{COUNT} of {name}, {refusals} of {3 * COUNT} refused")
    assert refusals > COUNT


@pytest.mark.parametrize("name", ["training.json", "config.json"])
def test_what_lies_in_the_measured_models_folder(run_cli, made, tmp_path, name):
    place = tmp_path / "model" / name
    good = json.loads(place.read_text())
    for seed in range(COUNT):
        place.write_text(text_of(mutate(good, random.Random(seed))))
        run_all(run_cli, tmp_path, made, f"{name} {seed}")


def test_indexes_of_runs(run_cli, made, tmp_path):
    entry = {"name": "a", "folder": "after", "settings": {"method": "npo", "seed": 0}, "status": "finished", "error": None}
    good = {"format": 1, "runs": [entry, {**entry, "name": "b", "folder": "model"}]}
    for seed in range(COUNT):
        (tmp_path / "index.json").write_text(text_of(mutate(good, random.Random(seed))))
        with within(MOST_S):
            judged(
                run_cli("tu-eval", "compare", made[0], "--index", tmp_path / "index.json", "--out", tmp_path / "r.html"), f"index {seed}"
            )


SUITE = """holdout = "rows.jsonl"
[[set]]
name = "forget"
data = "rows.jsonl"
paraphrase = false
[[set]]
name = "more"
data = "rows.jsonl"
"""


def test_suites(run_cli, tiny_model, tmp_path):
    """Words of the TOML file replaced, or its bytes."""
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "Who?", "answer": "A.", "perturbed_answer": ["B."]}) + "\n")
    words = [
        "true",
        "-1",
        "1e999",
        '"x"',
        "[]",
        "{}",
        "[[set]]",
        "9" * 5000,
        "[" * 5000,
        '"\\ud800"',
        "inf",
        "nan",
        "1979-05-27",
        '"http://x"',
    ]
    for seed in range(COUNT):
        rng = random.Random(seed)
        parts = SUITE.split(" ")
        parts[rng.randrange(len(parts))] = rng.choice(words)
        text = " ".join(parts).encode() if rng.random() < 0.7 else cut(SUITE.encode(), rng)
        (tmp_path / "own.toml").write_bytes(text)
        arguments = ("run", "--model", tiny_model, "--suite", tmp_path / "own.toml", "--set", "generate=false", "--out", tmp_path / "out")
        with within(MOST_S):
            judged(run_cli("tu-eval", *arguments), f"suite {seed}")
        for left in ("out", "out.unfinished"):
            shutil.rmtree(tmp_path / left, ignore_errors=True)


# --- models


@pytest.fixture
def ask(run_cli, tmp_path):
    """`ask(folder, what)` -> choices.json, or None where the model is refused."""
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "Where?", "choices": ["Here", "There"], "answer": 0}) + "\n")

    def call(folder, what):
        with within(MOST_S):
            arguments = ("--model", folder, "--data", tmp_path / "rows.jsonl", "--device", "cpu", "--out", tmp_path / "asked")
            code = judged(run_cli("tu-eval", "choices", *arguments), what)
        found = json.loads((tmp_path / "asked" / "choices.json").read_text()) if code == 0 else None
        rows = pandas.read_parquet(tmp_path / "asked" / "rows.parquet")["logprobs"].tolist() if code == 0 else None
        shutil.rmtree(tmp_path / "asked", ignore_errors=True)
        return found and {**found, "logprobs": [list(x) for x in rows or ()]}

    return call


FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "adapter_config.json",
)


@pytest.mark.parametrize("name", FILES)
def test_files_of_a_model(ask, tiny_model, tmp_path, name):
    """Other numbers only under another fingerprint."""
    from tests.shared.lm.test_model_files import shards

    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    if "index" in name:
        shards(folder)
    good = {"base_model_name_or_path": "x", "peft_type": "LORA", "r": 2} if "adapter" in name else json.loads((folder / name).read_text())
    right = ask(folder, "as it is")
    assert right is not None
    prints = ("model_fingerprint", "tokenizer_fingerprint", "template_fingerprint")
    seen, refusals = {tuple(right[p] for p in prints): right["logprobs"]}, 0
    for seed in range(COUNT):
        rng = random.Random(seed)
        text = text_of(mutate(good, rng)).encode() if rng.random() < 0.8 else cut(json.dumps(good).encode(), rng)
        (folder / name).write_bytes(text)
        found = ask(folder, f"{name} {seed}")
        refusals += found is None
        if found is not None:
            assert seen.setdefault(tuple(found[p] for p in prints), found["logprobs"]) == found["logprobs"], (name, seed)
    print(f"{COUNT} of {name}, {refusals} refused")


def test_weights(ask, tiny_model, tmp_path):
    """The header above all: lengths, offsets, shapes and dtypes."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    data = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for seed in range(COUNT):
        rng = random.Random(seed)
        if rng.random() < 0.3:
            (folder / "model.safetensors").write_bytes(cut(data[:200], rng) + data[200:])
        else:
            text = text_of(mutate(header, rng)).encode("utf-8", "surrogatepass")
            size = rng.choice((len(text), len(text), len(text), len(text) + 1, 2**63, 0))
            (folder / "model.safetensors").write_bytes(size.to_bytes(8, "little") + text + data[8 + length :])
        ask(folder, f"weights {seed}")


@pytest.mark.parametrize("limit", [-1, 0, 2**63, 2**64, 10**30])
@pytest.mark.parametrize("command", ["run", "attack", "choices", "judge", "benchmarks"])
def test_limits_off_the_scale_are_one_line(run_cli, tiny_model, tmp_path, command, limit, monkeypatch):
    monkeypatch.setenv("TU_JUDGE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("TU_JUDGE_MODEL", "x")
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"question": "?", "choices": ["a", "b"], "answer": 0, "id": "a", "turns": ["?"]}) + "\n"
    )
    more = {"run": ("--suite", "atlas"), "attack": ("--suite", "atlas"), "benchmarks": ("--tasks", "wmdp")}
    arguments = more.get(command, ("--data", tmp_path / "rows.jsonl"))
    code, _, err = run_cli("tu-eval", command, "--model", tiny_model, *arguments, f"--limit={limit}", "--out", tmp_path / "out")
    assert code == 2 and "limit" in err and "Traceback" not in err and err.count("\n") == 1, err
