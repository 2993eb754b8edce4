"""Parts are scored by Ray actors: the bytes are those of one process, whoever dies meanwhile."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from shared.errors import ConfigError
from shared.store.files import MANIFEST
from shared.store.scores import open_store
from shared.store.writer import Writer
from tests.ports import free_port
from tests.tu_score.test_resume import contents
from tu_score import run, workers
from tu_score.config import ScoreConfig
from tu_score.run import run_score

ray = pytest.importorskip("ray") if not os.environ.get("CI") else __import__("ray")

THREADS = torch.get_num_threads()
DATA = "atlas:full:people=6,facts_per_person=3,forget_people=2,language=es"


def words_of(model) -> tuple:
    return ("--model", model, "--data", DATA, "--set", "part_tokens=150", "--engine", "torch")


@pytest.fixture
def command(run_cli, tiny_model, tmp_path):
    """`command(*arguments, out=...)` -> exit code and lines on stderr."""

    def call(*arguments, out=tmp_path / "store"):
        code, _, err = run_cli("tu-score", "run", *words_of(tiny_model), "--out", out, *arguments)
        assert "Traceback" not in err and not ray.is_initialized() and workers._session is None, err
        return code, err.splitlines()

    return call


@pytest.fixture(scope="module")
def stores(tiny_model, tiny_base, tmp_path_factory):
    """Of one process: without a base model, and with one."""
    out = []
    for base in (None, str(tiny_base)):
        folder = tmp_path_factory.mktemp("one") / "store"
        config = ScoreConfig(model=str(tiny_model), base_model=base, data=DATA, part_tokens=150, engine="torch", out=str(folder))
        run_score(config)
        out.append(folder)
    return out


@pytest.fixture(scope="module")
def whole(stores):
    return stores[0]


def assert_same(first, second):
    one, other = contents(first), contents(second)
    for files, _ in (one, other):
        del files["_config.toml"]  # names --out and --workers
    assert one == other


def test_the_bytes_are_those_of_one_process_when_a_worker_is_killed(command, stores, tiny_base, tmp_path, monkeypatch):
    write_part, killed = Writer.write_part, []

    def kill_one(writer, index, table):
        write_part(writer, index, table)
        if not killed and workers._session is not None and "_base" not in str(writer.folder):
            killed.append(workers._session.names[1][1])
            os.kill(killed[0], signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "write_part", kill_one)
        code, lines = command("--workers", "2", "--base-model", tiny_base)
    said = [line for line in lines if line.startswith("worker 1 (process ")]
    assert code == 0, lines
    assert len(said) == 1 and f"(process {killed[0]} on " in said[0] and "try 2 of 4" in said[0]
    assert_same(tmp_path / "store", stores[1])


def test_a_part_that_no_worker_survives_is_named_and_the_others_are_kept(command, whole, tmp_path, monkeypatch):
    write_part, written = Writer.write_part, []

    def kill_all(writer, index, table):
        write_part(writer, index, table)
        if "_base" not in str(writer.folder):
            written.append(index)
            for _, process in workers._session.names:
                with contextlib.suppress(ProcessLookupError):  # killed for the part before, and not yet replaced
                    os.kill(process, signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "write_part", kill_all)
        patch.setattr(workers, "RETRIES", 0)
        code, lines = command("--workers", "2")
    assert code == 2 and lines[-1].startswith("error: part ") and "1 workers were lost over it" in lines[-1]
    assert "finished parts are kept" in lines[-1] and len(list((tmp_path / "store").glob("part-*"))) == len(written)
    assert command("--workers", "2")[0] == 0
    assert_same(tmp_path / "store", whole)


def test_a_worker_that_stands_still_is_replaced(command, whole, tmp_path, monkeypatch):
    write_part, stopped = Writer.write_part, []

    def stop_one(writer, index, table):
        write_part(writer, index, table)
        if not stopped and "_base" not in str(writer.folder):
            stopped.append(workers._session.names[0][1])
            os.kill(stopped[0], signal.SIGSTOP)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "write_part", stop_one)
        patch.setattr(workers, "STUCK_S", 10.0)
        code, lines = command("--workers", "2")
    assert code == 0 and any(f"(process {stopped[0]} on " in line and "finished nothing for 10 s" in line for line in lines), lines
    assert_same(tmp_path / "store", whole)


def test_what_a_worker_refuses_is_the_commands_own_line(command, tmp_path, tiny_model):
    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    weights = safetensors.torch.load_file(broken / "model.safetensors")
    weights["model.norm.weight"][:] = torch.nan
    safetensors.torch.save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    code, lines = command("--model", broken, "--workers", "2")
    assert code == 2 and lines[-1].startswith("error: LlamaForCausalLM: its logits are not finite")
    assert not (tmp_path / "store" / "_lock").exists()


def test_the_order_in_which_parts_are_done_is_not_in_the_bytes(command, whole, tmp_path, monkeypatch):
    honest = workers.score_parts
    monkeypatch.setattr(run, "score_parts", lambda engine, tasks, *more: honest(engine, list(tasks)[::-1], *more))
    assert command()[0] == 0
    assert_same(tmp_path / "store", whole)


PLAN = """
def first_word(row):
    return [(0, len(row.question.split()[0]))]
