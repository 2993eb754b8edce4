"""kill -9 at each step and at random moments, full disks, damage, workers; then resume: the bytes are those of an
undisturbed run."""

import errno
import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from shared.files import lock
from shared.files.storage import open_place
from shared.store.files import MANIFEST
from shared.store.scores import open_store
from shared.store.writer import Writer
from tests.tu_score import killed
from tu_score.config import ScoreConfig
from tu_score.run import run_score

DATA = "atlas:forget:people=6,facts_per_person=4,forget_people=3,holdout_people=1"
RANDOM_KILLS = 20


def contents(folder):
    """Bytes of every file; the manifest without its time and the hash that covers it."""
    out = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    manifest = json.loads(out.pop(MANIFEST))
    return out, {k: v for k, v in manifest.items() if k not in ("created_at", "manifest_sha256")}


@pytest.fixture(scope="module")
def trial(tiny_model, tiny_base):
    """`trial(folder, config, step=None, delay=None)` -> exit code of a run in a process forked from one that has loaded
    everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.tu_score.killed"])
    os.environ["TU_KILL_MODELS"] = os.pathsep.join(map(str, (tiny_model, tiny_base)))

    def run(folder, config, *, step=None, delay=None):
        process = context.Process(target=killed.trial, args=(str(folder), config, step, delay))
        process.start()
        process.join(60)
        return process.exitcode

    yield run
    del os.environ["TU_KILL_MODELS"]


def test_kill_at_each_step_and_at_random_moments_then_resume(trial, tmp_path, tiny_model, tiny_base):
    config = ScoreConfig(
        model=str(tiny_model), base_model=str(tiny_base), data=DATA, out="store", spans="window", window_stride=2, part_tokens=100, limit=2
    )
    whole, again = tmp_path / "whole", tmp_path / "again"
    whole.mkdir(), again.mkdir()
    assert trial(whole, config) == 0
    start = time.monotonic()
    assert trial(again, config) == 0
    seconds = time.monotonic() - start
    expected = contents(whole / "store")
    assert contents(again / "store") == expected
    assert len(expected[1]["parts"]) == 2
    steps = (whole / "steps").read_text().splitlines()
    named = ("_plan.json", "_config.toml", "_base/part-00001.parquet", "part-00001.parquet", "_progress/00001.json", "store/_manifest.json")
    assert all(any(s.startswith("replace") and s.endswith(name) for s in steps) for name in named)
    assert len(steps) + RANDOM_KILLS >= 50
    generator, killed_at_random, unfinished = random.Random(7), 0, 0
    for k in range(len(steps) + RANDOM_KILLS):
        folder = tmp_path / f"kill{k}"
        folder.mkdir()
        if k < len(steps):
            assert trial(folder, config, step=k) == -signal.SIGKILL, steps[k]
        else:
            killed_at_random += trial(folder, config, delay=generator.random() * seconds) == -signal.SIGKILL
        unfinished += not (folder / "store" / MANIFEST).exists()
        assert trial(folder, config) == 0, (folder / "said").read_text()
        assert contents(folder / "store") == expected, steps[k] if k < len(steps) else k
    assert unfinished >= len(steps) // 2 and killed_at_random >= RANDOM_KILLS // 4


class Stop(Exception):
    pass


def stop_before_the_end(monkeypatch, config):
    def stop(*args):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr("tu_score.run.self_check", stop)
        with pytest.raises(Stop):
            run_score(config)


@pytest.mark.parametrize("damage", ["torn record", "flipped bit", "missing part", "cut part", "leftovers", "nothing"])
def test_damage_between_kill_and_resume_is_mended(damage, tmp_path, monkeypatch, tiny_model):
    config = ScoreConfig(model=str(tiny_model), data=DATA, out="store", part_tokens=200, limit=6)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    run_score(config)
    monkeypatch.chdir(tmp_path / "b")
    stop_before_the_end(monkeypatch, config)
    store = Path("store")
    part, progress = store / "part-00001.parquet", store / "_progress" / "00001.json"
    if damage == "torn record":
        progress.write_bytes(progress.read_bytes()[:-40])
    elif damage == "flipped bit":
        part.write_bytes(part.read_bytes()[:300] + bytes([part.read_bytes()[300] ^ 4]) + part.read_bytes()[301:])
    elif damage == "missing part":
        part.unlink()
    elif damage == "cut part":
        part.write_bytes(part.read_bytes()[:100])
    elif damage == "leftovers":
        (store / ".tmp-part-00001.parquet").write_bytes(b"half")
        (store / ".tmp-_manifest.json").write_bytes(b"{")
    run_score(config)
    assert contents(tmp_path / "b" / "store") == contents(tmp_path / "a" / "store")


def test_a_kill_while_the_plan_was_written(tmp_path, tiny_model):
    out = tmp_path / "store"
    out.mkdir()
    (out / ".tmp-_plan.json").write_text("{")
    run_score(ScoreConfig(model=str(tiny_model), data=DATA, out=str(out), limit=1))
    assert len(open_store(out)) == 1 and not list(out.glob(".tmp-*"))


def test_a_kill_after_the_manifest_leaves_nothing_behind(tmp_path, tiny_model):
    out = tmp_path / "store"
    config = ScoreConfig(model=str(tiny_model), data=DATA, out=str(out), limit=1)
    run_score(config)
    before = contents(out)
    (out / "_progress").mkdir()
    (out / "_progress" / "00000.json").write_text("x")
    (out / "_base").mkdir()
    run_score(config)
    assert contents(out) == before and not (out / "_base").exists()


# --- through the real command


@pytest.fixture
def command(run_cli, tmp_path, tiny_model):
    """`command(*arguments, out=...)` -> exit code and the lines on stderr of a scoring run in several parts."""

    def run(*arguments, out=tmp_path / "store"):
        options = ("--data", DATA, "--out", out, "--limit", "6", "--set", "part_tokens=100")
        code, _, err = run_cli("tu-score", "run", "--model", tiny_model, *options, *arguments)
        return code, err.splitlines()

    return run


def test_a_disk_that_fills_up_keeps_finished_parts_and_says_how_to_go_on(command, tmp_path, monkeypatch):
    assert command(out=tmp_path / "whole")[0] == 0
    write, full = Path.write_bytes, "part-00002.parquet"

    def write_bytes(path, data):
        if full in path.name:
            write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_bytes)
        code, lines = command()
    assert code == 2 and [line for line in lines if line.startswith("error:")] == lines[-1:]
    assert full in lines[-1] and "No space left on device" in lines[-1] and "give the same command again" in lines[-1]
    left = sorted(p.name for p in (tmp_path / "store").iterdir())
    assert left == ["_config.toml", "_plan.json", "_progress", "part-00000.parquet", "part-00001.parquet"]
    scored, write_part = [], Writer.write_part
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "write_part", lambda self, index, table: scored.append(index) or write_part(self, index, table))
        assert command()[0] == 0
    assert min(scored) == 2, "finished parts are not scored again"
    same_but_for_names(tmp_path / "store", tmp_path / "whole")


def same_but_for_names(first, second):
    one, other = contents(first), contents(second)
    for files, _ in (one, other):
        del files["_config.toml"]  # names --out and --workers
    assert one == other


def test_a_second_run_is_told_who_holds_the_store(command, tmp_path):
    (tmp_path / "store").mkdir()
    with lock.locked(open_place(tmp_path / "store")):
        code, lines = command()
    assert code == 2 and len(lines) == 1
    assert lines[0].startswith(f"error: {tmp_path / 'store'}: process {os.getpid()} on ") and "been writing here" in lines[0]
    assert command()[0] == 0


class Shelf(MemoryFileSystem):
    """What a bucket is for a test; as `memory://` it would be refused, because it is gone when a command ends."""

    protocol = "shelf"
    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).replace("shelf://", "memory://", 1))


fsspec.register_implementation("shelf", Shelf, clobber=True)


def test_an_output_that_cannot_be_reached_is_refused_before_a_model_is_loaded(command, monkeypatch):
    def unreachable(*arguments, **more):
        raise ConnectionError("the endpoint does not answer")

    def load(*arguments, **more):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("tu_score.run.open_scorer", load)
    code, lines = command(out="nosuch://bucket/store")
    assert code == 2 and len(lines) == 1 and "nosuch://bucket/store: cannot be used" in lines[0]
    monkeypatch.setattr(type(fsspec.filesystem("shelf")), "ls", unreachable)
    code, lines = command(out="shelf://bucket/store")
    assert code == 2 and len(lines) == 1 and "shelf://bucket/store" in lines[0] and "the endpoint does not answer" in lines[0]


def test_a_store_behind_a_url_is_written_read_and_resumed_by_every_command(command, run_cli, tmp_path, monkeypatch, tiny_model):
    monkeypatch.setattr(lock, "SETTLE_S", 0.0)
    files, url = fsspec.filesystem("shelf"), "shelf://bucket/store"
    data = tmp_path / "rows.jsonl"
    data.write_text('{"question": "Who is it?", "answer": "It is Ada."}\n')
    files.pipe_file("/bucket/rows.jsonl", data.read_bytes())
    try:
        for where in (url, tmp_path / "here"):
            assert command(out=where)[0] == 0
        there = {name: open_store(url).place.read(name) for name in open_store(url).place.names()}
        here, _ = contents(tmp_path / "here")
        assert {n: d for n, d in there.items() if n.startswith("part")} == {n: d for n, d in here.items() if n.startswith("part")}
        assert set(there) == {*here, MANIFEST} and b'out = "shelf://bucket/store"' in there["_config.toml"]
        assert "nothing to do" in command(out=url)[1][-1]
        for arguments in (("verify", url), ("inspect", url, "--html", tmp_path / "page.html"), ("recipe", url, "--recipe", "norm=rank")):
            code, _, err = run_cli("tu-score", *arguments)
            assert code == 0, err
        assert open_store(url).manifest["recipe"]["norm"] == "rank"
        for spec in (data, "shelf://bucket/rows.jsonl"):
            assert command("--data", spec, out=f"shelf://bucket/{Path(spec).parent.name}")[0] == 0
        code, lines = command("--data", "shelf://bucket/none.jsonl", out=tmp_path / "none")
        assert code == 2 and lines == ["error: data shelf://bucket/none.jsonl: no such file"]
    finally:
        files.store.clear()


def test_no_workers_is_refused(command):
    assert command("--workers", "0") == (2, ["error: --workers is 0, expected at least 1"])
