"""The end of a run: what stands in the way, disks that fill, links that somebody planted, folders that only look
finished. Through the command; what was trained is never lost, and nothing is believed that is not there."""

import errno
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from shared.lm.finished import check_output
from shared.lm.models import model_fingerprint
from tests.tu_train.conftest import RETAIN, weights_of
from tu_train import loop
from tu_train.saving import room
from tu_train.stopping.interrupts import EXIT_SAVED

STEPS = 3


@pytest.fixture
def finetune(run_cli, tiny_model, tmp_path, monkeypatch):
    """`finetune(...)`: tu-train finetune of six rows in three steps, to tmp_path/work/out -> exit code, stderr;
    `finetune.last`: called at the beginning of the last step; `finetune.steps`: passes of the latest call."""
    forward_pass = loop.forward_pass

    class Command:
        last, steps = None, 0

        def __call__(self, *more, out="out", model=tiny_model, batch=2):
            self.steps = 0
            sets = ("--epochs", 1, "--learning-rate", 1e-3, "--set", f"batch_size={batch}", "--device", "cpu")
            code, _, err = run_cli(
                "tu-train", "finetune", "--model", model, "--data", RETAIN, *sets, "--out", tmp_path / "work" / out, *more
            )
            assert "Traceback" not in err
            return code, err

    command = Command()

    def watched(*given, **more):
        command.steps += 1
        if command.steps == STEPS and command.last is not None:
            command.last()
        return forward_pass(*given, **more)

    monkeypatch.setattr(loop, "forward_pass", watched)
    return command


@pytest.fixture
def out(tmp_path):
    return tmp_path / "work" / "out"


def unfinished(out):
    return out.with_name(out.name + ".unfinished")


def saved(out):
    return sorted(int(p.name.removeprefix("checkpoint-")) for p in unfinished(out).glob("checkpoint-*"))


def last_line(err):
    line = err.splitlines()[-1]
    assert line.startswith("error: "), err
    return line


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- something stands in the way


def stands_in_the_way(out: Path, what: str):
    if what == "a file":
        out.write_text("mine")
    elif what == "a folder with files":
        out.mkdir()
        (out / "mine").write_text("")
    elif what == "a link":
        (out.parent / "elsewhere").mkdir()
        out.symlink_to(out.parent / "elsewhere")
    elif what == "a dangling link":
        out.symlink_to(out.parent / "nowhere")


@pytest.mark.parametrize("more", [(), ("--lora", 2), ("--save-every", 1)], ids=["all", "lora", "saved"])
@pytest.mark.parametrize("what", ["a file", "a folder with files", "a link", "a dangling link"])
def test_what_came_to_stand_at_out_costs_no_training(what, more, finetune, out, tmp_path):
    code, err = finetune(*more, out="whole")
    assert code == 0, err
    finetune.last = lambda: stands_in_the_way(out, what)
    code, err = finetune(*more)
    assert code == 2
    assert what.removesuffix(" dangling link") in last_line(err) and "--resume" in last_line(err) and str(unfinished(out)) in last_line(err)
    assert saved(out)[-1] == STEPS and os.path.lexists(out)
    finetune.last = None
    assert finetune(*more, "--resume")[0] == 2, "it still stands there"
    shutil.rmtree(out) if out.is_dir() and not out.is_symlink() else out.unlink()
    code, err = finetune(*more, "--resume")
    assert code == 0 and finetune.steps == 0, "nothing was left to train"
    assert weights_of(out) == weights_of(out.with_name("whole")) and not unfinished(out).exists()
    assert (out / "log.jsonl").read_bytes() == (out.with_name("whole") / "log.jsonl").read_bytes()


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ESTALE, None])
@pytest.mark.parametrize("where", ["weights", "tokenizer", "rename"])
def test_a_last_write_that_fails_leaves_a_checkpoint(error, where, finetune, out, monkeypatch):
    import transformers

    def fails(*_, **__):
        raise RuntimeError("a fault of some library") if error is None else OSError(error, os.strerror(error))

    assert finetune(out="whole")[0] == 0
    replace = os.replace

    def arrange():
        if where == "weights":
            monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", fails)
        elif where == "tokenizer":
            monkeypatch.setattr(transformers.PreTrainedTokenizerFast, "save_pretrained", fails)
        else:
            monkeypatch.setattr(os, "replace", lambda a, b: fails() if Path(b) == out else replace(a, b))

    finetune.last = arrange
    if error is None:
        with pytest.raises(RuntimeError):
            finetune()
    else:
        code, err = finetune()
        assert code == 2 and os.strerror(error) in last_line(err)
        assert f"checkpoint of step {STEPS} is good" in last_line(err) and "--resume" in last_line(err)
    assert saved(out) == [STEPS] and not out.exists() and not list(out.parent.glob(".tmp-out-*"))
    monkeypatch.undo()
    finetune.last = None


