"""Stores on S3, written to a real S3 server on loopback: the bytes are those of a local folder, whatever happens on the
way."""

import json
import multiprocessing
import os
import random
import signal
import threading
from contextlib import nullcontext

import pytest

from shared.files import lock, remote
from shared.store.files import MANIFEST
from shared.store.rewrite import rewrite
from shared.store.scores import open_store
from tests.s3 import ADMIN, NO_CREDENTIALS
from tests.tu_score import killed
from tu_score.config import ScoreConfig

DATA = "atlas:forget:people=6,facts_per_person=4,forget_people=3,holdout_people=1"
CHANGING = ("PUT", "POST", "DELETE")


OPTIONS = ("--set", "part_tokens=100", "--set", "uncertainty=entropy")
"""several parts, and importance that does not wait for all of them"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "SETTLE_S", 0.0)
    monkeypatch.setattr(lock, "BEAT_S", 0.2)
    monkeypatch.setattr(lock, "STALE_S", 2.0)  # runs of one test share a process, so the holder of a lock that is left never looks dead
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.02)


@pytest.fixture
def command(run_cli, tiny_model):
    """`command(out, ...)` -> exit code and the lines on stderr of a scoring run in three parts or so."""

    def run(out, *arguments):
        options = (
            "--data",
            DATA,
            "--out",
            out,
            "--limit",
            "6",
            "--device",
            "cpu",
            "--set",
            "part_tokens=100",
            "--set",
            "uncertainty=entropy",
        )
        code, _, err = run_cli("tu-score", "run", "--model", tiny_model, *options, *arguments)
        return code, err.splitlines()

    return run


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory):
    """Files of an undisturbed run into a local folder, as `sorted_out` gives them."""
    from tu_score.run import run_score

    out = tmp_path_factory.mktemp("whole") / "store"
    run_score(ScoreConfig(model=str(tiny_model), data=DATA, out=str(out), limit=6, device="cpu", part_tokens=100, uncertainty="entropy"))
    return sorted_out({str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()})


def sorted_out(files):
    """name -> bytes but for _config.toml, which names --out; the manifest without its time and the hash that covers
    it."""
    manifest = json.loads(files[MANIFEST])
    same = {k: v for k, v in manifest.items() if k not in ("created_at", "manifest_sha256")}
    return {**{name: data for name, data in files.items() if name != "_config.toml"}, MANIFEST: same}


def never(*arguments, **more):
    raise AssertionError("a model was loaded")


# --- all goes well


def test_a_store_on_s3_is_that_of_a_local_folder_for_every_command(s3, command, run_cli, tmp_path, whole):
    out = s3.bucket("well") + "/runs/store"
    for k in range(3):
        s3.client().put_object(Bucket="well", Key=f"others/{k}", Body=b"")
    code, lines = command(out)
    assert code == 0, lines
    assert sorted_out(s3.contents("well", "runs/store")) == whole
    assert len(whole[MANIFEST]["parts"]) >= 3
    code, lines = command(out)
    assert code == 0 and "nothing to do" in lines[-1]
    assert command(tmp_path / "here")[0] == 0
    for where in (out, tmp_path / "here"):
        for arguments in (("recipe", where, "--recipe", "norm=rank"), ("verify", where), ("inspect", where)):
            code, _, err = run_cli("tu-score", *arguments)
            assert code == 0, err
    here = {p.name: p.read_bytes() for p in (tmp_path / "here").iterdir()}
    there = s3.contents("well", "runs/store")
    assert sorted_out(there) == sorted_out(here) and sorted_out(there)[MANIFEST]["recipe"]["norm"] == "rank"
    listed = [request for request in s3.asked if "prefix=" in request]
    assert listed and all("prefix=runs%2Fstore%2F" in request for request in listed)  # never more than the store


def test_the_base_models_store_inside_is_written_and_gone(s3, command, tmp_path, tiny_base):
    out = s3.bucket("base") + "/store"
    for where in (out, tmp_path / "here"):
        code, lines = command(where, "--base-model", tiny_base)
        assert code == 0, lines
    assert sorted_out(s3.contents("base", "store")) == sorted_out({p.name: p.read_bytes() for p in (tmp_path / "here").iterdir()})
    assert any("/store/_base/part-00000.parquet" in request for request in s3.asked)


# --- kills


@pytest.fixture(scope="module")
def start(tiny_model):
    """`start(folder, config)` -> a scoring run in a process forked from one that has loaded everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.tu_score.killed"])
    os.environ["TU_KILL_MODELS"] = str(tiny_model)

    def run(folder, config):
        environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        folder.mkdir(exist_ok=True)
        process = context.Process(target=killed.plain, args=(environment, str(folder), config))
        process.start()
        return process

    yield run
    del os.environ["TU_KILL_MODELS"]


def config(tiny_model, out, limit=6):
    return ScoreConfig(model=str(tiny_model), data=DATA, out=out, limit=limit, device="cpu", part_tokens=100, uncertainty="entropy")


