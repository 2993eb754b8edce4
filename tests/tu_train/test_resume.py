"""kill -9 inside a step, inside a checkpoint, at random moments; SIGTERM, full disks, damage, other settings or data:
then --resume gives the bytes of an undisturbed run, or says in a line why not. All through the command, each in a
process of its own.

Six rows, two a batch, two batches a step: an epoch is a step of two passes and one of one; every third step is saved,
which is the middle of each second epoch.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time

import pytest

from shared.store.scores import open_store
from tests.tu_train import killed
from tests.tu_train.conftest import RETAIN, WORLD, flip_bit, score, weights_of
from tu_train.saving.working_folder import working_folder
from tu_train.stopping.interrupts import EXIT_SAVED

EPOCHS, STEPS = 6, 12
RANDOM_KILLS = 30
PATIENCE_S = 300
"""for one command, on a machine that may stand still for a minute"""


@pytest.fixture(scope="module")
def command(target, scores):
    """`command(out, *more, at=None, delay=None, number=SIGKILL, most=None, **settings)` -> exit code of `tu-train
    run`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.tu_train.killed"])
    usual = {"--model": target, "--scores": scores, "--retain": RETAIN}

    def run(out, *more, at=None, delay=None, number=signal.SIGKILL, most=None, verb="run", sources=usual, **settings):
        sets = {"batch_size": 2, "accumulate": 2, "save_every": 3, "learning_rate": 1e-3, **settings}
        arguments = [verb, *(a for pair in sources.items() for a in pair), "--out", out, "--epochs", EPOCHS, "--device", "cpu",
                     *(a for k, v in sets.items() for a in ("--set", f"{k}={v}")), *more]  # fmt: skip
        given = (str(out) + ".said", [str(a) for a in arguments], at, delay, int(number), most)
        process = context.Process(target=killed.trial, args=given)
        process.start()
        process.join(PATIENCE_S)
        return process.exitcode

    return run


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """Output folder of an undisturbed run, and the seconds of one."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert command(out) == 0, said(out)  # with the start of the fork server, hence a second one for the time
    start = time.monotonic()
    assert command(out.with_name("again")) == 0
    seconds = time.monotonic() - start
    assert (out / "log.jsonl").read_text().count("\n") == STEPS
    return out, seconds


def said(out):
    return out.with_name(f"{out.name}.said").read_text()


def refusal(out):
    assert "Traceback" not in said(out)
    last = said(out).splitlines()[-1]
    assert last.startswith("error: ")
    return last


def unfinished(out):
    return out.with_name(f"{out.name}.unfinished")


def saved(out):
    """Steps of the checkpoints."""
    return sorted(int(p.name.removeprefix("checkpoint-")) for p in unfinished(out).glob("checkpoint-*"))


def same(out, whole):
    assert weights_of(out) == weights_of(whole[0])
    assert (out / "log.jsonl").read_bytes() == (whole[0] / "log.jsonl").read_bytes()
    assert not unfinished(out).exists() and not list(out.parent.glob(".tmp-*"))


# Passes 0-1 are step 0, 2 step 1, 3-4 step 2, 5 step 3, 6-7 step 4, ...
@pytest.mark.parametrize(("at_pass", "left"), [(1, []), (7, [3]), (10, [3, 6]), (17, [6, 9])])
def test_killed_inside_a_step_and_resumed_equals_undisturbed(command, whole, tmp_path, at_pass, left):
    out = tmp_path / "out"
    assert command(out, at=("pass", at_pass)) == -signal.SIGKILL
    assert not out.exists() and saved(out) == left
    assert command(out, "--resume") == 0, said(out)
    assert ("resumed after" in said(out)) == bool(left)
    same(out, whole)


@pytest.mark.parametrize(("at", "left"), [
    (("tear", "/.tmp-checkpoint-000006/state.safetensors"), [3]),
    (("sync", 5), []),  # the first one is written, and not synced yet
    (("rename", "/checkpoint-000006"), [3]),
    (("sync", 7), [3]),  # its name is there, and not synced yet
    (("remove", "/.tmp-checkpoint-000003"), [6, 9]),
    (("rename", "/out"), [9, 12]),
])  # fmt: skip
def test_killed_while_a_checkpoint_or_the_model_is_written(command, whole, tmp_path, at, left):
    out = tmp_path / "out"
    assert command(out, at=at) == -signal.SIGKILL
    assert not out.exists() and saved(out) == left
    assert command(out, "--resume") == 0, said(out)
    same(out, whole)


# Steps of an epoch: four rows of the first corpus in two passes, three of the other in two, two of the first.
@pytest.mark.parametrize(("at", "left"), [(("pass", 6), [2]), (("pass", 13), [4, 6])])
def test_of_several_corpora_each_goes_on_where_it_was(command, several, target, tmp_path, at, left):
    out = tmp_path / "out"
    assert several(out, at=at) == -signal.SIGKILL
    assert not out.exists() and saved(out) == left
    assert several(out, "--resume") == 0, said(out)
    assert several(tmp_path / "whole") == 0
    assert [json.loads(line)["corpus"] for line in (out / "log.jsonl").read_text().splitlines()] == [0, 1, 0] * EPOCHS
    same(out, (tmp_path / "whole",))
    assert (out / "method.json").read_bytes() == (tmp_path / "whole" / "method.json").read_bytes()


@pytest.fixture
def several(command, target, scores, tmp_path):
    """The command with two forget corpora and a method that carries something from step to step for each."""
    other = score(target, tmp_path / "other", data=f"atlas:holdout:{WORLD}")
    lists = {"scores": json.dumps([str(scores), str(other)]), "alpha": "[1.0, 2.0]"}

    def run(out, *more, **fields):
        sources = {"--model": target, "--retain": RETAIN}
        return command(out, "--method", "pdu", "--tokens", "all", "--option", "step=[0.5, 0.1]", *more, sources=sources, **lists,
                       save_every=2, optimizer="adamw_transformers", **fields)  # fmt: skip

    return run


@pytest.mark.parametrize(("at", "left"), [
    (("unlink", "/.tmp-out.lock"), [".tmp-out.lock", "out.unfinished"]),
    (("remove", "/out.unfinished"), ["out.unfinished"]),
])  # fmt: skip
def test_killed_after_its_end_it_is_finished(command, whole, tmp_path, at, left):
    out = tmp_path / "out"
    assert command(out, at=at) == -signal.SIGKILL
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*left, "out", "out.said"])
    assert out.is_dir() and unfinished(out).is_dir()
    assert command(out) == 2 and "already holds files" in refusal(out)
    assert command(out, "--resume", clip=0.5) == 2
    assert "clip is 0.5, but the run was started with 1.0; --set clip=1.0" in refusal(out)
    for _ in range(2):
        assert command(out, "--resume", save_every=1) == 0, said(out)
        assert f"{out}: the run is finished" in said(out)
        same(out, whole)


def test_thirty_random_kills_over_a_run(command, whole, tmp_path):
    generator, seconds, kills, runs, resumed = random.Random(5), whole[1], 0, 0, 0
    while kills < RANDOM_KILLS:
        out = tmp_path / f"run{runs}"
        runs += 1
        while not out.exists():
            resume, start = ["--resume"] * unfinished(out).exists(), time.monotonic()
            delay = generator.random() * seconds if kills < RANDOM_KILLS else None
            code = command(out, *resume, delay=delay, save_every=1)
            assert code in (0, -signal.SIGKILL), said(out)
            kills += code == -signal.SIGKILL
            resumed += "resumed after" in said(out)
            if code == 0 and not resume:  # where the machine stood still in the run that was timed, no kill would come in time
                seconds = min(seconds, time.monotonic() - start)
        if unfinished(out).exists():
            assert command(out, "--resume") == 0, said(out)
        same(out, whole)
    assert resumed >= 5, "nearly all kills came before the first checkpoint"


# at pass 17, the last, the step in hand is the last one: what is left is to write the model
@pytest.mark.parametrize(("number", "at_pass", "done"), [(signal.SIGTERM, 6, 5), (signal.SIGINT, 6, 5), (signal.SIGTERM, 17, 12)])
def test_told_to_stop_it_saves_the_step_in_hand_and_exits_75(command, whole, tmp_path, number, at_pass, done):
    out = tmp_path / "out"
    assert command(out, at=("pass", at_pass), number=number, save_every=0) == EXIT_SAVED == 75
    assert saved(out) == [done] and "--resume" in said(out).splitlines()[-1]
    assert command(out, "--resume") == 0, said(out)
    same(out, whole)


@pytest.mark.parametrize(("share", "save_every"), [(2, 3), (0.5, 0)])
def test_a_full_disk_with_nothing_saved_before_says_so(command, whole, tmp_path, share, save_every):
    """A checkpoint takes three times the model's bytes; without one it is the model itself that does not fit."""
    out = tmp_path / "out"
    assert command(out, most=int(share * len(weights_of(whole[0]))), save_every=save_every) == 2
    assert "cannot be written" in refusal(out) and "start the run anew" in refusal(out) and "--resume" not in refusal(out)
    assert [p.name for p in tmp_path.iterdir()] == ["out.said"]


