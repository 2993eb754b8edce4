"""kill -9 inside a step and at random moments, SIGTERM, damage, other settings; then --resume: the bytes of an undisturbed run.

Six rows, two a batch, two batches a step: an epoch is a step of two passes and one of one; every third step is saved, which is the middle
of each second epoch.
"""

import multiprocessing
import random
import signal
import time

import pytest

from tests.tu_train import killed
from tests.tu_train.conftest import RETAIN, flip_bit, weights_of
from tu_train.stop import EXIT_SAVED

EPOCHS, STEPS, PASSES = 6, 12, 18
RANDOM_KILLS = 30


@pytest.fixture(scope="module")
def command(target, scores, tmp_path_factory):
    """`command(out, *more, at_pass=None, delay=None, number=SIGKILL, **fields)` -> exit code of `tu-train run` in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.tu_train.killed"])

    def run(out, *more, at_pass=None, delay=None, number=signal.SIGKILL, **settings):
        sets = {"batch_size": 2, "accumulate": 2, "save_every": 3, **settings}
        arguments = ["run", "--model", target, "--scores", scores, "--retain", RETAIN, "--out", out, "--epochs", EPOCHS, "--device", "cpu",
                     "--learning-rate", "1e-3", *(a for k, v in sets.items() for a in ("--set", f"{k}={v}")), *more]  # fmt: skip
        said = out.with_name(f"{out.name}.said")
        process = context.Process(target=killed.trial, args=(str(said), [str(a) for a in arguments], at_pass, delay, int(number)))
        process.start()
        process.join(120)
        return process.exitcode

    return run


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """Output folder of an undisturbed run, and its seconds."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert command(out) == 0, said(out)  # with the start of the fork server, hence a second one for the time
    start = time.monotonic()
    assert command(out.with_name("again")) == 0
    seconds = time.monotonic() - start
    assert (out / "log.jsonl").read_text().count("\n") == STEPS
    return out, seconds


def said(out):
    return out.with_name(f"{out.name}.said").read_text()


def unfinished(out):
    return out.with_name(f"{out.name}.unfinished")


def saved(out):
    return sorted(p.name for p in unfinished(out).glob("checkpoint-*"))


def same(out, whole):
    assert weights_of(out) == weights_of(whole[0])
    assert (out / "log.jsonl").read_bytes() == (whole[0] / "log.jsonl").read_bytes()
    assert not unfinished(out).exists()


# Passes 0-1 are step 0, 2 step 1, 3-4 step 2, 5 step 3, 6-7 step 4, ...
@pytest.mark.parametrize(("at_pass", "done"), [(1, 0), (7, 3), (9, 6), (10, 6), (17, 9)])
def test_killed_inside_a_step_and_resumed_equals_undisturbed(command, whole, tmp_path, at_pass, done):
    out = tmp_path / "out"
    assert command(out, at_pass=at_pass) == -signal.SIGKILL
    assert not out.exists() and saved(out) == [f"checkpoint-{k:06d}" for k in range(3, done + 1, 3)][-2:]
    assert command(out, "--resume") == 0, said(out)
    same(out, whole)


def test_thirty_random_kills_over_a_run(command, whole, tmp_path):
    generator, kills, runs = random.Random(5), 0, 0
    while kills < RANDOM_KILLS:
        out = tmp_path / f"run{runs}"
        runs += 1
        while not out.exists():
            resume = ["--resume"] * unfinished(out).exists()
            delay = generator.random() * whole[1] if kills < RANDOM_KILLS else None
            code = command(out, *resume, delay=delay, save_every=1)
            assert code in (0, -signal.SIGKILL), said(out)
            kills += code == -signal.SIGKILL
        assert weights_of(out) == weights_of(whole[0])
        assert (out / "log.jsonl").read_bytes() == (whole[0] / "log.jsonl").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_saves_the_step_in_hand_and_exits_75(command, whole, tmp_path, number):
    out = tmp_path / "out"
    assert command(out, at_pass=6, number=number) == EXIT_SAVED == 75
    assert saved(out)[-1] == "checkpoint-000005" and "--resume" in said(out)
    assert command(out, "--resume") == 0, said(out)
    same(out, whole)


def test_what_is_damaged_or_changed_is_refused_by_name(command, whole, tmp_path):
    out = tmp_path / "out"
    assert command(out, at_pass=11) == -signal.SIGKILL
    assert command(out) == 2 and "--resume" in said(out).splitlines()[-1]
    assert command(out, "--resume", weight_decay=0.5) == 2
    assert "weight_decay is 0.5" in said(out).splitlines()[-1] and "--set weight_decay=0.01" in said(out).splitlines()[-1]
    newest = unfinished(out) / saved(out)[-1]
    whole_bytes = (newest / "state.safetensors").read_bytes()
    flip_bit(newest / "state.safetensors")
    assert command(out, "--resume") == 2
    assert str(newest / "state.safetensors") in said(out).splitlines()[-1] and "Traceback" not in said(out)
    (newest / "state.safetensors").write_bytes(whole_bytes)
    assert command(out, "--resume", save_every=5) == 0, said(out)
    same(out, whole)
