"""Stores with numbers that no scoring gives, and checkpoints with content that no run saves, each with valid hashes:
one line that names row and column, or the file, before anything is trained on them."""

import json
import math
import os
import random
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

from shared.files.fs import hash_file, hash_json
from shared.store.scores import open_store
from shared.weighting.weights import Selection
from tests.tu_train.conftest import RETAIN, plan_of, score, write_store
from tests.tu_train.saving.test_checkpoint import Run
from tu_train.saving.checkpoint import latest_snapshot, save_snapshot
from tu_train.stopping.interrupts import EXIT_SAVED


def changed(store, folder, column, value):
    """A copy of a store with `value` at the last target token of its second row; a function changes the whole list."""
    rows = list(open_store(store).rows())
    row = rows[1]
    last = max(i for i, t in enumerate(row["is_target"]) if t)
    cells = list(row[column])
    if callable(value):
        cells = value(cells)
    else:
        cells[last] = value
    row[column] = cells
    write_store(folder, [rows], plan_of(open_store(store)))
    return folder, row["example_id"]


def test_a_row_is_named_where_training_alone_can_tell():
    """What the reader of a store lets pass, or a caller that reads none."""
    from shared.errors import StoreError
    from tu_train.data.batches import item_of_row

    good = {"example_id": "a/b/0", "input_ids": [1, 2, 3], "is_target": [False, True, True], "logprob": [None, -1.0, -1.0],
            "importance": [None, 0.5, 1.0], "word": None}  # fmt: skip
    for column, value in (("importance", [None, math.nan, 1.0]), ("importance", [None, -1.0, 1.0]), ("logprob", [None, math.nan, -1.0]),
                          ("logprob", [None, -1.0, 2.0]), ("input_ids", [1, 2, 9]), ("logprob", [None, -1.0])):  # fmt: skip
        with pytest.raises(StoreError, match=rf"store: a/b/0 .*column {column}"):
            item_of_row({**good, column: value}, selection=Selection(tokens="hard", keep=1.0), where="store", rows=9)
        if column == "importance":
            item_of_row({**good, column: value}, selection=Selection(tokens="all"), where="store", rows=9)


@pytest.fixture
def refused(run_cli, target, tmp_path):
    def make(*more, verb="run"):
        sets = ("--epochs", 1) if verb == "run" else ()
        code, _, err = run_cli("tu-train", verb, "--model", target, *more, *sets, "--device", "cpu", "--out", tmp_path / "out")
        assert code == 2 and err.splitlines()[-1].startswith("error: ") and "steps/s" not in err, err
        assert not (tmp_path / "out").exists() and not (tmp_path / "out.unfinished").exists()
        return err.splitlines()[-1]

    return make


BAD = [
    ("importance", math.nan), ("importance", math.inf), ("importance", -1.0), ("logprob", math.nan), ("logprob", -math.inf),
    ("logprob", math.inf), ("logprob", None), ("logprob", 3.0), ("input_ids", -1), ("input_ids", 10**6), ("input_ids", None),
    ("is_target", lambda cells: [True, *cells[1:]]), ("is_target", lambda cells: cells[:-1]), ("importance", lambda cells: cells[:-2]),
    ("logprob", lambda cells: cells * 2),
]  # fmt: skip


@pytest.mark.parametrize(("column", "value"), BAD)
def test_values_that_no_scoring_gives_are_refused_by_row_and_column(column, value, refused, scores, tmp_path):
    store, name = changed(scores, tmp_path / "store", column, value)
    tokens = ("--tokens", "hard", "--keep", "1.0") if column == "importance" else ("--tokens", "all")
    line = refused("--scores", store, "--retain", "none", *tokens)
    assert (column in line or "first token" in line or "a token" in line) and str(store) in line
    assert name in line or "part-00000.parquet: " in line  # most the reader finds, in whole columns


def test_diagnose_refuses_them_too(refused, scores, tmp_path):
    store, name = changed(scores, tmp_path / "store", "importance", math.nan)
    line = refused("--scores", store, verb="diagnose")
    assert "importance" in line and (name in line or "tu-score verify names the rows" in line)


