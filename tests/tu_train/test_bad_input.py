"""What `tu-train run` refuses or survives beyond test_commands.py: one line, exit code 2, and nothing half-written."""

import errno
import json
import math
import sys

import pytest
from safetensors.torch import save_file

from shared.lm.models import model_fingerprint
from shared.store.scores import open_store
from tests.tu_train.conftest import FORGET, FULL, RETAIN, ROWS, log_of, score, weights_of
from tu_train import loop
from tu_train.saving import checkpoint

SHORT = ("--device", "cpu", "--epochs", 2, "--learning-rate", 1e-3, "--set", "batch_size=2")
STEPS = 6


@pytest.fixture
def run(run_cli, target, scores, tmp_path):
    """`run(...)`: tu-train run on the tiny set-up into tmp_path/work/NAME -> code, stdout, stderr"""

    def make(*more, name="out", **paths):
        usual = {"model": target, "scores": scores, "retain": RETAIN, "out": tmp_path / "work" / name, **paths}
        named = [word for key, value in usual.items() if value is not None for word in (f"--{key}", value)]
        return run_cli("tu-train", "run", *named, *SHORT, *more)

    return make


@pytest.fixture
def refused(run, tmp_path):
    """`refused(...)`: the one line that `run(...)` ends with; nothing may have been written."""

    def make(*more, **paths):
        code, out, err = run(*more, **paths)
        assert (code, out) == (2, ""), (out, err)
        assert err.startswith("error: ") and len(err.splitlines()) == 1, err
        assert not (tmp_path / "work").exists() or not list((tmp_path / "work").iterdir())
        return err

    return make


# --- stores and models


def test_another_model_than_was_scored_trains_where_that_is_allowed(run, tiny_base, tmp_path):
    code, _, err = run("--allow-other-model", model=tiny_base)
    assert code == 0
    assert f"made with another model than {tiny_base}: its importance and reference log-probabilities speak of the model that" in err
    out = tmp_path / "work" / "out"
    about = json.loads((out / "training.json").read_text())
    assert about["start_model"] == model_fingerprint(tiny_base) and about["settings"]["allow_other_model"]
    assert log_of(out)[0]["forget_nll"] > 3, "the model that trains is the one that knows nothing"


def test_a_scored_retain_set_of_another_model_is_refused_too(refused, tiny_base, tmp_path):
    other = score(tiny_base, tmp_path / "other", data=RETAIN, topk=4)
    line = refused("--set", f"retain_scores={other}", "--set", "retain_term=kl", retain=None)
    assert f"{other}: made with another model than" in line and "--allow-other-model" in line


# --- retain data


def test_retain_data_that_is_empty(refused, target, tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n")
    assert "rows.jsonl" in refused(retain=tmp_path / "rows.jsonl")
    assert f"{FORGET}: the retain data is empty: all of its rows are forget rows too" in refused(retain=FORGET)
    store = score(target, tmp_path / "store", data=FORGET, topk=4)
    line = refused("--set", f"retain_scores={store}", "--set", "retain_term=kl", retain=None)
    assert f"{store}: the retain data is empty: all of its rows are forget rows too" in line


def test_scored_retain_rows_that_are_forget_rows_are_dropped_by_name_and_what_kl_misses_is_reported(run, target, tmp_path):
    store = score(target, tmp_path / "store", data=FULL, topk=3)
    code, _, err = run("--set", f"retain_scores={store}", "--set", "retain_term=kl", retain=None)
    assert code == 0, err
    rows = list(open_store(store).rows())
    forget = {json.dumps(row["input_ids"]) for row in open_store(score(target, tmp_path / "forget")).rows()}
    shared = {r["example_id"] for r in rows if json.dumps(r["input_ids"]) in forget}
    assert len(shared) == ROWS and f"{store}: left out {ROWS} retain rows that are forget rows too: " in err
    named = err.split("forget rows too: ")[1].splitlines()[0].removesuffix(" and 1 more").split(", ")
    assert len(named) == 5 and set(named) < shared
    kept = [r for r in rows if r["example_id"] not in shared]
    mass = [
        1 - sum(map(math.exp, top)) for r in kept for top, target in zip(r["top_logprobs"], r["is_target"], strict=True) if target
    ]  # fmt: skip
    about = json.loads((tmp_path / "work" / "out" / "training.json").read_text())
    assert about["counts"]["retain_rows"] == len(kept)
    assert about["retain_outside_top_tokens"] == pytest.approx(sum(mass) / len(mass), abs=1e-6)
    assert sum(mass) / len(mass) > 1e-4, "or there is nothing to report"
    assert f"KL sees {sum(mass) / len(mass):.2%} of the probability, outside the stored top tokens, as one token" in err


# --- methods


@pytest.mark.parametrize(("option", "layer"), [((), 7), (("--option", "layer=2"), 2)])
def test_a_layer_beyond_the_model(option, layer, refused, target):
    assert f"--option layer={layer}: {target} has 2 blocks, numbered 0 to 1" in refused("--method", "rmu", *option)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ((), "name their column of the forget data with --set alternate_key=COLUMN"),
        (("--set", "alternate_key=other_answer"), "no other answer in column 'other_answer'"),
        (
            ("--set", "alternate_key=perturbed_answer", "--set", "alternates=generate"),
            "alternates=generate writes what alternate_key",
        ),
    ],
)
def test_alternate_answers_that_are_missing(key, expected, refused):
    assert expected in refused("--method", "altpo", *key)