def finished(process, seconds=120):
    process.join(seconds)
    return process.exitcode


def test_kill_before_or_after_each_request_that_changes_something_then_resume(s3, start, tiny_model, tmp_path):
    """Every second one before the server has done it, the others after."""
    bucket = s3.bucket("kills")
    assert finished(start(tmp_path / "whole", config(tiny_model, f"{bucket}/whole", 2))) == 0
    steps = [request for request in s3.asked if (request.startswith(CHANGING) and "/whole/" in request) or "?delete" in request]
    expected = sorted_out(s3.contents("kills", "whole"))
    named = ("_plan.json", "part-00001.parquet", "_progress/00001.json", "whole/_manifest.json", "whole/_lock")
    assert all(any(step.endswith(name) for step in steps) for name in named)
    for k in range(len(steps)):
        s3.reset()
        seen, process = [], None

        def kill(request, k=k, seen=seen):
            if request.startswith(CHANGING):
                seen.append(request)
                if len(seen) == k + 1:
                    os.kill(process.pid, signal.SIGKILL)  # noqa: B023 - this round's
                    return 500
            return None

        setattr(s3, "after" if k % 2 else "fault", kill)
        process = start(tmp_path / f"kill{k}", config(tiny_model, f"{bucket}/kill{k}", 2))
        assert finished(process) == -signal.SIGKILL, (steps[k], (tmp_path / f"kill{k}" / "said").read_text())
        s3.reset()
        assert finished(start(tmp_path / f"kill{k}", config(tiny_model, f"{bucket}/kill{k}", 2))) == 0, steps[k]
        assert sorted_out(s3.contents("kills", f"kill{k}")) == expected, steps[k]


# --- two writers


def test_a_second_run_is_told_who_writes(s3, command):
    from shared.store.writer import claim

    out = s3.bucket("second") + "/store"
    with claim(out):
        code, lines = command(out)
    assert code == 2 and f"{out}: process {os.getpid()} on " in lines[-1] and "been writing here" in lines[-1]
    assert command(out)[0] == 0


def test_of_two_runs_that_start_in_the_same_moment_one_is_refused(s3, start, tiny_model, tmp_path, whole):
    bucket, both = s3.bucket("moment"), threading.Barrier(2)

    def together(request):
        if request == "PUT /moment/store/_lock" and not both.broken and s3.asked.count(request) <= 2:
            both.wait(60)
        return None

    s3.fault = together
    runs = [start(tmp_path / str(k), config(tiny_model, f"{bucket}/store")) for k in range(2)]
    assert sorted(finished(run) for run in runs) == [0, 2]
    said = [(tmp_path / str(k) / "said").read_text() for k in range(2)]
    assert sum("been writing here" in text for text in said) == 1
    assert sorted_out(s3.contents("moment", "store")) == whole


# --- a server in trouble


def test_a_server_that_answers_500_and_503_now_and_then_changes_no_byte(s3, command, whole):
    """Also where the answer alone is lost and the object is there."""
    out, dice, faults = s3.bucket("trouble") + "/store", random.Random(7), []

    def trouble(request):
        status = 0 if dice.random() > 0.15 else dice.choice((500, 503))
        faults.extend([request] * bool(status))
        return status or None

    s3.fault, s3.after = trouble, lambda request: trouble(request) if request.startswith(CHANGING) else None
    code, lines = command(out)
    assert code == 0, lines
    assert sorted_out(s3.contents("trouble", "store")) == whole
    assert len(faults) >= 10 and any(request.startswith("PUT") for request in faults)


def test_an_answer_that_is_lost_does_not_take_our_lock_for_somebody_elses(s3, command):
    out, lost = s3.bucket("lost") + "/store", []

    def after(request):
        if request == "PUT /lost/store/_lock" and not lost:
            lost.append(request)
            return 500
        return None

    s3.after = after
    code, lines = command(out)
    assert code == 0 and lost, lines


@pytest.mark.parametrize("again", ["later", "in time"])
def test_a_server_that_goes_away_in_the_middle(s3, command, monkeypatch, whole, again):
    """Back in time, nobody notices; later, the same command goes on."""
    monkeypatch.setattr(remote, "TRY_S", 1.0 if again == "later" else 30.0)
    bucket = again.replace(" ", "-")
    out, gone = s3.bucket(bucket) + "/store", []

    def away(request):
        if "part-00001" in request and not gone:
            gone.append(request)
            s3.stop()
            if again == "in time":
                threading.Timer(0.5, s3.start).start()
            return 503
        return None

    s3.fault = away
    code, lines = command(out)
    if again == "later":
        assert code == 2 and sum(line.startswith("error:") for line in lines) == 1
        assert lines[-1].startswith(f"error: {out}/part-00001.parquet: cannot be written: ")
        assert "give the same command again" in lines[-1]
        assert "_progress/00000.json" in s3.contents(bucket, "store")
        s3.start()
        asked = len(s3.asked)
        code, lines = command(out)
        assert not any(request.startswith("PUT") and "part-00000" in request for request in s3.asked[asked:])
    assert code == 0, lines
    assert sorted_out(s3.contents(bucket, "store")) == whole