@pytest.mark.parametrize(
    ("column", "value"),
    [("top_logprobs", lambda c: [*c[:-1], [math.nan] * 4]), ("top_logprobs", lambda c: [e and [5.0] * 4 for e in c]),
     ("top_logprobs", lambda c: [e and e[:2] for e in c]), ("top_ids", lambda c: [e and [10**6] * 4 for e in c]),
     ("top_ids", lambda c: [e and [-1] * 4 for e in c]), ("top_logprobs", lambda c: [e and [None] * 4 for e in c])],
)  # fmt: skip
def test_top_tokens_of_a_scored_retain_set(column, value, refused, target, scores, tmp_path):
    made = score(target, tmp_path / "top", data=RETAIN, topk=4)
    store, name = changed(made, tmp_path / "store", column, value)
    line = refused("--scores", scores, "--set", f"retain_scores={store}", "--set", "retain_term=kl")
    assert column in line and (name in line or "tu-score verify names the rows" in line)


# --- checkpoints


def rewrite(folder, change=None, tensors=None):
    """A checkpoint with other content, and hashes that fit it."""
    body = json.loads((folder / "state.json").read_text())
    body.pop("sha256")
    if tensors is not None:
        held = load_file(folder / "state.safetensors")
        save_file(tensors(held) or held, folder / "state.safetensors")
        body["tensors_sha256"] = hash_file(folder / "state.safetensors")
    body = (change(body) or body) if change else body
    whole = {**body, "sha256": hash_json(body)} if isinstance(body, dict) else body
    (folder / "state.json").write_text(json.dumps(whole))


def put(*path, value):
    def change(body):
        at = body
        for key in path[:-1]:
            at = at[key]
        if value is KeyError:
            del at[path[-1]]
        else:
            at[path[-1]] = value

    return change


def tensor(name, value):
    def change(held):
        name_ = next(k for k in held if k.startswith(name))
        if value is KeyError:
            del held[name_]
        else:
            held[name_] = value(held[name_]) if callable(value) else value

    return change


CONTENT = [
    put("step", value=10**9),
    put("step", value="3"), put("step", value=-1), put("step", value=True), put("format", value=[9] * 50),
    put("format", value=KeyError), put("about", value=3), put("about", value=KeyError), put("numbers", value=[]),
    put("numbers", value=KeyError),
    put("numbers", "groups", value=[]), put("numbers", "groups", value=KeyError), put("numbers", "groups", 0, "lr", value="fast"),
    put("numbers", "groups", 0, "lr", value=10**400), put("numbers", "groups", 0, "betas", value=[0.9]),
    put("numbers", "groups", 0, "params", value=[0]), put("numbers", "groups", 0, "more", value=1),
    put("numbers", "schedule", value=None), put("numbers", "schedule", value={"optimizer": 3}),
    put("numbers", "schedule", "last_epoch", value=10**30), put("numbers", "schedule", "base_lrs", value=["a"]),
    put("numbers", "counters", value={"nobody": {"a": 1}}), put("numbers", "counters", value=[1]),
    put("numbers", "over", value=True), put("numbers", "stopped_early", value=[1]), put("tensors_sha256", value=3),
]  # fmt: skip
TENSORS = [
    tensor("model/", KeyError), tensor("model/", lambda t: t.to(torch.float64)), tensor("model/", lambda t: t.to(torch.int32)),
    tensor("model/", lambda t: t.flatten()[:3].clone()), tensor("optimizer/", KeyError), tensor("optimizer/", lambda t: torch.zeros(7)),
    tensor("optimizer/", lambda t: t.to(torch.float16)), tensor("rng/cpu", KeyError), tensor("rng/cpu", torch.zeros(3, dtype=torch.uint8)),
    tensor("rng/cpu", torch.zeros(5000)), lambda held: {**held, "other/x": torch.zeros(1)},
    lambda held: {**held, "state/x": torch.zeros(1)},
    lambda held: {**held, "optimizer/nobody/step": torch.zeros(1)}, lambda held: {"x": torch.zeros(1)},
    lambda held: {**held, "state/before": torch.zeros(9)},
]  # fmt: skip


@pytest.fixture
def begun(run_cli, tiny_model, tmp_path, monkeypatch):
    """A run that was told to stop after its first step -> its checkpoint, and the command that goes on."""
    from tu_train import loop

    forward_pass = loop.forward_pass

    def stopping(*given, **more):
        os.kill(os.getpid(), signal.SIGTERM)
        return forward_pass(*given, **more)

    def command(*more):
        return run_cli("tu-train", "finetune", "--model", tiny_model, "--data", RETAIN, "--epochs", 1, "--device", "cpu",
                       "--set", "batch_size=2", "--out", tmp_path / "out", *more)  # fmt: skip

    with monkeypatch.context() as patch:
        patch.setattr(loop, "forward_pass", stopping)
        assert command()[0] == EXIT_SAVED
    return tmp_path / "out.unfinished" / "checkpoint-000001", command


