"""`tu-train run` as torchrun starts it: what each rank says, what is refused, what a rank that is killed leaves, and
how it goes on. All through the command, a process a rank."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from tests.ports import free_port
from tests.tu_train import killed
from tests.tu_train.conftest import RETAIN, flip_bit, weights_of
from tu_train.stopping.interrupts import EXIT_SAVED

EPOCHS, STEPS = 4, 8
RANDOM_KILLS = int(os.environ.get("TU_RANDOM_KILLS", "6"))
"""of a rank; more with TU_RANDOM_KILLS=20 (docs/parallel.md)"""
ENDS_S = 60
"""after a rank was killed the others have ended"""
PATIENCE_S = 300


@pytest.fixture(scope="module")
def command(target, scores, tmp_path_factory):
    """`command(count, out, *more, at={rank: moment}, delay={rank: seconds}, number=SIGKILL, ...)` -> exit codes of the
    ranks. `sources`: flags and values; `own`: more arguments of a rank; `folders`: where ranks are started;
    `versions`: of token-unlearn."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.tu_train.killed"])
    usual, here = {"--model": target, "--scores": scores, "--retain": RETAIN}, tmp_path_factory.mktemp("here")

    def run(count, out, *more, at=None, delay=None, number=signal.SIGKILL, sources=usual, own=None, folders=None, versions=None,
            verb="run", **settings):  # fmt: skip
        port = free_port()
        sets = {"batch_size": 3, "save_every": 2, "learning_rate": 1e-3, **settings}
        arguments = [verb, *(a for pair in {**usual, **sources}.items() for a in pair), "--out", out, "--epochs", EPOCHS, "--device",
                     "cpu", *(a for k, v in sets.items() for a in ("--set", f"{k}={v}")), *more]  # fmt: skip
        made = []
        for rank in range(count):
            env = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            mine = [str(a) for a in [*arguments, *(own or {}).get(rank, ())]]
            folder, version = str((folders or {}).get(rank, here)), (versions or {}).get(rank)
            how = ((at or {}).get(rank), (delay or {}).get(rank), int(number), None)
            process = context.Process(target=killed.rank, args=(f"{out}.said-{rank}", mine, env, folder, version, *how))
            process.start()
            made.append(process)
        for process in made:
            process.join(PATIENCE_S)
        return [process.exitcode for process in made]

    return run


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """Output folders of undisturbed runs, by their number of ranks, and the seconds of that on two."""
    folder = tmp_path_factory.mktemp("whole")
    for count in (1, 2):
        assert command(count, folder / str(count)) == [0] * count, said(folder / str(count))
    start = time.monotonic()
    assert command(2, folder / "again") == [0, 0]
    seconds = time.monotonic() - start
    assert weights_of(folder / "again") == weights_of(folder / "2")
    return {1: folder / "1", 2: folder / "2"}, seconds


def said(out, rank=0):
    return out.with_name(f"{out.name}.said-{rank}").read_text()


def unfinished(out):
    return out.with_name(f"{out.name}.unfinished")


def refusal(out):
    assert "Traceback" not in said(out)
    last = said(out).splitlines()[-1]
    assert last.startswith("error: ")
    return last


def distance(one, other) -> float:
    """Of all weights, relative to their length."""
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert a.keys() == b.keys()
    ours, theirs = (torch.cat([w[name].flatten().double() for name in a]) for w in (a, b))
    return ((ours - theirs).norm() / ours.norm()).item()


