"""An error of one rank, of whatever kind, is told to the others before anything else is asked of them."""

import errno
import pickle

import pytest

from shared.errors import ConfigError, StoreError
from shared.files.fs import hash_file
from shared.records import RunRecord
from tu_train.ranks import Ended, Several, joined
from tu_train.saving import shards
from tu_train.saving.checkpoint import latest_snapshot, save_snapshot
from tu_train.saving.snapshot import Snapshot
from tu_train.saving.working_folder import told_if_full


class Told(Several):
    """One of two ranks; what the other one tells is given."""

    def __init__(self, number, other):
        super().__init__(number, 2, 0, None)
        self.other, self.told = other, []

    def gather(self, value):
        self.told.append(value)
        return [value, self.other] if self.leads else [self.other, value]


def fail():
    raise MemoryError


@pytest.mark.parametrize("number", [0, 1])
def test_an_error_that_no_user_can_mend_is_told_and_stays_what_it_is(number):
    ranks = Told(number, None)
    with pytest.raises(MemoryError):
        ranks.together(fail)
    assert ranks.told == ["MemoryError"]


def test_the_others_end_with_it():
    with pytest.raises(ConfigError, match="rank 1: MemoryError"):
        Told(0, "MemoryError").together(lambda: None)
    with pytest.raises(Ended):
        Told(1, "MemoryError").together(lambda: None)


def test_a_full_disk_of_another_rank_is_what_it_is_on_rank_0(tmp_path):
    """So that who catches it there says how to go on."""
    (tmp_path / "checkpoint-000004").mkdir()

    def full():
        raise OSError(errno.ENOSPC, "No space left on device", "/there/file")

    ranks = Told(1, None)
    with pytest.raises(Ended):
        ranks.together(full)
    told = pickle.loads(pickle.dumps(ranks.told[0]))  # noqa: S301 - as it goes over the wire
    with pytest.raises(StoreError, match=r"No space left on device, on rank 1.; the checkpoint of step 4 is good: make room, then go on"):
        save_snapshot(tmp_path, Snapshot(6, {}, RunRecord(settings={}), {}), 2, Told(0, told))
    with pytest.raises(StoreError, match=r"No space left on device, on rank 1.; the checkpoint"):
        (tmp_path / "out.unfinished").mkdir()
        (tmp_path / "checkpoint-000004").rename(tmp_path / "out.unfinished" / "checkpoint-000004")
        with told_if_full(tmp_path / "out"):
            Told(0, told).together(lambda: None)


@pytest.mark.parametrize(("name", "value"), [
    ("WORLD_SIZE", "two"), ("WORLD_SIZE", ""), ("WORLD_SIZE", "0"), ("WORLD_SIZE", "-1"), ("RANK", "x"), ("RANK", "1.5"),
    ("LOCAL_RANK", "first"), ("MASTER_PORT", "http"), ("RANK", "2"),
])  # fmt: skip
def test_an_environment_that_is_no_torchruns_is_one_line(name, value, run_cli, monkeypatch, tmp_path):
    usual = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for key, text in {**usual, name: value}.items():
        monkeypatch.setenv(key, text)
    code, out, err = run_cli("tu-train", "run", "--model", "m", "--scores", "s", "--retain", "r", "--out", tmp_path / "out")
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and err.startswith(f"error: {name} is ") and "torchrun" in err, err
    if name == "WORLD_SIZE":
        code, _, err = run_cli("tu-train", "many", tmp_path / "study.toml", "--out", tmp_path / "out")
        assert code == 2 and err.startswith("error: WORLD_SIZE is "), err


class Listing(Several):
    """One of two ranks, on a machine whose listing of a folder is an old one; what rank 0 says is given."""

    def __init__(self, number, first):
        super().__init__(number, 2, 0, None)
        self.first_of_all = first

    def gather(self, value):
        return [self.first_of_all, value]


def test_the_newest_checkpoint_is_that_of_rank_0(tmp_path):
    (tmp_path / "checkpoint-000002").mkdir()
    with pytest.raises(StoreError, match=r"checkpoint-000004/state.json: missing"):
        latest_snapshot(tmp_path, Listing(1, 4))
    assert latest_snapshot(tmp_path, Listing(1, 0)) is None


def test_shards_are_those_that_any_rank_knows_of(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_call", lambda *given, **more: (tmp_path / "b.safetensors").write_bytes(b"b"))
    (tmp_path / "a.safetensors").write_bytes(b"a")

    class Old(Listing):
        def gather(self, value):
            return [["a.safetensors"], ["b.safetensors"]] if isinstance(value, list) else [{"a.safetensors": "-"}, value]

    found = shards.write_shards(tmp_path, {}, Old(1, None))
    assert list(found) == ["a.safetensors", "b.safetensors"] and found["b.safetensors"] == hash_file(tmp_path / "b.safetensors")


def test_a_number_of_ranks_alone_is_refused(monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="WORLD_SIZE is 2 but RANK, MASTER_ADDR, MASTER_PORT not set"), joined():
        pass
