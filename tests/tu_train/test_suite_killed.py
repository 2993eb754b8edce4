"""kill -9 while a suite is measured on the way: of the process that trains, and of the suite's alone. Both are the real
ones."""

import json
import multiprocessing
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.tu_train import killed
from tests.tu_train.conftest import FORGET, RETAIN, log_of

PATIENCE_S = 300
KILLED = "tu-eval run was killed (SIGKILL), as the system does where memory runs out; free some, or let it take less"


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    path = tmp_path_factory.mktemp("suite") / "mine.toml"
    path.write_text(f'[[set]]\nname = "forget"\ndata = "{FORGET}"\n\n[[set]]\nname = "retain"\ndata = "{RETAIN}"\n')
    return path


@pytest.fixture
def begin(target, scores, suite):
    """`begin(out, *more)` -> process of a run of three steps that measures a suite before them and after the second."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.tu_train.killed"])
    sets = ("max_steps=3", "batch_size=3", "learning_rate=1e-3", "eval_options={limit = 2}", "save_every=1")
    usual = ("--model", target, "--scores", scores, "--retain", RETAIN, "--device", "cpu", "--eval-suite", suite, "--eval-every", 2,
             "--keep-best", "forget_probability", *(word for text in sets for word in ("--set", text)))  # fmt: skip

    def start(out, *more):
        arguments = [str(a) for a in ("run", *usual, "--out", out, *more)]
        process = context.Process(target=killed.trial, args=(f"{out}.said", arguments, None, None, int(signal.SIGKILL), None))
        process.start()
        return process

    return start


def ended(process):
    process.join(PATIENCE_S)
    return process.exitcode


def suite_of(process, number):
    """The id of the `number`th tu-eval process that a run has started, from 0, while it runs."""
    known, until = [], time.monotonic() + PATIENCE_S
    while len(known) <= number:
        assert process.is_alive() and time.monotonic() < until, known
        with suppress(OSError):  # it ends while it is looked at
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                if child not in known and b"tu_eval" in Path(f"/proc/{child}/cmdline").read_bytes():
                    known.append(child)
        time.sleep(0.005)
    return int(known[number])


def said(out):
    text = out.with_name(f"{out.name}.said").read_text()
    assert "Traceback" not in text
    return text.splitlines()


def everything(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.suffix in (".safetensors", ".jsonl")}


def test_whoever_is_killed_the_run_goes_on_to_the_same_bytes_and_numbers(begin, suite, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    unfinished = tmp_path / "out.unfinished"
    assert ended(begin(whole)) == 0, said(whole)

    run = begin(out)  # the suite, before the first step
    os.kill(suite_of(run, 0), signal.SIGKILL)
    assert ended(run) == 2
    assert said(out) == [*said(out)[:-1], f"error: --eval-suite {suite}: {KILLED}"] and str(said(out)).count("error: ") == 1
    assert not unfinished.exists()

    run = begin(out)  # the run itself, between two checkpoints
    child = suite_of(run, 1)
    os.kill(run.pid, signal.SIGKILL)
    assert ended(run) == -signal.SIGKILL
    os.kill(child, signal.SIGKILL)
    assert [p.name for p in unfinished.glob("checkpoint-*")] == ["checkpoint-000001"]

    run = begin(out, "--resume")  # the suite, in the middle
    os.kill(suite_of(run, 0), signal.SIGKILL)
    assert ended(run) == 2
    assert said(out)[-1] == (f"error: --eval-suite {suite}: {KILLED}; saved after 2 steps: mend that, then the same command with --resume "
                             "goes on")  # fmt: skip

    assert ended(begin(out, "--resume")) == 0, said(out)
    assert everything(out) == everything(whole) and (out / "best").is_dir()
    assert "suite_forget_probability" in log_of(out)[1] and len(log_of(out)) == 3
    assert (
        json.loads((out / "best" / "training.json").read_text())["best"]
        == json.loads((whole / "best" / "training.json").read_text())["best"]
    )