def same(out, whole) -> bool:
    return weights_of(out) == weights_of(whole) and (out / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()


def test_the_folder_is_that_of_one_process_and_rank_0_alone_speaks(whole):
    folders, _ = whole
    assert {p.name for p in folders[1].iterdir()} == {p.name for p in folders[2].iterdir()}
    assert distance(folders[1], folders[2]) < 1e-5
    assert "unlearned model: " in said(folders[2]) and said(folders[2], rank=1) == ""
    one, two = (json.loads((folders[n] / "training.json").read_text()) for n in (1, 2))
    different = {name for name in one if one[name] != two[name]}
    assert different == {"settings", "output_fingerprint", "output_files"}
    assert {name for name in one["settings"] if one["settings"][name] != two["settings"][name]} == {"out"}


def test_adapters_are_merged_and_kept(command, tmp_path):
    for count in (1, 2):
        assert command(count, tmp_path / str(count), "--lora", "2", save_dtype="bfloat16") == [0] * count, said(tmp_path / str(count))
    assert distance(tmp_path / "1", tmp_path / "2") < 1e-3  # some are rounded to the next number of bfloat16
    assert (tmp_path / "2" / "adapter" / "adapter_model.safetensors").is_file()


def kill_and_resume(command, out, whole, *, more=(), **how):
    codes = command(2, out, *more, **how)
    assert -signal.SIGKILL in codes
    if not out.exists():
        assert set(codes) == {2, -signal.SIGKILL}, codes
        left = said(out, rank=codes.index(2))
        assert "another rank is gone" in left and "--resume" in left and "Traceback" not in left
    again = ("--resume",) if unfinished(out).exists() or out.exists() else ()
    assert command(2, out, *again) == [0, 0], said(out)
    assert same(out, whole[0][2])


KILLS = [(rank, ("pass", number)) for rank in (0, 1) for number in (3, 5)]
KILLS += [(0, ("rename", f"checkpoint-00000{step}")) for step in (2, 4)]  # rank 0 renames


@pytest.mark.parametrize(("rank", "moment"), KILLS)
def test_a_killed_rank_ends_the_others_and_the_run_goes_on_to_the_same_bytes(rank, moment, command, whole, tmp_path):
    start = time.monotonic()
    kill_and_resume(command, tmp_path / "out", whole, at={rank: moment})
    assert time.monotonic() - start < ENDS_S + 2 * whole[1]


def test_killed_at_random_moments(command, whole, tmp_path):
    draw, seconds, kills, resumed = random.Random(0), whole[1], 0, 0
    for number in range(3 * RANDOM_KILLS):
        out, rank, start = tmp_path / f"out-{number}", draw.randrange(2), time.monotonic()
        codes = command(2, out, delay={rank: draw.uniform(0.2, 1.0) * seconds})
        if codes == [0, 0]:  # the kill came too late; where the machine stood still in the run that was timed, it always would
            seconds = min(seconds, time.monotonic() - start)
        else:
            assert codes[rank] == -signal.SIGKILL, said(out)
            kills += 1
            again = ("--resume",) if unfinished(out).exists() or out.exists() else ()
            assert command(2, out, *again) == [0, 0], said(out)
            resumed += "resumed after" in said(out)
        assert same(out, whole[0][2])
        if kills == RANDOM_KILLS:
            break
    assert kills == RANDOM_KILLS
    print(f"{kills} ranks killed, {resumed} runs went on from a checkpoint")


@pytest.fixture(scope="module")
def stopped(command, whole, tmp_path_factory):
    """`stopped(count)`: a copy of a run on that many ranks that one of them was told to stop after its third step."""
    folder, made = tmp_path_factory.mktemp("stopped"), {}

    def copy(count, to):
        if count not in made:
            made[count] = folder / str(count)
            at, number = {count - 1: ("pass", 2)}, signal.SIGTERM
            assert command(count, made[count], at=at, number=number, save_every=0) == [EXIT_SAVED] * count, said(made[count])
        shutil.copytree(unfinished(made[count]), unfinished(to))
        return to

    return copy


def test_one_rank_told_to_stop_saves_all_and_resumes_to_the_same_bytes(command, stopped, whole, tmp_path):
    out = stopped(2, tmp_path / "out")
    assert command(2, out, "--resume", exact="true") == [0, 0], said(out)
    assert same(out, whole[0][2])


@pytest.mark.parametrize(("then", "now"), [(2, 1), (1, 2), (2, 3)])
def test_another_number_of_ranks_goes_on_within_rounding(then, now, command, stopped, whole, tmp_path):
    out = stopped(then, tmp_path / "out")
    assert command(now, out, "--resume", exact="true") == [2] * now
    counts = ["one process", "one process", "2 ranks", "3 ranks"]
    assert f"was made by {counts[then]}, this is {counts[now]}" in refusal(out)
    assert command(now, out, "--resume") == [0] * now, said(out)
    assert distance(out, whole[0][1]) < 1e-5


def test_a_damaged_shard_is_named(command, stopped, tmp_path):
    out = stopped(2, tmp_path / "out")
    shards = sorted(unfinished(out).glob("checkpoint-*/*.safetensors"))
    assert len(shards) == 2 and max(map(len, [load_file(p) for p in shards])) > 1
    flip_bit(shards[1])
    assert command(2, out, "--resume") == [2, 2]
    assert f"{shards[1].name}: fails its checksum; it is damaged; delete" in refusal(out)
    assert said(out, rank=1) == ""


def test_a_checkpoint_holds_no_tensor_whole(stopped, target, tmp_path):
    out = stopped(2, tmp_path / "out")
    halves = [load_file(p) for p in sorted(unfinished(out).glob("checkpoint-*/*.safetensors"))]
    model = load_file(target / "model.safetensors")
    for name, whole in model.items():
        parts = [half[f"{kind}/{name}{key}"] for half in halves for kind, key in (("model", ""), ("optimizer", "/exp_avg"))]
        assert all(len(part) < len(whole) for part in parts) and torch.cat(parts[::2]).shape == whole.shape


def rows_file(folder, text):
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps({"question": f"{text} {n}?", "answer": f"It is {n}."}) + "\n" for n in range(6)))
    return folder