"""


def test_a_span_plan_of_ones_own_is_that_of_the_driver(command, tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "my_worker_plan.py").write_text(PLAN)
    monkeypatch.syspath_prepend(tmp_path / "own")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'own'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")  # where workers look
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")  # of a cluster that nobody asked for
    words = ("--spans", "my_worker_plan:first_word")
    assert command(*words, out=tmp_path / "alone")[0] == 0
    code, lines = command(*words, "--workers", "2")
    assert code == 0, lines
    assert_same(tmp_path / "store", tmp_path / "alone")
    assert open_store(tmp_path / "store").manifest["spans"]["variants"] == 18


def descendants(process: int) -> set[int]:
    found, waiting = set(), [process]
    while waiting:
        for thread in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            new = {int(child) for child in thread.read_text().split()} - found
            found |= new
            waiting += new
    return found


def command_of(process: int) -> bytes:
    """Empty: it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_driver(how, tmp_path, tiny_model):
    words = [sys.executable, "-m", "tu_score", "run", "--model", tiny_model, "--data", "atlas:full:people=60", "--out", tmp_path / "store"]
    process = subprocess.Popen([*words, "--workers", "2", "--set", "part_tokens=100", "--spans", "window"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 180
    while not list((tmp_path / "store").glob("part-*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    children = descendants(process.pid)
    assert sum(b"Scorer" in command_of(child) for child in children) == 2 and process.poll() is None
    process.send_signal(how)
    process.wait(60)
    # Ray's own agents, which hold neither model nor data, look for their parent once a minute and are not waited for.
    while left := {child: name for child in children if (name := command_of(child)) and b"Agent" not in name}:
        assert time.monotonic() < deadline + 120, left
        time.sleep(0.2)


def started(head: subprocess.Popen, log: Path, seconds: float = 120) -> bool:
    """Whether Ray itself says that the head runs: that something accepts a connection at its port is not enough."""
    deadline = time.monotonic() + seconds
    while head.poll() is None and time.monotonic() < deadline:
        if "Ray runtime started" in log.read_text(errors="replace"):
            return True
        time.sleep(0.5)
    return False


@pytest.fixture
def cluster(tmp_path):
    """The address of a Ray head with two CPUs; where another process took one of its ports, it is started once more."""
    log = tmp_path / "head.txt"
    for _ in range(3):
        port = free_port()
        place = Path("/tmp") / f"tu-head-{port}"  # noqa: S108 - sockets below it have short names
        words = [Path(sys.executable).with_name("ray"), "start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false",
                 f"--temp-dir={place}", "--disable-usage-stats", "--block", "--node-ip-address=127.0.0.1"]  # fmt: skip
        with log.open("w") as out:
            head = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        ready = started(head, log)
        if ready:
            yield f"127.0.0.1:{port}"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(place, ignore_errors=True)
        if ready:
            return
    pytest.fail(f"no Ray head started in three attempts; the last one said: {log.read_text(errors='replace')[-2000:]}")


def test_a_running_cluster_writes_the_same_bytes(whole, tiny_model, tmp_path, cluster):
    """By commands in processes of their own, as Ray reads its settings when it is imported."""

    def run(out, *arguments):
        words = [sys.executable, "-m", "tu_score", "run", *words_of(tiny_model), "--out", out, "--ray", cluster, *arguments]
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": str(THREADS)})
        return done.returncode, done.stderr.splitlines()

    code, lines = run(tmp_path / "store")
    assert code == 0, lines
    assert_same(tmp_path / "store", whole)
    words = [sys.executable, "-m", "tu_score", "run", *words_of(tiny_model), "--dry-run", "--ray", cluster]
    told = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert told.returncode == 0 and "of this machine, shared by 2 workers of the cluster" in told.stdout, told
    code, lines = run(tmp_path / "more", "--workers", "3", "--dry-run")
    assert code == 2 and lines[-1] == "error: --workers 3: the cluster has 2 CPUs for 3 workers"
    code, lines = run(tmp_path / "more", "--workers", "3")
    assert code == 2 and lines[-1] == "error: --workers 3: the cluster has 2 CPUs for 3 workers"
    assert not list(tmp_path.glob("more/part-*"))


@pytest.mark.parametrize("address", ["127.0.0.1:9", "127.0.0.1", "nowhere", "127.0.0.1:port", "127.0.0.1:99999999", "ray://127.0.0.1:9"])
def test_an_address_where_no_cluster_answers(address, command, tmp_path):
    code, lines = command("--ray", address)
    assert code == 2 and lines[-1].startswith(f"error: --ray {address}: no cluster answers there") and not (tmp_path / "store").exists()


def test_nodes_that_are_not_like_the_driver_are_named(tmp_path):
    known = workers.versions()
    with pytest.raises(ConfigError, match=r"node .*: has torch .*, the driver 0\.1; install the same versions on all nodes"):
        workers.Scorer(1, {**known, "torch": "0.1"})
    with (
        pytest.raises(ConfigError, match=r"node .*: has vllm not installed, the driver 9")
        if known["vllm"] is None
        else pytest.raises(ConfigError)
    ):
        workers.Scorer(1, {**known, "vllm": "9"})
    threads = torch.get_num_threads()
    with pytest.raises(ConfigError, match=r"node .*: does not see the model .*nowhere; put it on a file system that all nodes share"):
        workers.Scorer(threads, known).open(ScoreConfig(model="m", data="d", out="o"), tmp_path / "nowhere", None)


@pytest.mark.parametrize(
    ("there", "options", "expected"),
    [
        ({"GPU": 2, "CPU": 8}, {"workers": 2}, (2, {"num_cpus": 1, "num_gpus": 1})),
        ({"GPU": 4, "CPU": 8}, {"workers": 2, "tensor_parallel": 2}, (2, {"num_cpus": 1, "num_gpus": 2})),
        ({"GPU": 9, "CPU": 16}, {"ray": "auto", "tensor_parallel": 2}, (4, {"num_cpus": 1, "num_gpus": 2})),
        ({"CPU": 8}, {"ray": "auto"}, (8, {"num_cpus": 1, "num_gpus": 0})),
        ({"GPU": 2, "CPU": 8}, {"workers": 3, "device": "cpu"}, (3, {"num_cpus": 1, "num_gpus": 0})),
        ({"GPU": 1, "CPU": 8}, {"workers": 2}, "--workers 2: this machine has 1 GPUs, and the workers take 2 (1 each)"),
        (
            {"GPU": 2, "CPU": 8},
            {"workers": 2, "tensor_parallel": 2, "ray": "auto"},
            "the cluster has 2 GPUs, and the workers take 4 (2 each)",
        ),
        ([{"GPU": 3, "CPU": 8}, {"GPU": 3, "CPU": 8}], {"ray": "auto", "tensor_parallel": 2}, (2, {"num_cpus": 1, "num_gpus": 2})),
        (
            [{"GPU": 3, "CPU": 8}, {"CPU": 8}, {"GPU": 5, "CPU": 8}],
            {"workers": 3, "tensor_parallel": 2, "ray": "auto"},
            (3, {"num_cpus": 1, "num_gpus": 2}),
        ),
        (
            [{"GPU": 1, "CPU": 8}] * 4,
            {"workers": 2, "tensor_parallel": 2, "ray": "auto"},
            "the cluster has 4 GPUs, and the workers take 4 (2 each), each of them on one node: node0 (023456) has 1, "
            "node1 (123456) has 1, node2 (223456) has 1, node3 (323456) has 1; give a smaller tensor_parallel",
        ),
        ({"GPU": 2, "CPU": 8}, {"workers": 2, "device": "cuda:1"}, "each worker takes a device; leave --device out"),
    ],
)
def test_what_each_worker_takes(there, options, expected):
    nodes = there if isinstance(there, list) else [there]
    alive = [{"Alive": True, "NodeID": f"{k}23456789", "NodeManagerHostname": f"node{k}", "Resources": own} for k, own in enumerate(nodes)]
    gone = {"Alive": False, "NodeID": "f", "NodeManagerHostname": "gone", "Resources": {"GPU": 64, "CPU": 64}}
    session = SimpleNamespace(
        config=ScoreConfig(model="m", data="d", out="o", **options), ray=SimpleNamespace(nodes=lambda: [*alive, gone])
    )
    if isinstance(expected, tuple):
        assert workers.Session._share(session) == expected
        return
    with pytest.raises(ConfigError) as raised:
        workers.Session._share(session)
    assert expected in str(raised.value)


def test_without_ray_its_extra_is_named(command, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, lines = command("--workers", "2")
    assert (code, lines[-1]) == (2, "error: --workers and --ray need Ray, which is not installed: pip install 'token-unlearn[ray]'")
    assert not (tmp_path / "store" / MANIFEST).exists()
    assert command()[0] == 0 and len(open_store(tmp_path / "store")) == 18


def test_rays_folders_without_a_driver_are_removed_when_they_are_old(tmp_path, monkeypatch):
    monkeypatch.setattr(workers.tempfile, "tempdir", str(tmp_path))
    for name in ("empty", "made-now", "old", "in-use", "linked"):
        (tmp_path / f"tu-ray-{name}").mkdir()
    for name in ("old", "in-use"):
        (tmp_path / f"tu-ray-{name}" / "log").write_text("")
        os.utime(tmp_path / f"tu-ray-{name}", (0, 0))
    (tmp_path / "tu-ray-linked").rmdir()
    (tmp_path / "tu-ray-linked").symlink_to(tmp_path)
    os.utime(tmp_path / "tu-ray-old" / "log", (0, 0))
    os.utime(tmp_path / "tu-ray-empty", (0, 0))
    workers._remove_left_behind()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tu-ray-in-use", "tu-ray-linked", "tu-ray-made-now"]


def test_rays_folders_of_killed_drivers_are_removed_and_those_of_others_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(workers.tempfile, "tempdir", str(tmp_path))
    for name in ("dead", "young", "alive", "strange"):
        (tmp_path / f"tu-ray-{name}" / "session").mkdir(parents=True)
    hold = (
        "import sys, time, pathlib; from tu_score.workers import _locked\n"
        "_locked(pathlib.Path(sys.argv[1])); print(1, flush=True); time.sleep(99)"
    )
    holders = {
        name: subprocess.Popen([sys.executable, "-c", hold, tmp_path / f"tu-ray-{name}" / workers.OWNER], stdout=subprocess.PIPE)
        for name in ("dead", "young", "alive")
    }
    for name, holder in holders.items():
        assert holder.stdout.readline() == b"1\n"
        if name != "young":
            os.utime(tmp_path / f"tu-ray-{name}" / workers.OWNER, (0, 0))
        if name != "alive":
            holder.kill()
            holder.wait()
    workers._remove_left_behind()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tu-ray-alive", "tu-ray-strange", "tu-ray-young"]
    holders["alive"].kill()
    holders["alive"].wait()
    workers._remove_left_behind()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tu-ray-strange", "tu-ray-young"]
