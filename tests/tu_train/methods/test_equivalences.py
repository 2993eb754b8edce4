"""Through the real command, float32: settings that change how a step is computed change its losses by no more than
rounding."""

import numpy as np
import pytest

from shared.lm.packed import PackedModel
from shared.store.scores import open_store
from tests.tu_train.conftest import log_of, score, weights_of

WORLD = "people=6,facts_per_person=4,forget_people=4,holdout_people=1"
FORGET, RETAIN = (f"atlas:{split}:{WORLD}" for split in ("forget", "retain"))
LOSSES = ("loss", "forget_loss", "retain_loss", "forget_nll", "retain_nll")
LARGEST, MEAN = 1e-5, 1e-6
METHODS = ("graddiff", "npo")


@pytest.fixture(scope="module")
def wide(target, tmp_path_factory):
    """A store of sixteen rows: two steps an epoch of eight rows each."""
    folder = score(target, tmp_path_factory.mktemp("wide") / "store", data=FORGET)
    assert sum(1 for _ in open_store(folder).rows()) == 16
    return folder


@pytest.fixture
def run(run_cli, target, wide, tmp_path):
    """`run(name, *more)` -> output folder of four steps"""

    def make(name, method, *more):
        arguments = ("--model", target, "--scores", wide, "--retain", RETAIN, "--out", tmp_path / name, "--method", method,
                     "--tokens", "soft", "--epochs", 2, "--learning-rate", 1e-4, "--device", "cpu")  # fmt: skip
        code, _, err = run_cli("tu-train", "run", *arguments, *more)
        assert code == 0, err
        return tmp_path / name

    return make


def differences(one, other):
    logs = [[[record[name] for name in LOSSES] for record in log_of(folder)] for folder in (one, other)]
    assert len(logs[0]) == len(logs[1]) == 4
    return np.subtract(*map(np.array, logs))


def close(one, other):
    found = differences(one, other)
    assert np.abs(found).max() <= LARGEST, found
    assert np.abs(found.mean(0)).max() <= MEAN, found


@pytest.mark.parametrize("method", METHODS)
def test_packed_rows_are_padded_rows(method, run, monkeypatch):
    packed = run("packed", method)
    own, used = PackedModel.__init__, []

    def padded(self, model):
        own(self, model)
        assert self.packs
        self.packs = False
        used.append(self)

    monkeypatch.setattr(PackedModel, "__init__", padded)
    other = run("padded", method)
    assert used
    close(packed, other)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_eight_is_eight_batches_of_one(method, run):
    close(run("whole", method, "--set", "batch_size=8"), run("ones", method, "--set", "batch_size=1", "--set", "accumulate=8"))


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_the_passes_it_is_cut_into(method, run):
    close(run("whole", method, "--set", "batch_tokens=10000"), run("cut", method, "--set", "batch_tokens=1"))


def test_the_order_is_that_of_the_seed_alone(run):
    """A control of the bounds too: another order is far beyond them."""
    one, same, other = (run(name, "npo", "--seed", seed) for name, seed in (("one", 3), ("same", 3), ("other", 4)))
    assert weights_of(one) == weights_of(same)
    assert (one / "log.jsonl").read_bytes() == (same / "log.jsonl").read_bytes()
    assert np.abs(differences(one, other)).max() > 100 * LARGEST