def test_a_full_disk_leaves_the_checkpoint_before(command, whole, tmp_path):
    out, size = tmp_path / "out", len(weights_of(whole[0]))
    assert command(out, at=("pass", 7)) == -signal.SIGKILL
    tries = {"checkpoint": (2 * size, 3), "out": (size // 2, 0), "rehearsal": (4000, 0), "tokens of the data": (500, 0)}
    for what, (most, every) in tries.items():
        assert command(out, "--resume", most=most, save_every=every) == 2
        assert what in refusal(out)
        assert "cannot be written" in refusal(out) and "checkpoint of step 3 is good" in refusal(out) and "--resume" in refusal(out)
        assert not out.exists() and saved(out) == [3]
    assert command(out, "--resume") == 0, said(out)
    same(out, whole)


def test_what_is_damaged_or_changed_is_refused_by_name(command, whole, tmp_path):
    out = tmp_path / "out"
    assert command(out, at=("pass", 11)) == -signal.SIGKILL
    assert command(out) == 2 and "--resume" in refusal(out)
    for more, settings, expected in (
        ((), {"weight_decay": 0.5}, "weight_decay is 0.5, but the run was started with 0.01; --set weight_decay=0.01"),
        (("--option", "beta=0.5"), {}, "beta is 0.5, but the run was started with 0.1; --option beta=0.1"),
        (("--limit", "5"), {}, "limit is 5, but the run was started with not given; leave out limit"),
    ):
        assert command(out, "--resume", *more, **settings) == 2
        assert expected in refusal(out)
    newest = unfinished(out) / "checkpoint-000006"
    state = (newest / "state.json").read_bytes()
    changed, cut_short = state.replace(b'"step": 6', b'"step": 7'), state[: len(state) // 2]
    assert changed != state
    for name, damaged in (("state.safetensors", None), ("state.json", changed), ("state.json", cut_short)):
        good = (newest / name).read_bytes()
        flip_bit(newest / name) if damaged is None else (newest / name).write_bytes(damaged)
        assert command(out, "--resume") == 2
        assert f"{newest / name}: " in refusal(out) and f"delete {newest} to go on from the checkpoint of step 3" in refusal(out)
        (newest / name).write_bytes(good)
    shutil.rmtree(newest)
    assert command(out, "--resume", save_every=5) == 0, said(out)
    same(out, whole)


def test_a_second_process_does_not_touch_the_run_of_a_first(command, tmp_path):
    out = tmp_path / "out"
    with working_folder(out) as folder:
        (folder / "log.jsonl").write_text("first")
        assert command(out, "--resume") == 2
        assert f"{folder}: process {os.getpid()}" in refusal(out)
        assert (folder / "log.jsonl").read_text() == "first"


def test_another_store_retain_store_or_retain_data_is_refused_by_name(command, target, scores, tmp_path):
    rows = [json.dumps({"question": f"Who is {name}?", "answer": f"{name} is a baker."}) for name in ("Ann", "Bo", "Cy", "Di")]
    data, stores = tmp_path / "retain.jsonl", [tmp_path / "a", tmp_path / "b"]
    for folder, tokens in zip(stores, (200, 100), strict=True):
        score(target, folder, data=RETAIN, topk=8, part_tokens=tokens)
    score(target, tmp_path / "c", part_tokens=100)
    data.write_text("\n".join(rows))
    by_data = {"--model": target, "--scores": scores, "--retain": data}
    by_store = {"--model": target, "--scores": scores, "--set": f"retain_scores={stores[0]}"}
    for sources, change, what in (
        (by_data, {"--scores": tmp_path / "c"}, "store"),
        (by_data, {}, "retain data"),
        (by_store, {"--set": f"retain_scores={stores[1]}"}, "retain store"),
    ):
        out = tmp_path / f"out {what}"
        more = {"retain_term": "kl"} if "--set" in sources else {}
        data.write_text("\n".join(rows))
        assert command(out, at=("pass", 7), sources=sources, **more) == -signal.SIGKILL, said(out)
        if what == "retain data":
            data.write_text("\n".join(rows).replace("baker", "miller"))
        assert command(out, "--resume", sources={**sources, **change}, **more) == 2
        assert f"--resume: the {what} is " in refusal(out) and f"give the {what} it was started with" in refusal(out)
        assert saved(out) == [3]
    assert open_store(stores[0]).sha256 != open_store(stores[1]).sha256


def test_another_model_tokenizer_template_or_data_is_refused_by_name(command, target, tmp_path):
    model, data, out = tmp_path / "model", tmp_path / "rows.jsonl", tmp_path / "out"
    shutil.copytree(target, model)
    (model / "training.json").unlink()  # or its own hashes would tell first
    rows = [json.dumps({"question": f"Who is {name}?", "answer": f"{name} is a baker."}) for name in "ABCDEF"]
    data.write_text("\n".join(rows))
    more = {"verb": "finetune", "sources": {"--model": model, "--data": data}}
    assert command(out, at=("pass", 7), **more) == -signal.SIGKILL, said(out)
    for file, change, what in (
        (data, lambda text: text.replace(b"baker", b"miller"), "data"),
        (model / "model.safetensors", lambda text: text[:-4] + bytes(4), "start model"),
        (model / "chat_template.jinja", lambda text: text + b" ", "chat template"),
        (model / "tokenizer.json", lambda text: text.replace(b'"<|unk|>"', b'"<|nnk|>"'), "tokenizer"),
    ):
        good = file.read_bytes()
        file.write_bytes(change(good))
        assert command(out, "--resume", **more) == 2, said(out)
        assert f"the {what} it was started with" in refusal(out)
        file.write_bytes(good)
    assert command(out, "--resume", **more) == 0, said(out)


def test_checkpoints_of_a_bfloat16_model_hold_float32(command, target, tmp_path):
    """Rounded on the way, a resumed run would not have the bytes of an undisturbed one."""
    import torch

    from shared.lm.models import load_model, load_tokenizer
    from shared.lm.saved import save_model, stored_dtype

    narrow = tmp_path / "narrow"
    save_model(load_model(target, dtype=torch.bfloat16, device=torch.device("cpu")), load_tokenizer(target), narrow, source=target)
    given = {"verb": "finetune", "sources": {"--model": narrow, "--data": RETAIN, "--limit": 12}}
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert command(whole, **given) == 0, said(whole)
    assert command(out, at=("pass", 7), **given) == -signal.SIGKILL and saved(out)
    assert command(out, "--resume", **given) == 0, said(out)
    assert stored_dtype(out) == "bfloat16" and weights_of(out) == weights_of(whole)