def test_an_early_end_is_kept_too(run_cli, target, scores, tmp_path, monkeypatch):
    given = ("run", "--model", target, "--scores", scores, "--retain", RETAIN, "--device", "cpu", "--epochs", 3, "--set", "batch_size=2",
             "--learning-rate", 1e-3, "--eval-every", 1, "--stop-when", "forget_probability<0.99", "--set", "land=true")  # fmt: skip
    out = tmp_path / "out"
    assert run_cli("tu-train", *given, "--out", tmp_path / "whole")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", _fails_at(out, os.replace))
        code, _, err = run_cli("tu-train", *given, "--out", out)
    assert code == 2 and "--resume" in last_line(err)
    code, _, err = run_cli("tu-train", *given, "--out", out, "--resume")
    assert code == 0 and "stopped early: forget_probability<0.99" in err
    assert weights_of(out) == weights_of(tmp_path / "whole")
    for name in ("log.jsonl", "model.safetensors", "_config.toml", "training.json"):
        then, now = ((folder / name).read_bytes().replace(str(folder).encode(), b"") for folder in (tmp_path / "whole", out))
        assert then == now


def _fails_at(out, replace):
    def replaced(a, b):
        if Path(b) == out:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(out))
        return replace(a, b)

    return replaced


# --- disks that fill


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MB at tmp_path/work."""
    place = tmp_path / "work"
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("only the superuser mounts")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(place: Path):
    with open(place / "filler", "wb", buffering=0) as handle:
        try:
            while True:
                handle.write(bytes(1 << 12))
        except OSError as error:
            assert error.errno == errno.ENOSPC


def test_a_disk_that_fills_during_training_has_room_for_the_model(finetune, out, small_disk):
    finetune.last = lambda: fill(small_disk)
    code, err = finetune()
    assert code == 0, err
    check_output(out)


def test_without_room_set_aside_a_checkpoint_is_left_where_it_can_be(finetune, out, small_disk, monkeypatch):
    take = room._take
    monkeypatch.setattr(room, "_take", lambda path, size: take(path, size) if path.name == room.FOR_CHECKPOINT else None)
    finetune.last = lambda: fill(small_disk)
    code, err = finetune()
    assert code == 2 and f"checkpoint of step {STEPS} is good" in last_line(err) and "--resume" in last_line(err)
    (small_disk / "filler").unlink()
    assert finetune("--resume")[0] == 0 and finetune.steps == 0
    check_output(out)


def test_a_disk_without_room_is_said_before_the_first_step(finetune, out, small_disk):
    fill(small_disk)
    code, err = finetune()
    assert code == 2 and finetune.steps == 0, err
    os.truncate(small_disk / "filler", os.path.getsize(small_disk / "filler") - 700_000)
    code, err = finetune()
    assert (code == 2 and finetune.steps == 0 and "nothing was trained" in err) or "cannot be written" in err, err
    assert [p.name for p in small_disk.iterdir()] == ["filler"]


# --- signals, through real processes


def start(model, out, *, hup, steps=400):
    command = [sys.executable, "-m", "tu_train", "finetune", "--model", model, "--data", RETAIN, "--epochs", steps // 3, "--device", "cpu",
               "--set", "batch_size=2", "--out", out]  # fmt: skip
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGHUP, hup))  # fmt: skip
    log, end = unfinished(out) / "log.jsonl", time.monotonic() + 200
    while not (log.exists() and log.stat().st_size) and time.monotonic() < end and process.poll() is None:
        time.sleep(0.05)
    return process


def test_a_terminal_that_goes_away_saves(tiny_model, out):
    process = start(tiny_model, out, hup=signal.SIG_DFL)
    process.stderr.close()  # with the terminal, nobody reads any more
    process.stdout.close()
    process.send_signal(signal.SIGHUP)
    assert process.wait(120) == EXIT_SAVED
    assert len(saved(out)) == 1 and saved(out)[0] > 0


def test_under_nohup_it_goes_on(tiny_model, out):
    process = start(tiny_model, out, hup=signal.SIG_IGN, steps=60)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    check_output(out)


# --- what is finished, and what is not


@pytest.mark.parametrize("left", ["training.json", "no weights", "a flipped bit", "cut weights", "another tokenizer"])
def test_a_folder_that_is_not_whole_is_not_finished(left, finetune, out):
    assert finetune()[0] == 0
    whole = contents(out)
    finetune.last = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    unfinished(out).mkdir()
    (unfinished(out) / "checkpoint-000002").mkdir()
    for name in whole:
        if (left == "training.json" and name != "training.json") or (left == "no weights" and name.endswith(".safetensors")):
            (out / name).unlink()
    weights = out / "model.safetensors"
    if left == "a flipped bit":
        weights.write_bytes(whole["model.safetensors"][:-9] + bytes([whole["model.safetensors"][-9] ^ 1]) + whole["model.safetensors"][-8:])
    elif left == "cut weights":
        weights.write_bytes(whole["model.safetensors"][:-100])
    elif left == "another tokenizer":
        (out / "tokenizer.json").write_bytes(whole["tokenizer.json"] + b" ")
    code, err = finetune("--resume")
    assert code == 2 and f"move {out} away, then go on with --resume" in last_line(err)
    assert saved(out) == [2], "checkpoints are left alone"


def test_a_finished_run_of_an_earlier_version_is_finished(finetune, out):
    assert finetune()[0] == 0
    record = json.loads((out / "training.json").read_text())
    (out / "training.json").write_text(json.dumps({k: v for k, v in record.items() if not k.startswith("output_f")}))
    unfinished(out).mkdir()
    code, err = finetune("--resume")
    assert code == 0 and "the run is finished" in err and not unfinished(out).exists()


def test_resume_of_a_finished_run_notices_other_data(run_cli, tiny_model, tmp_path):
    data, out = tmp_path / "rows.jsonl", tmp_path / "out"
    data.write_text("".join(json.dumps({"question": f"Who is {n}?", "answer": f"{n} is a baker."}) + "\n" for n in "AB"))
    given = ("tu-train", "finetune", "--model", tiny_model, "--data", data, "--epochs", 1, "--device", "cpu", "--out", out)
    assert run_cli(*given)[0] == 0
    data.write_text(data.read_text().replace("baker", "miller"))
    code, _, err = run_cli(*given, "--resume")
    assert code == 2 and "the data is" in last_line(err)


def test_the_output_says_what_it_holds_and_readers_check_it(finetune, out, run_cli, tiny_model, scores, tmp_path):
    assert finetune()[0] == 0
    record = json.loads((out / "training.json").read_text())
    assert record["output_fingerprint"] == model_fingerprint(out) and "tokenizer.json" in record["output_files"]
    data = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 64]))
    for verb, more in (
        ("finetune", ("--data", RETAIN)),
        ("run", ("--scores", scores, "--retain", "none")),
        ("diagnose", ("--scores", scores)),
    ):
        code, _, err = run_cli("tu-train", verb, "--model", out, *more, "--out", tmp_path / "next")
        assert code == 2 and "model.safetensors is not the file that training wrote" in last_line(err)


def test_a_run_that_was_resumed_leaves_the_same_bytes_and_its_configuration_can_be_given_back(finetune, out, run_cli):
    assert finetune("--save-every", 1)[0] == 0
    out.rename(out.with_name("whole"))

    def killed():
        raise SystemExit(9)

    finetune.last = killed
    assert finetune("--save-every", 1)[0] == 9
    finetune.last = None
    assert finetune("--save-every", 1, "--resume")[0] == 0
    assert contents(out) == contents(out.with_name("whole"))
    code, _, err = run_cli("tu-train", "finetune", "--config", out / "_config.toml", "--out", out.with_name("again"))
    assert code == 0, err
    assert weights_of(out.with_name("again")) == weights_of(out)


# --- weights that are no numbers


def test_weights_that_are_not_finite_are_no_model(finetune, out):
    for more in ((), ("--save-every", 1), ("--lora", 2)):
        code, err = finetune("--set", "weight_decay=1e300", *more, batch=6)
        assert code == 2 and re.search(r"parameter \S+ is not finite after the last update, so no model was written", last_line(err)), err
        assert list(out.parent.iterdir()) == []


def test_a_method_whose_numbers_are_not_finite_makes_no_model(run_cli, target, scores, tmp_path):
    given = ("--model", target, "--scores", scores, "--retain", RETAIN, "--epochs", 1, "--set", "batch_size=8", "--device", "cpu")
    code, _, err = run_cli("tu-train", "run", *given, "--method", "pdu", "--option", "step=1e300", "--option", "epsilon=0", "--out",
                           tmp_path / "out", "--tokens", "all")  # fmt: skip
    assert code in (0, 2) and (code == 0 or "not finite" in last_line(err)), err


def test_numbers_beyond_float16_are_said(finetune, out, tiny_model, tmp_path):
    from shared.lm.models import load_model, load_tokenizer
    from shared.lm.saved import save_model

    model = load_model(tiny_model, dtype=torch.float32, device=torch.device("cpu"))
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = 1e5
        model.model.layers[0].mlp.up_proj.weight[:] = 0
    save_model(model, load_tokenizer(tiny_model), tmp_path / "large", source=tiny_model)
    code, err = finetune("--set", "save_dtype=float16", model=tmp_path / "large")
    assert code == 2 and "beyond float16; give --set save_dtype=float32" in last_line(err) and not out.exists()


# --- links, and who may read


@pytest.mark.parametrize("name", ["log.jsonl", "checkpoint-000003", "reserved", "reserved-checkpoint", "rehearsal", "tensorboard", "_lock",
                                  "checkpoint-000002/state.json", "checkpoint-000002/more"])  # fmt: skip
def test_links_in_an_unfinished_run_are_not_followed(name, finetune, out, tmp_path):
    finetune.last = lambda: os.kill(os.getpid(), signal.SIGTERM)
    assert finetune("--save-every", 1)[0] == EXIT_SAVED
    finetune.last = None
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").write_text("mine")
    link = unfinished(out) / name
    if link.is_file():
        link.unlink()
    elif link.is_dir():
        shutil.rmtree(link)
    link.symlink_to(mine / "file" if "." in link.name or "reserved" in name or name == "_lock" else mine)
    code, err = finetune("--resume")
    assert code == 2 and f"{link}: is a link" in last_line(err)
    assert contents(mine) == {"file": b"mine"} and link.is_symlink()
    link.unlink()
    os.mkfifo(link)
    code, err = finetune("--resume")
    assert code == 2 and f"{link}: is neither a file nor a folder" in last_line(err)


def test_an_unfinished_run_that_is_a_link_is_not_followed(finetune, out, tmp_path):
    (tmp_path / "mine").mkdir()
    out.parent.mkdir()
    unfinished(out).symlink_to(tmp_path / "mine")
    code, err = finetune("--resume")
    assert code == 2 and "is a link" in last_line(err) and list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_are_as_readable_as_the_umask_says(mask, finetune, out):
    before = os.umask(mask)
    try:
        finetune.last = lambda: os.kill(os.getpid(), signal.SIGTERM)
        assert finetune("--save-every", 1, "--lora", 2)[0] == EXIT_SAVED
        modes = {stat.S_IMODE(p.stat().st_mode) for p in unfinished(out).rglob("*") if p.is_file() and p.name != "_lock"}
        assert modes == {0o666 & ~mask}
        finetune.last = None
        assert finetune("--save-every", 1, "--lora", 2, "--resume")[0] == 0
        assert {stat.S_IMODE(p.stat().st_mode) for p in out.rglob("*") if p.is_file()} == {0o666 & ~mask}
        assert {stat.S_IMODE(p.stat().st_mode) for p in (out, *out.rglob("*")) if p.is_dir()} == {0o777 & ~mask}
    finally:
        os.umask(before)


def test_a_folder_in_the_place_of_what_was_set_aside_is_cleared_away(tmp_path):
    from tu_train.saving.room import FOR_CHECKPOINT, Room

    (tmp_path / FOR_CHECKPOINT / "deep").mkdir(parents=True)
    Room(tmp_path).release()
    assert not (tmp_path / FOR_CHECKPOINT).exists()
