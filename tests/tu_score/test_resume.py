"""kill -9 at each step and at random moments, full disks, damage, workers; then resume: the bytes are those of an
undisturbed run."""

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
import safetensors.torch
import torch
from fsspec.implementations.memory import MemoryFileSystem

from shared.errors import ConfigError
from shared.files import lock, remote
from shared.files.storage import open_place
from shared.store.files import MANIFEST
from shared.store.scores import open_store
from shared.store.writer import Writer
from tests.tu_score import killed, silent
from tu_score import workers
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
    named = ("_plan.json", "_config.toml", "_base/_manifest.json", "part-00001.parquet", "_progress/00001.json", "store/_manifest.json")
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
    before = (tmp_path / "store" / "part-00000.parquet").stat().st_mtime_ns
    assert command()[0] == 0
    assert (tmp_path / "store" / "part-00000.parquet").stat().st_mtime_ns == before
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
    monkeypatch.setattr(remote, "TRY_S", 0.0)
    monkeypatch.setattr(type(fsspec.filesystem("shelf")), "info", unreachable)
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


def test_two_workers_write_the_same_bytes_and_a_dead_one_is_named(command, tmp_path, monkeypatch):
    assert command(out=tmp_path / "one")[0] == 0
    write_part, written = Writer.write_part, []

    def kill_after_the_first(writer, index, columns):
        write_part(writer, index, columns)
        if not written:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        written.append(index)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "write_part", kill_after_the_first)
        code, lines = command("--workers", "2")
    assert code == 2 and lines[-1].startswith("error: worker ") and "was killed by signal 9; finished parts are kept" in lines[-1]
    assert not multiprocessing.active_children()
    parts = len(open_store(tmp_path / "one").manifest["parts"])
    assert 0 < len(list((tmp_path / "store").glob("part-*"))) == len(written) < parts
    assert command("--workers", "2")[0] == 0
    same_but_for_names(tmp_path / "store", tmp_path / "one")


def test_a_refusal_by_a_worker_is_the_commands_own(command, tmp_path, tiny_model):
    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    weights = safetensors.torch.load_file(broken / "model.safetensors")
    weights["model.norm.weight"][:] = torch.nan
    safetensors.torch.save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    code, lines = command("--model", broken, "--workers", "2")
    assert code == 2 and lines[-1].startswith("error: ") and "not finite" in lines[-1]
    assert not multiprocessing.active_children() and not (tmp_path / "store" / "_lock").exists()


def test_the_order_in_which_parts_are_done_is_not_in_the_bytes(command, tmp_path, monkeypatch):
    assert command(out=tmp_path / "in order")[0] == 0
    honest = workers.score_parts
    monkeypatch.setattr("tu_score.run.score_parts", lambda engine, parts, *more: honest(engine, dict(reversed(parts.items())), *more))
    assert command()[0] == 0
    same_but_for_names(tmp_path / "store", tmp_path / "in order")


@pytest.mark.parametrize(
    ("visible", "options", "expected"),
    [
        (None, {}, ["0", "1"]),
        ("5,3,1", {}, ["5", "3"]),
        ("0,1,2,3,4", {"tensor_parallel": 2}, ["0,1", "2,3"]),
        ("4", {}, "this machine has 1 CUDA devices, and the workers take 2"),
        (None, {"tensor_parallel": 2}, "the workers take 4"),
        (None, {"device": "cuda:1"}, "each worker takes a device; leave --device out"),
        (None, {"device": "cpu"}, None),
    ],
)
def test_each_worker_has_cuda_devices_of_its_own(monkeypatch, visible, options, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    config = ScoreConfig(model="m", data="d", out="o", workers=2, **options)
    with pytest.raises(ConfigError, match=expected) if isinstance(expected, str) else nullcontext():
        assert workers.share_devices(config) == expected


def test_no_workers_is_refused(command):
    assert command("--workers", "0") == (2, ["error: --workers is 0, expected at least 1"])


def test_a_stopped_worker_does_not_stop_the_run_for_ever(command, tmp_path, monkeypatch):
    assert command(out=tmp_path / "one")[0] == 0
    write_part, stopped = Writer.write_part, []

    def stop_all(writer, index, columns):
        write_part(writer, index, columns)
        if not stopped:
            stopped.extend(child.pid for child in multiprocessing.active_children())
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "write_part", stop_all)
        patch.setattr(workers, "BEAT_S", 0.2)
        patch.setattr(workers, "SILENT_S", 20.0)
        patch.setattr(workers, "PATIENCE_S", 0.5)
        code, lines = command("--workers", "2")
    assert code == 2 and "gave no sign of life for 20 s, so it was ended; finished parts are kept" in lines[-1]
    assert len(stopped) == 2 and not multiprocessing.active_children()
    assert command()[0] == 0
    same_but_for_names(tmp_path / "store", tmp_path / "one")


def test_a_worker_that_lives_and_does_nothing_is_ended(command, monkeypatch):
    monkeypatch.setattr(workers, "work", silent.work)
    monkeypatch.setattr(workers, "BEAT_S", 0.2)
    monkeypatch.setattr(workers, "STUCK_S", 2.0)
    monkeypatch.setattr(workers, "PATIENCE_S", 0.5)
    code, lines = command("--workers", "2")
    assert code == 2 and "lives, but has finished nothing for 2 s" in lines[-1]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(how, tmp_path, tiny_model):
    """While a worker computes, and where nobody closes the pipe."""
    command = [sys.executable, "-m", "tu_score", "run", "--model", tiny_model, "--data", "atlas:forget", "--out", tmp_path / "store"]
    process = subprocess.Popen([*command, "--workers", "2", "--set", "part_tokens=100", "--spans", "window"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "store").glob("part-*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children and process.poll() is None
    process.send_signal(how)
    process.wait(60)
    while any(Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes() for child in children):
        assert time.monotonic() < deadline + 60
        time.sleep(0.2)