def test_refusals_that_cannot_be_read(refused, tmp_path):
    assert "refusals" in refused("--method", "dpo", "--set", f"refusals={tmp_path / 'nowhere'}")


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [("bitsandbytes", ("--set", "optimizer=adamw8bit"), "adam8bit"), ("peft", ("--lora", 4), "lora")],
)
def test_a_package_that_is_not_there_names_its_extra(package, arguments, extra, refused, monkeypatch):
    for name in [package, *(m for m in sys.modules if m.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    line = refused(*arguments)
    assert package in line and f"pip install 'token-unlearn[{extra}]'" in line


# --- in the middle of training


@pytest.fixture
def whole(run, tmp_path):
    assert run("--save-every", 2, name="whole")[0] == 0
    return tmp_path / "work" / "whole"


def same(out, whole):
    assert weights_of(out) == weights_of(whole)
    assert (out / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()


def test_a_loss_that_is_not_finite_names_step_and_batch_and_the_last_checkpoint_stays_good(run, whole, monkeypatch, tmp_path):
    forward_pass, calls = loop.forward_pass, []

    def broken(*given, **more):
        seen = forward_pass(*given, **more)
        calls.append(seen)
        if len(calls) == STEPS - 1:
            seen.forget.logp_N = seen.forget.logp_N * math.nan
        return seen

    with monkeypatch.context() as patch:
        patch.setattr(loop, "forward_pass", broken)
        code, out, err = run("--save-every", 2)
    assert (code, out) == (2, "")
    assert f"error: step {STEPS - 2}: loss nan, not finite, stopped before the update; the batch: atlas/forget/" in err
    unfinished = tmp_path / "work" / "out.unfinished"
    assert sorted(p.name for p in unfinished.glob("checkpoint-*")) == ["checkpoint-000002", "checkpoint-000004"]
    assert not (tmp_path / "work" / "out").exists()
    assert run("--save-every", 2, "--resume")[0] == 0
    same(tmp_path / "work" / "out", whole)


def test_a_disk_that_is_full_at_a_checkpoint_leaves_the_one_before_it_good(run, whole, monkeypatch, tmp_path):
    calls = []

    def full(tensors, path):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        code, out, err = run("--save-every", 2)
    assert (code, out) == (2, "") and len(calls) == 2
    line = err.splitlines()[-1]
    assert line.startswith("error: ") and "checkpoint-000004" in line and "No space left on device" in line and "--resume" in line
    unfinished = tmp_path / "work" / "out.unfinished"
    assert sorted(p.name for p in unfinished.iterdir() if "checkpoint" in p.name) == ["checkpoint-000002"]
    assert run("--save-every", 2, "--resume")[0] == 0
    same(tmp_path / "work" / "out", whole)
