"""What an earlier version wrote opens, verifies, compares and goes on as it did then: tests/golden, by the commands.

What is written as text, as integers or as a hash of either has to be the same. Numbers that a forward pass gave depend
in their last bits on the processor and on the packages' versions, so they are held to TOLERANCE everywhere and to the
bit on the machine of expected.json.
"""

import hashlib
import http.server
import json
import shutil
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.golden import machine
from benchmarks.golden_commands import COMPARE, MADE, RESUME, RESUMED

GOLDEN = Path(__file__).with_name("golden")
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
SAME_MACHINE = machine() == EXPECTED["machine"]
TOLERANCE = 1e-6
RESULTS = ("results-retain", "results", "results-after", "results-muse", "attacks", "choices", "benchmarks", "judged", "evidence")
OF_THE_VERSION = ("code", "attack_code", "answer_code", "versions")
"""entries of an identity that are to change with the code or the packages"""


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A copy, as the current folder; one thread, as when it was made."""
    shutil.copytree(GOLDEN / "world", tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    monkeypatch.setenv("TU_MUSE_DIR", "muse")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path / "world"
    torch.set_num_threads(threads)


@pytest.fixture
def command(run_cli, world):
    """`command(words)` -> stdout and stderr of a command that has to succeed."""

    def run(*words):
        code, out, err = run_cli(*words)
        assert code == 0, err
        return out, err

    return run


@pytest.fixture
def kept(world):
    """The kept measurements, filed under the identities that the code and the packages of today give them."""

    def refile(fresh: Path) -> None:
        """`fresh`: what the same commands keep today. All else in an identity is as it was, and so are the values."""
        for folder in sorted(fresh.iterdir()):
            identity = json.loads((folder / "identity.json").read_text())
            old = next(p for p in (world / "kept").iterdir() if plain(p) == plain(folder))
            assert folder.name == key_of(identity) and old.name == key_of(json.loads((old / "identity.json").read_text()))
            assert {p.name for p in folder.iterdir()} == {p.name for p in old.iterdir()}
            for piece in sorted(old.glob("*.parquet")):
                table, noted = piece_of(piece)
                today, noted_today = piece_of(folder / piece.name)
                assert_same(table, today, without=DRAWN if piece.stem == "sample" else ())
                assert noted["notes"] == noted_today["notes"]
                about = {"tu_eval": json.dumps({**noted, "key": folder.name})}
                pyarrow.parquet.write_table(table.replace_schema_metadata(about), piece, write_page_checksum=True)
            (old / "identity.json").write_text(json.dumps(identity))
            old.rename(world / "kept" / folder.name)

    return refile


def plain(folder: Path) -> dict:
    return {k: v for k, v in json.loads((folder / "identity.json").read_text()).items() if k not in OF_THE_VERSION}


def key_of(identity: dict) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()


def piece_of(path: Path) -> tuple[pyarrow.Table, dict]:
    table = pyarrow.parquet.read_table(path)
    return table, json.loads(table.schema.metadata[b"tu_eval"])


DRAWN = ("drawn", "found", "hits", "recall", "cut")
"""what follows from answers that are drawn: with other random numbers than when these files were made"""


def assert_same(golden: pyarrow.Table, today: pyarrow.Table, without: Sequence[str] = ()) -> None:
    assert golden.schema.names == today.schema.names and golden.schema.types == today.schema.types
    assert set(without) <= set(golden.schema.names)
    assert_close(*(table.drop_columns(list(without)).to_pylist() for table in (golden, today)))


def assert_close(golden, today, where: str = "") -> None:
    """Floats within TOLERANCE, of a value that is larger than 1 relatively; everything else the same."""
    if isinstance(golden, float):
        assert today == pytest.approx(golden, rel=TOLERANCE, abs=TOLERANCE, nan_ok=True), where
    elif isinstance(golden, dict):
        assert golden.keys() == today.keys(), where
        for name, value in golden.items():
            assert_close(value, today[name], f"{where}.{name}")
    elif isinstance(golden, list):
        assert len(golden) == len(today), where
        for number, (one, other) in enumerate(zip(golden, today, strict=True)):
            assert_close(one, other, f"{where}[{number}]")
    else:
        assert today == golden, where


def assert_bits(world: Path, folder: str) -> None:
    """Every file of the folder that expected.json lists."""
    files = {name: sha for name, sha in EXPECTED["sha256"].items() if name.partition("/")[0] == folder}
    assert files
    for name, sha in files.items():
        assert (world / name).exists()
        assert not SAME_MACHINE or hashlib.sha256((world / name).read_bytes()).hexdigest() == sha, name


def assert_weights(path: Path, golden: Path) -> None:
    ours, theirs = load_file(path), load_file(golden)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        np.testing.assert_allclose(ours[name].numpy(), tensor.numpy(), rtol=0, atol=TOLERANCE, err_msg=name)


def numbers(folder: Path, *without: str) -> dict:
    """The one JSON file of a folder that is neither settings nor a signature."""
    (path,) = (p for p in folder.glob("*.json") if p.name != "signature.json")
    return {k: v for k, v in json.loads(path.read_text()).items() if k not in ("versions", "engine", *without)}


def test_the_checks_of_this_file_see_one_changed_number():
    """A negative control."""
    table = pyarrow.parquet.read_table(GOLDEN / "world" / "scores" / "part-00000.parquet")
    assert_same(table, table)
    changed = table.to_pylist()
    changed[0]["input_ids"][-1] += 1
    with pytest.raises(AssertionError, match="input_ids"):
        assert_close(table.to_pylist(), changed)
    changed = table.to_pylist()
    changed[0]["logprob"][-1] += 1e-4
    with pytest.raises(AssertionError, match="logprob"):
        assert_close(table.to_pylist(), changed)


def test_a_score_store_verifies_takes_another_recipe_and_trains(command, world):
    assert command("tu-score", "verify", "scores")[0].startswith("ok: 6 rows, 932 tokens, 6 parts")
    command("tu-score", "inspect", "scores")
    training = [word if word != "scores" else "other" for word in MADE["after"]]
    shutil.copytree("scores", "other")
    command("tu-score", "recipe", "other", "--recipe", "knowledge=positive,norm=rank")
    command("tu-score", "verify", "other")
    command(*training, "--out", "of-another-recipe")
    of, ours = (json.loads((world / name / "training.json").read_text())["store"] for name in ("after", "of-another-recipe"))
    assert of != ours, "the training read the store as it is now"


def test_a_training_by_its_own_settings_gives_the_same_weights(command, world):
    command("tu-train", "run", "--config", "after/_config.toml", "--out", "again")
    assert_weights(world / "again" / "model.safetensors", world / "after" / "model.safetensors")


def test_a_finished_store_is_left_as_it_is(command, world):
    before = {p: p.stat().st_mtime_ns for p in (world / "scores").iterdir()}
    _, err = command("tu-score", "run", "--config", "scores/_config.toml", "--out", "scores")
    assert "this store is finished, and its parts are whole; nothing to do" in err
    assert {p: p.stat().st_mtime_ns for p in (world / "scores").iterdir()} == before


def test_a_store_that_was_killed_half_way_is_refused_and_left_as_it_is(run_cli, world):
    """Format 1 cut the data otherwise."""
    half = world / "scores.half"
    before = {p: p.read_bytes() for p in half.rglob("*") if p.is_file()}
    code, _, err = run_cli(*RESUMED["scores.half"], "--out", "scores.half")
    assert code == 2 and "was begun by an earlier version of token-unlearn" in err.splitlines()[-1]
    assert {p: p.read_bytes() for p in half.rglob("*") if p.is_file()} == before


def test_scored_anew_by_the_recipe_of_then_the_rows_are_the_same(command, world):
    command(*RESUMED["scores.half"], "--out", "again", "--set", "uncertainty=base_entropy")
    old, new = (pyarrow.concat_tables(map(pyarrow.parquet.read_table, sorted((world / n).glob("part-*")))) for n in ("scores", "again"))
    assert_same(old, new)
    fingerprints = [json.loads((world / name / "_manifest.json").read_text())["fingerprints"]["data"] for name in ("scores", "again")]
    assert fingerprints[0] == fingerprints[1]


@pytest.mark.parametrize(("name", "steps"), [("tuned.half", 2), ("after.half", 2), ("landed.half", 1)])
def test_a_training_that_was_killed_half_way_ends_with_the_same_weights(command, world, name, steps):
    _, err = command(*RESUMED[name], *RESUME[name], "--out", name)
    assert f"resumed after {steps} step{'s' if steps > 1 else ''}\n" in err
    assert_weights(world / name / "model.safetensors", GOLDEN / "expected" / f"{name}.safetensors")
    assert_bits(world, name)
    assert not (world / f"{name}.unfinished").exists()
    last = json.loads((world / name / "log.jsonl").read_text().splitlines()[-1])
    assert ("eval_landed" in last) == (name == "landed.half")


def test_a_finished_training_is_not_run_again(command, world):
    before = (world / "after" / "model.safetensors").stat().st_mtime_ns
    _, err = command(*MADE["after"], "--resume", "--out", "after")
    assert "the run is finished, there is nothing to resume" in err
    assert (world / "after" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("begun", [False, True])
def test_a_study_keeps_its_finished_run_and_trains_the_other(command, world, begun):
    """What names a folder is what the version takes for the run's settings: only folders that are there keep theirs."""
    golden = json.loads((world / "many" / "index.json").read_text())["runs"]
    if begun:
        (world / "many" / f"{golden[1]['folder']}.unfinished").mkdir()
    (finished,) = (world / "many").glob("*/model.safetensors")
    before = finished.stat().st_mtime_ns
    _, err = command(*RESUMED["many"], "--out", "many")
    assert "2 runs, 1 of them finished" in err and finished.stat().st_mtime_ns == before
    today = json.loads((world / "many" / "index.json").read_text())["runs"]
    assert [(run["name"], run["status"], run["error"]) for run in today] == [(run["name"], "finished", None) for run in golden]
    same = [run["folder"] == other["folder"] for run, other in zip(today, golden, strict=True)]
    assert same[0] and (same[1] or not begun)
    if same[1]:
        assert_bits(world, "many")


