"""tu-score through its real command: what it prints, what it refuses, what it leaves behind."""

import importlib.util
import json
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from shared.errors import StoreError
from shared.files.fs import hash_json
from shared.store.files import MANIFEST
from shared.store.parts import TOKEN_COLUMNS, schema
from shared.store.scores import open_store

DATA = "atlas:forget:people=4,facts_per_person=3,forget_people=2,holdout_people=1"
FLIPS = 200


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model, tiny_base):
    from tu_score.config import ScoreConfig
    from tu_score.run import run_score

    out = tmp_path_factory.mktemp("made") / "store"
    return run_score(ScoreConfig(model=str(tiny_model), base_model=str(tiny_base), data=DATA, out=str(out), part_tokens=200))


@pytest.fixture
def store(made, tmp_path):
    return shutil.copytree(made, tmp_path / "store")


@pytest.fixture
def refused(run_cli, tmp_path, tiny_model):
    """Runs tu-score, expects one line and nothing written; returns the line."""

    def run(*arguments, model=tiny_model, data=DATA):
        out = tmp_path / "refused"
        code, _, err = run_cli("tu-score", "run", "--model", model, "--data", data, "--out", out, *arguments)
        return one_line(code, err, out)

    return run


def one_line(code, err, out=None):
    assert code == 2, err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert out is None or not out.exists()
    return err


def write_rows(path, *lines):
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_help_is_quick_and_imports_nothing_heavy():
    times = []
    for _ in range(3):
        start = time.monotonic()
        subprocess.run([sys.executable, "-m", "tu_score", "--help"], check=True, capture_output=True)
        times.append(time.monotonic() - start)
    assert min(times) < 0.5, times
    code = "import sys, tu_score.cli; print([m for m in ('torch', 'transformers', 'pyarrow', 'datasets') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_run_prints_where_and_what_and_its_configuration_makes_the_same_store(run_cli, tmp_path, tiny_model):
    first, second = tmp_path / "first", tmp_path / "second"
    code, out, _ = run_cli(
        "tu-score", "run", "--model", tiny_model, "--data", DATA, "--out", first, "--set", "window_length=3", "--spans", "window"
    )
    assert code == 0 and str(first) in out and "6 rows" in out and "self-check: ok" in out and "next: " in out
    assert run_cli("tu-score", "run", "--config", first / "_config.toml", "--out", second)[0] == 0
    for part in sorted(first.glob("part-*")):
        assert part.read_bytes() == (second / part.name).read_bytes()
    assert open_store(first).manifest["options"] == open_store(second).manifest["options"]


def test_store_opens_in_pandas_and_datasets(made, tmp_path):
    for part in made.glob("part-*.parquet"):
        found, expected = pq.read_schema(part), schema(["word", "copied"])
        assert found.names == expected.names and found.types == expected.types
    frame = pd.read_parquet(made)
    tokens = frame.explode([*TOKEN_COLUMNS, "word", "copied"])
    assert len(frame) == 6 and len(tokens) == open_store(made).manifest["tokens"]
    import datasets

    assert len(datasets.load_dataset("parquet", data_files=f"{made}/*.parquet", cache_dir=str(tmp_path))["train"]) == 6


def test_verify_and_inspect(run_cli, store, tmp_path):
    code, out, _ = run_cli("tu-score", "verify", store)
    assert code == 0 and out.startswith("ok: 6 rows")
    name = open_store(store).part(0)[0]["example_id"]
    code, out, _ = run_cli("tu-score", "inspect", store, "--example", name)
    assert code == 0 and out.startswith(name) and "⏎" in out
    page = tmp_path / "page.html"
    assert run_cli("tu-score", "inspect", store, "--html", page, "--signal", "gain")[0] == 0
    text = page.read_text()
    assert '"gain":[' in text and "&lt;|im_start|&gt;" in text and "http" not in text
    assert "did you mean 'entropy'" in one_line(*run_cli("tu-score", "inspect", store, "--signal", "entropi")[::2])
    assert "no example 'x'" in one_line(*run_cli("tu-score", "inspect", store, "--example", "x")[::2])


def rewrite(store, change):
    """Makes a store whose hashes fit, and whose first part holds what `change` made of its rows."""
    import hashlib

    import pyarrow as pa

    manifest = json.loads((store / MANIFEST).read_text())
    entry = manifest["parts"][0]
    rows = pq.read_table(store / entry["file"]).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema(manifest["optional"])), store / entry["file"], write_page_checksum=True)
    data = (store / entry["file"]).read_bytes()
    entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    write_manifest(store, manifest)


def write_manifest(store, manifest):
    body = {k: v for k, v in manifest.items() if k != "manifest_sha256"}
    (store / MANIFEST).write_text(json.dumps({**body, "manifest_sha256": hash_json(body)}, indent=2, ensure_ascii=False) + "\n")


@pytest.mark.parametrize(
    ("column", "index", "value", "problem"),
    [
        ("logprob", 3, 0.5, "logprob above 0"),
        ("logprob", 3, None, "null elsewhere"),
        ("entropy", 0, 1.0, "null elsewhere"),
        ("entropy", 2, -1.0, "entropy below 0"),
        ("importance", -1, 1.5, "outside 0 to 1"),
        ("importance", 1, 0.5, "off target"),
        ("delta_span", -1, 9, "names no span"),
        ("tokens", None, ["a"], "unequal"),
    ],
)
def test_verify_names_what_is_wrong(run_cli, store, column, index, value, problem):
    def change(rows):
        if index is None:
            rows[0][column] = value
        else:
            rows[0][column][index] = value

    rewrite(store, change)
    code, out, err = run_cli("tu-score", "verify", store)
    assert problem in out
    one_line(code, err)