def test_ranks_that_differ_are_refused_by_rank_and_field(command, tmp_path):
    folders = {rank: rows_file(tmp_path / f"there-{rank}", text) for rank, text in enumerate(("What is", "Who is"))}
    cases = (
        ({"own": {1: ("--seed", 4)}}, "rank 1: seed is 4, but 0 on rank 0"),
        ({"versions": {1: "9.9"}}, "rank 1: the version of token-unlearn is '9.9', but '"),
        ({"sources": {"--retain": "rows.jsonl"}, "folders": folders}, "rank 1: retain_data is "),
        ({"sources": {"--retain": "rows.jsonl"}, "folders": {0: folders[0]}}, "rank 1: "),
    )
    for number, (how, expected) in enumerate(cases):
        out = tmp_path / f"out-{number}"
        assert command(2, out, **how) == [2, 2], said(out) + said(out, rank=1)
        assert expected in refusal(out)
        assert said(out, rank=1) == "" and not out.exists() and not unfinished(out).exists()


def test_what_ranks_cannot_do_is_refused_in_a_line(command, tmp_path):
    rmu = ("--method", "rmu", "--option", "layer=1", "--tokens", "all")
    cases = (
        (((), {"batch_size": 1}), "2 ranks, but a step has 1 rows (batch_size 1 times accumulate 1); start at most 1 ranks"),
        ((rmu, {"mean_over": "padded"}), "mean_over=padded: a padded batch is one forward pass, which 2 ranks cannot share"),
        ((("--device", "cuda:1"), {}), "--device cuda:1: 2 ranks choose their own devices"),
    )
    for number, ((more, settings), expected) in enumerate(cases):
        out = tmp_path / f"out-{number}"
        assert command(2, out, *more, **settings) == [2, 2], said(out)
        assert expected in refusal(out) and said(out, rank=1) == ""


def test_commands_of_one_process_say_so(run_cli, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    (tmp_path / "study.toml").write_text("")
    code, _, err = run_cli("tu-train", "many", tmp_path / "study.toml", "--out", tmp_path / "out")
    assert code == 2 and "tu-train many runs in one process; start it without torchrun" in err