@pytest.mark.parametrize("name", RESULTS)
def test_results_of_every_kind_verify(command, name):
    out, _ = command("tu-eval", "verify", name, *(("--key", "key.public.pem") if name == "evidence" else ()))
    assert ("signature: holds" in out) == (name == "evidence")


def test_results_compare_as_they_did(command, world):
    command("tu-eval", "verify", next((world / "many").glob("*/results")))
    command(*COMPARE)
    assert (world / "compare.md").read_text() == (GOLDEN / "expected" / "compare.md").read_text()
    golden, today = (read_csv(place / "compare.csv") for place in (GOLDEN / "expected", world))
    assert_close(golden, today)


def read_csv(path: Path) -> list[list]:
    def value(text: str) -> float | str:
        try:
            return float(text)
        except ValueError:
            return text

    return [[value(text) for text in line.split(",")] for line in path.read_text().splitlines()]


def test_evidence_says_the_same(command, world):
    command(*MADE["evidence"], "--out", "again")
    volatile = ("made", "version", "signed_by", "evidence_sha256")
    now = numbers(world / "again", *volatile)
    assert now.pop("verdict")["lines"]
    later = {name: now.pop(name) for name in ("leaks", "attacks", "request")}
    assert later == {"leaks": None, "attacks": [], "request": {"id": None, "operator": None}}
    then = numbers(world / "evidence", *volatile)
    left_out = set(then.pop("not_claimed")) - set(now.pop("not_claimed"))
    assert all(item.startswith("Resistance to attacks") for item in left_out), "what cannot be claimed was said in other words"
    assert_close(then, now)


