"""kill -9 at random moments, torn and damaged files, then resume: the bytes are those of an undisturbed run."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from shared.scores import MANIFEST, open_store
from tu_score.config import ScoreConfig
from tu_score.run import run_score

DATA = "atlas:forget:people=6,facts_per_person=4,forget_people=3,holdout_people=1"
KILLS = 10


def config_of(model, base):
    return ScoreConfig(model=str(model), base_model=str(base), data=DATA, out="store", spans="window", window_stride=2, part_tokens=50)


def child(folder, config):
    import torch

    torch.set_num_threads(1)  # as in the undisturbed run: the order of sums is part of the bytes
    os.chdir(folder)
    run_score(config)


def contents(folder):
    """Bytes of every file; the manifest without its time and the hash that covers it."""
    out = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    manifest = json.loads(out.pop(MANIFEST))
    return out, {k: v for k, v in manifest.items() if k not in ("created_at", "manifest_sha256")}


@pytest.fixture(scope="module")
def server():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tu_score.run", "torch", "transformers", "transformers.models.llama.modeling_llama", "shared.engines.torch"]
    )
    return context


def run_child(server, folder, config):
    process = server.Process(target=child, args=(str(folder), config))
    process.start()
    return process


def test_kill_at_ten_moments_then_resume(server, tmp_path, tiny_model, tiny_base):
    config = config_of(tiny_model, tiny_base)
    whole = tmp_path / "whole"
    whole.mkdir()
    process = run_child(server, whole, config)
    process.join(60)
    assert process.exitcode == 0
    expected = contents(whole / "store")
    parts = len(expected[1]["parts"])
    assert parts > 8
    generator, unfinished = random.Random(7), 0
    for k in range(KILLS):
        folder = tmp_path / f"kill{k}"
        folder.mkdir()
        wanted, pause = round(k / KILLS * 2 * parts), generator.random() * 0.03
        process = run_child(server, folder, config)
        while process.is_alive() and sum(1 for _ in folder.rglob("part-*.parquet")) < wanted:
            time.sleep(0.002)
        time.sleep(pause)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        unfinished += not (folder / "store" / MANIFEST).exists()
        process = run_child(server, folder, config)
        process.join(60)
        assert process.exitcode == 0
        assert contents(folder / "store") == expected
    assert unfinished >= KILLS // 2


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
