"""Lines on the disk as they are written, cut back on resume; trackers get the numbers and nothing else."""

import json
import sys
import types

import pytest

from shared.errors import ConfigError, StoreError
from tu_train.saving.logs import TRACKERS, Log, cut_log, open_trackers

RECORDS = [{"step": k, "loss": 0.5 + k, "example": "Basil Mahfouz", "stopped": False} for k in range(4)]


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.jsonl"
    with Log(path) as out:
        for record in RECORDS:
            out.write(record)
    return path


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_line_is_readable_before_the_log_is_closed(tmp_path):
    path = tmp_path / "log.jsonl"
    with Log(path) as out:
        for count, record in enumerate(RECORDS, start=1):
            out.write(record)
            assert [json.loads(line) for line in path.read_text().splitlines()] == RECORDS[:count]
        out.sync()


@pytest.mark.parametrize("done", range(6))
def test_cut_back_to_the_steps_done_and_written_on_equals_the_whole(log, done):
    whole = log.read_bytes()
    cut_log(log, done)
    assert steps(log) == list(range(min(done, 4)))
    with Log(log) as out:
        for record in RECORDS[done:]:
            out.write(record)
    assert log.read_bytes() == whole


def test_wherever_the_last_line_is_torn_only_it_goes(log):
    whole = log.read_bytes()
    lines = whole.splitlines(keepends=True)
    for torn in range(1, len(lines[3])):
        log.write_bytes(b"".join(lines[:3]) + lines[3][:torn])
        cut_log(log, 4)
        assert log.read_bytes() == b"".join(lines[:3])


def test_a_damaged_line_before_the_last_is_named_and_no_log_is_an_empty_one(log, tmp_path):
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(lines[0] + b"{\n" + lines[2])
    with pytest.raises(StoreError, match=r"log\.jsonl: line 2 is damaged"):
        cut_log(log, 4)
    cut_log(tmp_path / "none.jsonl", 3)
    assert (tmp_path / "none.jsonl").read_bytes() == b""


def write_with(trackers, folder):
    with Log(folder / "log.jsonl", trackers) as out:
        for record in RECORDS:
            out.write(record)


def test_tensorboard_holds_the_numbers_and_no_text(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_with(open_trackers(["tensorboard"], name="run", settings={"seed": 1}, folder=tmp_path), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(k, 0.5 + k) for k in range(4)]
    assert b"Basil" not in b"".join(p.read_bytes() for p in (tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_other_trackers_get_settings_and_numbers_and_are_finished(name, tmp_path, monkeypatch):
    calls = []
    run = types.SimpleNamespace(log=lambda numbers, step: calls.append((numbers, step)), finish=lambda: calls.append("finish"))

    def init(**more):
        calls.append((more["project"], more["name"], more["config"]))
        return run

    module = types.ModuleType(name)
    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    write_with(open_trackers([name], name="run", settings={"seed": 1}, folder=tmp_path), tmp_path)
    assert calls == [("token-unlearn", "run", {"seed": 1}), *[({"loss": 0.5 + k}, k) for k in range(4)], "finish"]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_named_with_its_extra(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"token-unlearn\[{name}\]"):
        open_trackers([name], name="run", settings={}, folder=tmp_path)


def test_an_unknown_tracker_suggests_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"tracker wand: unknown.*'wandb'"):
        open_trackers(["wand"], name="run", settings={}, folder=tmp_path)