def test_checkpoints_with_content_that_no_run_saves_are_refused(begun):
    folder, command = begun
    good = {p.name: p.read_bytes() for p in folder.iterdir()}
    for change, tensors in [(c, None) for c in CONTENT] + [(None, t) for t in TENSORS]:
        for name, data in good.items():
            (folder / name).write_bytes(data)
        try:
            rewrite(folder, change, tensors)
        except OverflowError:
            continue
        if change is CONTENT[-3]:
            continue  # says that nothing is left to train: then it is so
        code, _, err = command("--resume")
        assert code == 2 and err.splitlines()[-1].startswith("error: "), (err, CONTENT.index(change) if change else TENSORS.index(tensors))
        assert "checkpoint" in err.splitlines()[-1] and len(err.splitlines()[-1]) < 500
    for name, text in (("state.json", "[" * 100_000), ("state.json", "9" * 5000), ("state.json", '{"a": "\\ud800", "sha256": 3}')):
        (folder / name).write_text(text)
        code, _, err = command("--resume")
        assert code == 2 and "state.json" in err.splitlines()[-1], err
    for name, data in good.items():
        (folder / name).write_bytes(data)
    assert command("--resume")[0] == 0


SCALARS = (None, True, -1, 0, 2**70, 1e308, "", "x" * 300, [], {}, [1, "a"], {"a": {"b": 1}})


def mutated(value, generator):
    """The same with one place changed."""
    if generator.random() < 0.3 or not isinstance(value, (dict, list)) or not value:
        return generator.choice(SCALARS)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    out, key = (dict(value) if isinstance(value, dict) else list(value)), generator.choice(keys)
    if generator.random() < 0.15 and isinstance(out, dict):
        out[generator.choice(("params", "lr", "x", "step", "optimizer"))] = generator.choice(SCALARS)
    elif generator.random() < 0.15:
        del out[key]
    else:
        out[key] = mutated(out[key], generator)
    return out


def test_a_thousand_mutations_of_a_checkpoint_are_refused_or_harmless(tmp_path):
    """With valid hashes; a run that takes one can go on."""
    from shared.errors import StoreError

    generator, good, refused = random.Random(1), Run(1), 0
    with torch.random.fork_rng():
        good.steps(3)
        save_snapshot(tmp_path, good.capture(3), keep=1)
        folder = tmp_path / "checkpoint-000003"
        whole = {p.name: p.read_bytes() for p in folder.iterdir()}
        for _ in range(1000):
            for name, data in whole.items():
                (folder / name).write_bytes(data)
            if generator.random() < 0.7:
                rewrite(folder, lambda body: mutated(body, generator) if generator.random() < 0.3
                        else {**body, "numbers": mutated(body["numbers"], generator)} if isinstance(body, dict) else body)  # fmt: skip
            else:
                rewrite(folder, None, lambda held: _other(held, generator))
            run = Run(2)
            try:
                snapshot = latest_snapshot(tmp_path)
                run.restore(snapshot)
            except StoreError as error:
                refused += 1
                assert "\n" not in str(error)
                continue
            run.steps(1)
    assert refused > 500


def _other(held, generator):
    name = generator.choice(sorted(held))
    value = held[name]
    kinds = (
        lambda: {k: v for k, v in held.items() if k != name},
        lambda: {**held, name: value.to(generator.choice((torch.float64, torch.int8, torch.bfloat16, torch.bool)))},
        lambda: {**held, name: torch.zeros(generator.choice(((0,), (3,), (2, 2), (1, 1, 1))), dtype=value.dtype)},
        lambda: {**held,
                 generator.choice(("model/x", "optimizer/x/y", "optimizer/0.weight/z", "rng/x", "x", "/", "state/before/0.weight")):
                 value.clone()},
        lambda: {**held, name: torch.full_like(value, 255) if value.dtype == torch.uint8 else torch.full_like(value.float(), math.nan)},
    )  # fmt: skip
    return generator.choice(kinds)()