def test_two_rows_with_one_id_are_a_problem(run_cli, store):
    rewrite(store, lambda rows: rows[0].update(example_id=open_store(store).part(1)[0]["example_id"]))
    assert "twice" in run_cli("tu-score", "verify", store)[1]


def test_no_flipped_bit_is_accepted(store):
    generator = random.Random(3)
    files = [*sorted(store.glob("part-*")), store / MANIFEST]
    for _ in range(FLIPS):
        path = generator.choice(files)
        sound = path.read_bytes()
        at = generator.randrange(len(sound))
        path.write_bytes(sound[:at] + bytes([sound[at] ^ (1 << generator.randrange(8))]) + sound[at + 1 :])
        with pytest.raises(StoreError):
            list(open_store(store).rows())
        path.write_bytes(sound)
    assert len(list(open_store(store).rows())) == 6


def test_unfinished_and_newer_stores_are_refused(run_cli, store):
    write_manifest(store, {**json.loads((store / MANIFEST).read_text()), "format": 3})
    assert "upgrade" in one_line(*run_cli("tu-score", "inspect", store)[::2])
    (store / MANIFEST).unlink()
    for command in ("inspect", "verify"):
        assert "unfinished" in one_line(*run_cli("tu-score", command, store)[::2])


def test_another_run_in_the_folder_is_refused(run_cli, store, tiny_model):
    before = {p.name: p.read_bytes() for p in store.iterdir()}
    code, _, err = run_cli("tu-score", "run", "--model", tiny_model, "--data", DATA, "--out", store)
    assert "another run" in one_line(code, err) and {p.name: p.read_bytes() for p in store.iterdir()} == before


def test_bad_models(refused, tmp_path, tiny_model):
    assert "no such folder" in refused(model=tmp_path / "missing")
    bare = shutil.copytree(tiny_model, tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    assert "no *.safetensors" in refused(model=bare)
    other = shutil.copytree(tiny_model, tmp_path / "other")
    text = json.loads((other / "tokenizer.json").read_text())
    text["model"]["merges"].pop()
    (other / "tokenizer.json").write_text(json.dumps(text))
    assert "tokenizer differs" in refused("--base-model", other)


def test_bad_data(refused, tmp_path):
    path = tmp_path / "d.jsonl"
    assert "did you mean 'forget'" in refused(data="atlas:forgt")
    assert "tofu" in refused(data="tofu:forget02")
    refused(data="nothing:here")
    good = {"question": "Who?", "answer": "Me."}
    assert "/1" in refused(data=write_rows(path, good, {"question": "Who?", "answer": " "}))
    assert "2" in refused(data=write_rows(path, good, "{not json\n"))
    assert "anser" in refused("--answer-key", "anser", data=write_rows(path, good))


def test_long_examples(refused, run_cli, tmp_path, tiny_model):
    path = write_rows(tmp_path / "d.jsonl", {"question": "Who?", "answer": "Me."}, {"question": "Who?", "answer": "zebra " * 400})
    assert "d/rows/1" in (line := refused(data=path)) and "512" in line
    for how, rows in (("skip", 1), ("truncate", 2)):
        out = tmp_path / how
        code, _, err = run_cli("tu-score", "run", "--model", tiny_model, "--data", path, "--out", out, "--long", how)
        assert code == 0 and len(open_store(out)) == rows and f"--long {how}" in err


def test_bad_options(refused, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "cuda" in refused("--device", "cuda")
    assert "did you mean 'horizon'" in refused("--set", "horizn=3")
    assert "expected int" in refused("--set", "part_tokens=many")
    assert "did you mean 'window'" in refused("--spans", "windw")
    assert "--base-model" in refused("--set", "knowledge=gain", "--set", "alpha=0.5")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "vllm" else find(name, *a))
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert "pip install" in refused("--engine", "vllm")


def test_an_engine_whose_values_depend_on_what_comes_before_a_row_is_refused(run_cli, monkeypatch, tmp_path, tiny_model):
    """Right for every row alone and in the order of the data; wrong for rows in another order."""
    from shared.engines.torch import TorchEngine

    honest, seen = TorchEngine.score, []

    def dishonest(self, requests, *more):
        plain = [r.ids for r in requests if len(r.wanted) == len(r.ids) - 1]
        seen.extend(ids for ids in plain if ids not in seen)
        turned = [seen.index(ids) for ids in plain] != sorted(seen.index(ids) for ids in plain)
        return [replace(s, logprob=s.logprob - np.float32(0.01 * turned)) for s in honest(self, requests, *more)]

    monkeypatch.setattr(TorchEngine, "score", dishonest)
    out = tmp_path / "out"
    code, _, err = run_cli("tu-score", "run", "--model", tiny_model, "--data", DATA, "--out", out)
    assert code == 2 and "self-check failed" in err.splitlines()[-1] and not (out / MANIFEST).exists()


def test_an_engine_whose_values_depend_on_the_batch_is_refused(run_cli, monkeypatch, tmp_path, tiny_model):
    from shared.engines.torch import TorchEngine

    honest = TorchEngine.score

    def dishonest(self, requests, *more):
        shift = np.float32(0.01 * len(requests))
        return [replace(s, logprob=s.logprob - shift) for s in honest(self, requests, *more)]

    monkeypatch.setattr(TorchEngine, "score", dishonest)
    out = tmp_path / "out"
    code, _, err = run_cli("tu-score", "run", "--model", tiny_model, "--data", DATA, "--out", out)
    assert code == 2 and "self-check failed" in err.splitlines()[-1] and not (out / MANIFEST).exists()
