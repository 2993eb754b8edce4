"""A toy run that goes on from a checkpoint equals one that never stopped; damage, full disks and other settings are
refused by name."""

import errno
import os
import shlex
import shutil

import pytest
import torch

from shared.config import as_dict, resolve
from shared.errors import ConfigError, StoreError
from shared.records import RunRecord
from tests.tu_train.conftest import flip_bit
from tu_train.config import FinetuneConfig
from tu_train.saving import checkpoint
from tu_train.saving.checkpoint import latest_snapshot, save_snapshot
from tu_train.saving.same import check_same
from tu_train.saving.snapshot import Moving, Snapshot, capture, restore

ABOUT = {"store": "abc", "settings": {"learning_rate": 1e-5, "options": {"beta": 0.1}, "out": "there", "train_only": ("a*",)}}
RECORD = RunRecord.from_json(ABOUT)


class Run:
    """Two layers (one frozen), AdamW, a schedule, a learned state; noise from torch's generator."""

    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)
        self.model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3), torch.nn.Linear(3, 1))
        for parameter in self.model.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        frozen = torch.Generator().manual_seed(0)
        for parameter in self.model[1].parameters():
            parameter.data = torch.randn(parameter.shape, generator=frozen)
            parameter.requires_grad_(False)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=0.1, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 / (step + 3))
        self.state = {"dual": torch.zeros(2)}

    def steps(self, count):
        for _ in range(count):
            self.optimizer.zero_grad()
            (self.model(torch.randn(7, 5)) ** 2).mean().backward()
            self.optimizer.step()
            self.schedule.step()
            self.state["dual"] += torch.rand(2)

    def capture(self, step):
        return capture(self.moving, step, RECORD)

    def restore(self, snapshot):
        restore(snapshot, self.moving)

    @property
    def moving(self):
        return Moving(self.model, self.optimizer, self.schedule, self.state)


