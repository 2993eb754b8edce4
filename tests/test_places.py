"""Where commands write: through the real commands, with links, mounted file systems, URLs, readers that go away, other
writers."""

import errno
import os
import pty
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared.errors import StoreError
from shared.files.fs import atomic_file, atomic_folder, short_name
from shared.files.outputs import claimed_files, claimed_folder

ROOT = Path(__file__).parents[1]
MAKERS = {
    "tu-score run": ("--data", "atlas:forget", "--limit", 2, "--engine", "torch"),
    "tu-train finetune": ("--data", "atlas:forget", "--limit", 2, "--epochs", 1),
    "tu-eval run": ("--suite", "atlas", "--limit", 2, "--set", "generate=false"),
    "tu-eval attack": ("--suite", "atlas", "--limit", 2, "--attack", "quantise"),
}
"""commands that make a folder of a model alone"""


def process(command: str, *arguments: object, **more) -> subprocess.Popen:
    module = command.partition(" ")[0].replace("-", "_")
    given = [sys.executable, "-m", module, *command.split()[1:], *map(str, arguments)]
    return subprocess.Popen(given, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", **more.pop("env", {})}, text=True, **more)


# --- places


@pytest.mark.parametrize("url", ["s3://bucket/out", "gs://bucket/out", "memory://out", "file:///tmp/out", "https://host/out"])
@pytest.mark.parametrize("command", [name for name in MAKERS if name != "tu-score run"])
def test_a_url_is_no_folder_and_makes_none(run_cli, tiny_model, tmp_path, monkeypatch, command, url):
    monkeypatch.chdir(tmp_path)
    code, _, err = run_cli(*command.split(), "--model", tiny_model, *MAKERS[command], "--out", url)
    assert code == 2 and err.count("\n") == 1 and "looks like a URL" in err and "name a path" in err
    assert os.listdir(tmp_path) == []


def test_pages_and_tables_go_to_no_url(run_cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in (
        ("tu-eval", "compare", "absent", "--out", "s3://bucket/page.html"),
        ("tu-eval", "compare", "absent", "--out", "page.html", "--csv", "s3://bucket/t.csv"),
        ("tu-eval", "evidence", "--before", "a", "--after", "b", "--out", "s3://bucket/e"),
        ("tu-train", "many", "absent.toml", "--out", "s3://bucket/many"),
        ("tu-eval", "many", "absent.toml", "--out", "s3://bucket/many"),
    ):
        code, _, err = run_cli(*command)
        assert code == 2 and "looks like a URL" in err, err
    assert os.listdir(tmp_path) == []


def test_scores_in_memory_would_be_gone_and_are_refused(run_cli, tiny_model):
    code, _, err = run_cli("tu-score", "run", "--model", tiny_model, *MAKERS["tu-score run"], "--out", "memory://scores")
    assert code == 2 and "gone when the command ends" in err, err


@pytest.mark.parametrize("command", MAKERS)
def test_a_mounted_file_system_is_filled_or_refused_before_any_work(run_cli, tiny_model, tmp_path, command):
    out = tmp_path / "out"
    out.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", out], capture_output=True).returncode:
        pytest.skip("file systems can only be mounted by root")
    try:
        code, _, err = run_cli(*command.split(), "--model", tiny_model, *MAKERS[command], "--device", "cpu", "--out", out)
        if command == "tu-score run":  # fills the folder in place
            assert code == 0, err
            assert run_cli("tu-score", "verify", out)[0] == 0
        else:
            assert code == 2 and "a file system is mounted there" in err and "choose a folder inside it" in err, err
            assert os.listdir(out) == []
            code, _, err = run_cli(*command.split(), "--model", tiny_model, *MAKERS[command], "--device", "cpu", "--out", out / "inside")
            assert code == 0, err
            assert os.listdir(out) == ["inside"]
    finally:
        subprocess.run(["umount", out], check=True)


@pytest.mark.parametrize("command", MAKERS)
def test_a_link_is_followed_by_no_writer(run_cli, tiny_model, tmp_path, command):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to("real")
    code, _, err = run_cli(*command.split(), "--model", tiny_model, *MAKERS[command], "--device", "cpu", "--out", tmp_path / "out")
    if command == "tu-score run":
        assert code == 0, err
        assert run_cli("tu-score", "verify", tmp_path / "real")[0] == 0
    else:
        assert code == 2 and "is a link" in err and str(tmp_path / "real") in err, err
        assert os.listdir(tmp_path / "real") == []


def test_another_writer_of_the_place_is_named_at_once(run_cli, tiny_model, tmp_path):
    out = tmp_path / "out"
    for command in [name for name in MAKERS if name != "tu-score run"]:
        with claimed_folder(out, what="a test"):
            code, _, err = run_cli(*command.split(), "--model", tiny_model, *MAKERS[command], "--device", "cpu", "--out", out)
        assert code == 2 and f"process {os.getpid()} on " in err and "been writing here" in err, err
        assert os.listdir(tmp_path) == []


# --- files that are not ours


PAGE = ("tu-eval", "compare", "results", "--out")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_of_somebody_else_is_not_replaced(run_cli, here):
    (here / "mine.html").write_text("<html>mine</html>")
    for name, text in (("store", "_manifest.json"), ("model", "config.json"), ("results", "summary.json")):
        (here / name).mkdir()
        (here / name / text).write_text("{}")
        (here / name / "part-00000.parquet").write_bytes(b"PAR1 token-unlearn")
        code, _, err = run_cli(*PAGE, here / name / "part-00000.parquet")
        assert code == 2 and "is a file of a store, a model or results" in err, err
    (here / "link.html").symlink_to("mine.html")
    os.mkfifo(here / "pipe.html")
    for name, why in (
        ("mine.html", "not one that token-unlearn wrote"),
        ("link.html", "is a link"),
        ("pipe.html", "is a link or a device"),
    ):
        code, _, err = run_cli(*PAGE, name)
        assert code == 2 and why in err, err
    assert (here / "mine.html").read_text() == "<html>mine</html>"


def test_an_older_page_of_ours_is_replaced_and_an_empty_file_filled(here):
    for text in (
        "",
        '<meta name="generator" content="token-unlearn">',
        "<title>tu-eval: atlas</title>",
        "| Set | Metric |",
        "label,group,role,method,tokens,seed,x",
    ):
        (here / "page").write_text(text)
        with claimed_files({"--out": here / "page"}):
            pass
    assert os.listdir(here) == ["page"]


# --- temporary names


def test_planted_links_are_not_written_through(here):
    (here / "victim").write_text("mine")
    for name in (".tmp-a.txt", ".tmp-out", ".tmp-a.txt-0123456789abcdef"):
        (here / name).symlink_to("victim")
    with atomic_file(here / "a.txt") as temporary:
        temporary.write_text("x")
    with atomic_folder(here / "out") as temporary:
        (temporary / "b.txt").write_text("y")
    assert (here / "victim").read_text() == "mine"
    assert sorted(os.listdir(here)) == ["a.txt", "out", "victim"]


def test_a_link_in_the_place_of_the_file_is_replaced_and_not_followed(here):
    (here / "victim").write_text("mine")
    (here / "a.txt").symlink_to("victim")
    with atomic_file(here / "a.txt") as temporary:
        temporary.write_text("x")
    assert (here / "victim").read_text() == "mine" and not (here / "a.txt").is_symlink()


def test_two_writers_of_one_name_do_not_meet(here):
    with atomic_file(here / "a") as one, atomic_file(here / "a") as other:
        one.write_text("1")
        other.write_text("2")
        assert one != other and one.read_text() == "1"
    assert (here / "a").read_text() == "1" and os.listdir(here) == ["a"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_and_folders_are_readable_as_the_umask_says(here, umask):
    before = os.umask(umask)
    try:
        with atomic_file(here / "a") as temporary:
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors does
        with atomic_folder(here / "out") as temporary:
            os.close(os.open(temporary / "b", os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (here / "a", here / "out" / "b", here / "out")]
    assert modes == [0o666 & ~umask, 0o666 & ~umask, 0o777 & ~umask]


@pytest.mark.parametrize("letter", ["x", "é", "成", "\U0001f642"])
def test_the_longest_names_can_be_written(here, letter):
    name = letter * (255 // len(letter.encode()))
    with atomic_file(here / name) as temporary:
        temporary.write_text("x")
    assert os.listdir(here) == [name]
    assert len(short_name(name).encode()) <= 200 and short_name(name) != short_name(name[:-1] + "y") and short_name("short") == "short"


def test_kept_measurements_are_not_written_through_a_link(run_cli, tiny_model, here):
    arguments = ("tu-eval", "run", "--model", tiny_model, "--suite", "atlas", "--limit", 2, "--set", "generate=false", "--device", "cpu")
    code, _, err = run_cli(*arguments, "--store", "kept", "--out", "one")
    assert code == 0, err
    (key,) = os.listdir(here / "kept")
    (here / "kept" / key).rename(here / "moved")
    for left in (here / "moved").glob("*.parquet"):
        left.unlink()
    (here / "kept" / key).symlink_to(here / "moved")
    before = os.listdir(here / "moved")
    code, _, err = run_cli(*arguments, "--store", "kept", "--out", "two")
    assert code == 2 and f"kept/{key}: is a link, and nothing is written through links" in err, err
    assert os.listdir(here / "moved") == before and not (here / "two").exists()


def test_a_manifest_without_end_is_not_read_into_memory(run_cli, here):
    (here / "scores").mkdir()
    with open(here / "scores" / "_manifest.json", "wb") as handle:
        handle.truncate(1 << 40)
    code, _, err = run_cli("tu-score", "verify", "scores")
    assert code == 2 and "_manifest.json: has more than 268,435,456 bytes" in err, err


def test_a_disk_that_is_full_from_the_start_leaves_no_lock(here, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreError, match="No space left on device"), claimed_folder(here / "out", what="a test"):
        pass
    assert os.listdir(here) == []


# --- readers that go away


def test_a_reader_that_goes_away_ends_no_training(tiny_model, tmp_path):
    training = process(
        "tu-train finetune", "--model", tiny_model, *MAKERS["tu-train finetune"], "--device", "cpu", "--out", tmp_path / "out",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert training.stdout.readline()
    training.stdout.close()
    assert training.wait(120) == 0
    assert (tmp_path / "out" / "training.json").is_file()


@pytest.mark.parametrize("command", ["tu-score run", "tu-eval run"])
def test_nobody_reads_at_all(tiny_model, tmp_path, command):
    read, write = os.pipe()
    os.close(read)
    ran = process(
        command, "--model", tiny_model, *MAKERS[command], "--device", "cpu", "--out", tmp_path / "out", stdout=write, stderr=write
    )
    os.close(write)
    assert ran.wait(120) == 0
    assert (tmp_path / "out").is_dir()


def test_a_terminal_that_is_closed_and_a_log_on_a_full_disk_end_no_training(tiny_model, tmp_path):
    leader, follower = pty.openpty()
    arguments = ("--model", tiny_model, *MAKERS["tu-train finetune"], "--device", "cpu", "--out")
    with open("/dev/full", "w") as full:
        runs = [
            process("tu-train finetune", *arguments, tmp_path / "a", stdout=subprocess.DEVNULL, stderr=follower),
            process("tu-train finetune", *arguments, tmp_path / "b", stdout=subprocess.DEVNULL, stderr=full),
        ]
    os.close(follower)
    time.sleep(0.2)
    os.close(leader)
    assert [run.wait(120) for run in runs] == [0, 0]


def test_a_result_that_cannot_be_written_is_no_success(tiny_model, tmp_path):
    scored = process("tu-score run", "--model", tiny_model, *MAKERS["tu-score run"], "--device", "cpu", "--out", tmp_path / "s")
    assert scored.wait(120) == 0
    with open("/dev/full", "w") as full:
        shown = process("tu-score inspect", tmp_path / "s", stdout=full, stderr=subprocess.PIPE)
        _, err = shown.communicate(timeout=120)
    assert shown.returncode == 2 and "No space left" in err and "Traceback" not in err, err


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")
def test_sighup_saves_and_resume_goes_on(tiny_model, tmp_path):
    arguments = (
        "--model",
        tiny_model,
        "--data",
        "atlas:forget",
        "--limit",
        4,
        "--epochs",
        400,
        "--device",
        "cpu",
        "--out",
        tmp_path / "out",
    )
    training = process("tu-train finetune", *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    log = tmp_path / "out.unfinished" / "log.jsonl"
    until = time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") > 3):
        assert time.monotonic() < until and training.poll() is None
        time.sleep(0.05)
    training.send_signal(signal.SIGHUP)
    _, err = training.communicate(timeout=120)
    assert training.returncode == 75 and "SIGHUP: saving after this step" in err and "--resume goes on" in err, err
    assert process("tu-train finetune", *arguments, "--resume", stderr=subprocess.DEVNULL).wait(300) == 0


# --- pipes in the place of files


@pytest.mark.parametrize(
    "arguments",
    [
        ("tu-eval", "run", "--suite", "pipe.toml", "--out", "out"),
        ("tu-eval", "judge", "--data", "pipe", "--judge-model", "stub", "--out", "out"),
        ("tu-score", "run", "--config", "pipe", "--data", "atlas:forget", "--out", "out"),
        ("tu-train", "many", "pipe", "--out", "out"),
        ("tu-eval", "many", "pipe", "--out", "out"),
    ],
)
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(run_cli, tiny_model, here, monkeypatch, arguments):
    monkeypatch.setenv("TU_JUDGE_URL", "http://127.0.0.1:9/v1")
    for name in ("pipe", "pipe.toml"):
        os.mkfifo(name)
    model = () if "many" in arguments else ("--model", tiny_model)
    code, _, err = run_cli(*arguments, *model)
    assert code == 2 and "is no ordinary file" in err and err.count("\n") == 1, err


def test_a_configuration_may_come_from_a_command_of_the_shell(tiny_model, here):
    read, write = os.pipe()
    os.write(write, b'data = "atlas:forget"\nlimit = 2\nengine = "torch"\ndevice = "cpu"\n')
    os.close(write)
    scored = process("tu-score run", "--model", tiny_model, "--config", f"/dev/fd/{read}", "--out", here / "s", pass_fds=(read,))
    os.close(read)
    assert scored.wait(120) == 0