@pytest.mark.parametrize("name", ["choices", "diagnosed", "results-muse"])
def test_what_is_measured_again_by_its_own_settings_is_the_same(command, world, name):
    command(*MADE[name][:2], "--config", f"{name}/_config.toml", "--out", "again")
    volatile = ("rows_sha256", "membership_sha256", "summary_sha256", "settings")
    assert_close(numbers(world / name, *volatile), numbers(world / "again", *volatile))


@pytest.fixture
def judge(world, monkeypatch):
    """Answers at the address of the golden replies; -> the questions that it got."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(405)

        def do_POST(self):
            asked.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps({"choices": [{"message": {"content": "Rating: [[5]]"}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url, connect = numbers(world / "judged")["judge"]["url"], socket.create_connection
    here = ("127.0.0.1", server.server_port)
    # The port that the golden judge had may be another's by now.
    monkeypatch.setattr(socket, "create_connection", lambda _, *more, **named: connect(here, *more, **named))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TU_JUDGE_URL", url)
    yield asked
    server.shutdown()
    server.server_close()


MEASURED = {"results": 2, "attacks": 8, "judged": 0}
"""folder -> pieces that are said to be taken from the store"""


@pytest.mark.parametrize("name", MEASURED)
def test_kept_measurements_are_reused_but_for_the_versions_of_code_and_packages(command, kept, judge, world, monkeypatch, name):
    words = (*MADE[name][:2], "--config", f"{name}/_config.toml")
    _, err = command(*words, "--store", "fresh", "--out", "again")
    assert "already measured" not in err
    kept(world / "fresh")
    asked = len(judge)
    monkeypatch.setattr("shared.engines.torch.TorchEngine.load", lambda *_, **__: pytest.fail("a model was loaded"))
    _, err = command(*words, "--out", "reused")
    assert err.count("already measured, taken from the store") == MEASURED[name]
    assert len(judge) == asked
    now, then = (pyarrow.parquet.read_table(world / folder / "rows.parquet") for folder in ("reused", name))
    if "word_match" in now.schema.names:  # later than these files; nothing else may be
        now = now.drop_columns(["word_match"])
        assert now.equals(then)
    else:
        assert (world / "reused" / "rows.parquet").read_bytes() == (world / name / "rows.parquet").read_bytes()