@pytest.fixture
def saved(tmp_path):
    """A folder with checkpoints of steps 3 and 5, and the snapshot after ten uninterrupted steps."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        run = Run(1)
        for done, more in ((3, 3), (5, 2)):
            run.steps(more)
            save_snapshot(tmp_path, run.capture(done), keep=2)
        run.steps(5)
        yield tmp_path, run.capture(10)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("done", [3, 5])
def test_resumed_equals_uninterrupted_bit_for_bit(saved, done):
    folder, whole = saved
    if done == 3:
        shutil.rmtree(folder / "checkpoint-000005")
    torch.manual_seed(99)
    run, snapshot = Run(2), latest_snapshot(folder)
    assert snapshot is not None and snapshot.step == done
    run.restore(snapshot)
    run.steps(10 - done)
    found = run.capture(10)
    assert found.numbers == whole.numbers and found.tensors.keys() == whole.tensors.keys()
    assert {"optimizer/0.weight/exp_avg", "state/dual", "rng/cpu", "model/2.bias"} <= found.tensors.keys()
    assert not any("/1." in name for name in found.tensors), "frozen parameters are not kept"
    for name, value in whole.tensors.items():
        assert torch.equal(found.tensors[name], value), name


def test_only_the_newest_are_kept_and_leftovers_of_a_kill_are_not_read(saved):
    folder, whole = saved
    (folder / ".tmp-checkpoint-000011").mkdir()
    (folder / ".tmp-checkpoint-000011" / "state.json").write_text("{")
    latest = latest_snapshot(folder)
    assert latest is not None and latest.step == 5
    save_snapshot(folder, whole, keep=2)
    assert names(folder) == ["checkpoint-000005", "checkpoint-000010"]
    save_snapshot(folder, whole, keep=1)
    assert names(folder) == ["checkpoint-000010"]
    assert latest_snapshot(folder / "nowhere") is None


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damage_is_named_and_never_read(saved, name, damage):
    folder, _ = saved
    file = folder / "checkpoint-000005" / name
    if damage == "flip":
        flip_bit(file)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-9])
    else:
        file.unlink()
    with pytest.raises(StoreError, match=name):
        latest_snapshot(folder)


def test_every_bit_of_the_small_file_is_covered(saved):
    folder, _ = saved
    file = folder / "checkpoint-000005" / "state.json"
    whole = file.read_bytes()
    for at in range(0, len(whole), 7):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        if file.read_bytes().split() == whole.split():
            continue
        with pytest.raises(StoreError, match=r"state\.json"):
            latest_snapshot(folder)


@pytest.mark.parametrize("call", range(10))
def test_a_full_disk_at_any_call_leaves_the_checkpoint_before_and_no_litter(saved, monkeypatch, call):
    folder, whole = saved
    done: list[str] = []

    def failing(name, real):
        def called(*arguments, **more):
            done.append(name)
            if len(done) == call + 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments, **more)

        return called

    with monkeypatch.context() as patch:
        for holder, name in ((checkpoint, "save_file"), (type(folder), "write_text"), (os, "fsync"), (os, "replace")):
            patch.setattr(holder, name, failing(name, getattr(holder, name)))
        if call >= 9:  # save, write, three syncs, rename, sync, the old one's rename, sync: nothing is left to fail
            save_snapshot(folder, whole, keep=2)
            assert done == ["save_file", "write_text", "fsync", "fsync", "fsync", "replace", "fsync", "replace", "fsync"]
            return
        with pytest.raises(
            StoreError, match=rf"checkpoint-000010.*No space left on device.*step {5 if call < 6 else 10} is good.*--resume"
        ):
            save_snapshot(folder, whole, keep=2)
    latest = latest_snapshot(folder)
    assert latest is not None and latest.step == (5 if call < 6 else 10)
    assert not list(folder.glob(".tmp-*"))


def test_a_full_disk_before_any_checkpoint_does_not_speak_of_resuming(saved, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    (tmp_path / "new").mkdir()
    with pytest.raises(StoreError, match=r"No space left on device.*start the run anew") as raised:
        save_snapshot(tmp_path / "new", saved[1], keep=2)
    assert "--resume" not in str(raised.value) and names(tmp_path / "new") == []


def test_damage_of_the_only_checkpoint_points_to_no_other(saved):
    folder, _ = saved
    flip_bit(folder / "checkpoint-000005" / "state.json")
    with pytest.raises(StoreError, match=r"delete .*checkpoint-000005 to go on from the checkpoint of step 3"):
        latest_snapshot(folder)
    shutil.rmtree(folder / "checkpoint-000003")
    with pytest.raises(StoreError, match=rf"delete {folder} to start anew"):
        latest_snapshot(folder)


def test_another_model_is_refused_by_parameter(saved):
    folder, _ = saved
    snapshot = latest_snapshot(folder)
    assert snapshot is not None
    run = Run(1)
    run.model[1].weight.requires_grad_(True)
    with pytest.raises(StoreError, match=r"parameter 1\.weight: the checkpoint lacks it"):
        run.restore(snapshot)
    with pytest.raises(StoreError, match=r"parameter 0\.weight has shape \(1, 5\)"):
        Run(1).restore(Snapshot(5, {**snapshot.tensors, "model/0.weight": torch.zeros(1, 5)}, RECORD, snapshot.numbers))


def changed(**settings):
    return {**ABOUT, "settings": {**ABOUT["settings"], **settings}}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (changed(learning_rate=2e-5), r"learning_rate is 2e-05, .* with 1e-05; --set learning_rate=1e-05"),
        (changed(options={"beta": 0.2}), r"beta is 0\.2, .* with 0\.1; --option beta=0\.1"),
        (changed(options={"beta": 0.1, "a": {"b": 2}}), r"b is 2, .* with not given; leave out --option a"),
        (changed(seed=1), r"seed is 1, .* with not given; leave out seed"),
        (changed(train_only=["a*", "b"]), r"train_only is \['a\*', 'b'\], .* with \['a\*'\]; --set 'train_only=\[\"a\*\"\]'"),
        ({**ABOUT, "store": "abd"}, r"the store is 'abd', .* with 'abc'; give the store it was started with"),
        ({**ABOUT, "store": "f" * 64}, r"the store is ffffffffffff, .* with 'abc'"),
        ({**changed(learning_rate=2e-5), "retain_data": "abd"}, r"learning_rate is 2e-05"),
    ],
)
def test_a_changed_field_is_named_with_both_values_and_the_way_back(now, said):
    with pytest.raises(ConfigError, match=said):
        check_same(ABOUT, now, {"out"})


@pytest.mark.parametrize("field, then, now", [
    ("clip", 0.5, 2.0), ("learning_rate", 1e-05, 1.0), ("lora_targets", ["q_proj", "k proj's"], []), ("long", "skip", "error"),
    ("checkpointing", True, False), ("data", "atlas:retain:people=4,facts_per_person=3", "data.jsonl"), ("text_key", "1", None),
])  # fmt: skip
def test_the_way_back_can_be_typed(field, then, now):
    with pytest.raises(ConfigError) as raised:
        check_same({"settings": {field: then}}, {"settings": {field: now}}, ())
    flag, text = shlex.split(str(raised.value).partition("; ")[2].partition(", or start anew")[0])
    assert flag == "--set"
    needed = {"model": "m", "out": "o", "data": "d", "lora": 1}
    config = resolve(FinetuneConfig, sets=[text], flags={k: v for k, v in needed.items() if k != field})
    assert as_dict(config)[field] == then


def test_what_changes_no_result_may_differ(saved):
    snapshot = latest_snapshot(saved[0])
    assert snapshot is not None
    check_same(snapshot.about.to_json(), changed(out="elsewhere"), {"out"})
    with pytest.raises(ConfigError, match="out is"):
        check_same(snapshot.about.to_json(), changed(out="elsewhere"), ())