def test_a_server_that_is_not_there_is_told_once_and_soon(s3, command, monkeypatch):
    monkeypatch.setattr("tu_score.run.open_scorer", never)
    monkeypatch.setattr(remote, "TRY_S", 0.5)
    s3.stop()
    code, lines = command("s3://absent/store")
    assert code == 2 and len(lines) == 1 and "Could not connect" in lines[0] and "check the URL, the network" in lines[0]


def test_listings_that_lag_lead_to_no_wrong_store(s3, command, run_cli, whole):
    """Each listing is what the one before should have been: of a run that is stopped before its manifest, its resume,
    and a rewrite that is stopped after its first move."""
    out = s3.bucket("lag") + "/store"
    s3.lags = True
    s3.fault = lambda request: 501 if request == "PUT /lag/store/_manifest.json" else None
    code, lines = command(out)
    assert code == 2 and f"{out}/_manifest.json: cannot be written" in lines[-1]
    s3.fault = lambda request: None
    code, lines = command(out)
    assert code == 0, lines
    there = s3.contents("lag", "store")
    assert sorted_out({name: data for name, data in there.items() if not name.startswith("_progress/")}) == whole
    s3.fault = lambda request: 501 if request == "PUT /lag/store/part-00001.parquet" else None
    assert run_cli("tu-score", "recipe", out, "--recipe", "norm=rank")[0] == 2
    left = s3.contents("lag", "store")
    assert {"_next/part-00001.parquet", "_next/_manifest.json"} < set(left) and "_next/part-00000.parquet" not in left
    s3.fault = lambda request: None
    assert run_cli("tu-score", "verify", out)[0] == 0
    before = list(open_store(out).rows())
    store = rewrite(open_store(out), lambda table: table)
    assert list(store.rows()) == before and store.manifest["recipe"]["norm"] == "rank"
    assert run_cli("tu-score", "verify", out)[0] == 0


# --- refused before a model is loaded


READ = ("s3:Get*", "s3:List*")


@pytest.mark.parametrize(
    ("name", "allowed", "changed", "expected"),
    [
        ("no-keys", None, dict.fromkeys(NO_CREDENTIALS), "Unable to locate credentials"),
        ("dry-no-keys", None, dict.fromkeys(NO_CREDENTIALS), "Unable to locate credentials"),
        ("wrong-key", ("s3:*",), {"AWS_ACCESS_KEY_ID": "AKIAWRONG"}, "PermissionError: Forbidden"),
        ("wrong-secret", ("s3:*",), {"AWS_SECRET_ACCESS_KEY": "wrong"}, "PermissionError: Forbidden"),
        ("no-bucket", None, {}, "cannot be written: there is no bucket no-bucket; make it, or name another"),
        ("dry-no-bucket", None, {}, "cannot be written: there is no bucket no-bucket; make it, or name another"),
        ("dry-read-only", READ, {}, "cannot be written: PermissionError: Access Denied"),
        ("read-only", READ, {}, "cannot be written: PermissionError: Access Denied"),
        ("no-delete", (*READ, "s3:Put*"), {}, "cannot be deleted: PermissionError: Access Denied"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_any_work(s3, command, monkeypatch, name, allowed, changed, expected):
    import s3fs

    for place in ("run.open_scorer", "estimate.open_one"):
        monkeypatch.setattr(f"tu_score.{place}", never)
    out = "s3://no-bucket/store" if name.endswith("no-bucket") else s3.bucket(name) + "/store"
    with nullcontext({}) if allowed is None else s3.permissions(*allowed) as user:
        for variable, value in {**user, **changed}.items():
            monkeypatch.delenv(variable, raising=False) if value is None else monkeypatch.setenv(variable, value)
        s3fs.S3FileSystem.clear_instance_cache()
        code, lines = command(out, *(("--dry-run",) if name.startswith("dry") else ()))
    assert code == 2 and len(lines) == 1 and lines[0].startswith(f"error: {out}/") and expected in lines[0], lines
    if not name.endswith("no-bucket"):
        assert set(s3.contents(name)) == ({"store/.tmp-_lock.probe"} if name == "no-delete" else set())


def test_what_was_refused_goes_well_with_the_right_credentials(s3, command, monkeypatch, whole):
    """Also where the place could not be tidied up behind the refusal."""
    import s3fs

    out = s3.bucket("better") + "/store"
    with s3.permissions(*READ, "s3:Put*") as user:
        for variable, value in user.items():
            monkeypatch.setenv(variable, value)
        s3fs.S3FileSystem.clear_instance_cache()
        assert command(out)[0] == 2
    for variable, value in ADMIN.items():
        monkeypatch.setenv(variable, value)
    s3fs.S3FileSystem.clear_instance_cache()
    assert command(out)[0] == 0
    assert sorted_out(s3.contents("better", "store")) == whole
