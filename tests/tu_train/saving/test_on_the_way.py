"""A suite on the way: it measures what would be written, changes nothing that is trained, and keeps the best model,
through kills too."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shared.better import lower_is_better
from shared.errors import ConfigError, StoreError, UserError
from shared.lm.models import model_fingerprint
from tests.tu_train.conftest import RETAIN, WORLD, log_of, weights_of
from tu_eval.results.columns import DOWN, UP, ZERO, columns_of
from tu_eval.suites.suites import find_suite
from tu_train.config import UnlearnConfig
from tu_train.plan import check_ranks
from tu_train.saving import on_the_way
from tu_train.saving.on_the_way import best_of

SUITE = f"atlas:{WORLD}"
STEADY = {"schedule": "constant", "warmup": 0.0}
"""the model after n steps does not depend on how many there will be"""
GIVEN = {"eval_suite": "any", "eval_every": 1, "keep_best": "model_utility"}


@pytest.fixture
def measured(monkeypatch):
    """Values of model_utility and forget_probability by step, in place of tu-eval; -> what was measured, in order."""
    seen, values = [], {0: 0.9, 1: 0.3, 2: 0.8, 3: 0.5, 4: 0.8}

    def by_command(config):
        def measure(model, out):
            known = {fingerprint: k for k, fingerprint in enumerate(seen)}
            if (fingerprint := model_fingerprint(Path(model))) not in known:
                seen.append(fingerprint)
            value = values[seen.index(fingerprint)]
            return {"model_utility": value, "forget_probability": 1 - value, "forget_quality": None, "mia_loss": 0.5}

        return measure

    monkeypatch.setattr("tu_train.run.by_command", by_command)
    return seen


def test_the_real_command_measures_what_a_run_of_so_many_steps_writes(unlearn, run_cli, tmp_path):
    given = {"eval_suite": SUITE, "eval_every": 2, "eval_limit": 2, "keep_best": "forget_fact_probability", **STEADY}
    out = unlearn(max_steps=3, **given)
    short = unlearn(max_steps=2, **STEADY)
    entries = log_of(out)
    assert [any(k.startswith("suite_") for k in entry) for entry in entries] == [False, True, False]
    assert weights_of(best_of(out)) == weights_of(short) and weights_of(out) != weights_of(short)
    code, *_ = run_cli("tu-eval", "run", "--model", short, "--suite", SUITE, "--limit", 2, "--set", "generate=false", "--device", "cpu",
                       "--out", tmp_path / "results")  # fmt: skip
    metrics = json.loads((tmp_path / "results" / "summary.json").read_text())["metrics"]
    assert code == 0
    assert {k.removeprefix("suite_"): v for k, v in entries[1].items() if k.startswith("suite_")} == {
        k: v for k, v in metrics.items() if v is not None
    }
    assert json.loads((best_of(out) / "training.json").read_text())["counts"]["steps"] == 2


def test_nothing_that_is_trained_changes_and_the_first_best_is_kept(unlearn, measured):
    plain, out = unlearn(max_steps=4, **STEADY), unlearn(max_steps=4, **STEADY, **GIVEN)
    assert weights_of(out) == weights_of(plain)
    assert [entry["suite_model_utility"] for entry in log_of(out)] == [0.3, 0.8, 0.5, 0.8]
    assert [entry["suite_forget_probability"] for entry in log_of(out)] == pytest.approx([0.7, 0.2, 0.5, 0.2])
    assert model_fingerprint(best_of(out)) == measured[2], "the first of two that are equal"
    assert not out.with_name(f"{out.name}.unfinished").exists()


def test_lower_is_better_for_what_is_to_be_forgotten(unlearn, measured):
    out = unlearn(max_steps=3, **STEADY, **{**GIVEN, "keep_best": "forget_probability"})
    assert model_fingerprint(best_of(out)) == measured[2]


def test_adapters_are_merged_in_a_copy(unlearn, measured):
    plain, out = unlearn(max_steps=3, lora=4, **STEADY), unlearn(max_steps=3, lora=4, **STEADY, **GIVEN)
    assert weights_of(out) == weights_of(plain)
    assert weights_of(best_of(out)) == weights_of(unlearn(max_steps=2, lora=4, **STEADY))


def test_a_killed_run_goes_on_to_the_same_end(unlearn, measured, monkeypatch, tmp_path):
    whole = unlearn(max_steps=4, **STEADY, **GIVEN)
    after = on_the_way.OnTheWay.after

    def killed(self, steps, entry):
        after(self, steps, entry)
        if steps == 3 and not self.config.resume:
            raise KeyboardInterrupt

    monkeypatch.setattr(on_the_way.OnTheWay, "after", killed)
    out = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        unlearn(out=out, max_steps=4, save_every=1, **STEADY, **GIVEN)
    unlearn(out=out, max_steps=4, save_every=1, resume=True, **STEADY, **GIVEN)
    assert weights_of(out) == weights_of(whole) and log_of(out) == log_of(whole)
    assert weights_of(best_of(out)) == weights_of(best_of(whole))


def test_a_run_killed_before_its_model_is_there_keeps_the_best_one(unlearn, measured, monkeypatch, tmp_path):
    out, write = tmp_path / "late", on_the_way.OnTheWay.publish
    whole = unlearn(max_steps=3, **STEADY, **GIVEN)

    def publish(self):
        write(self)
        if not self.config.resume:
            raise KeyboardInterrupt

    monkeypatch.setattr(on_the_way.OnTheWay, "publish", publish)
    with pytest.raises(KeyboardInterrupt):
        unlearn(out=out, max_steps=3, save_every=2, **STEADY, **GIVEN)
    assert best_of(out).is_dir() and not out.exists()
    unlearn(out=out, max_steps=3, save_every=2, resume=True, **STEADY, **GIVEN)
    assert weights_of(out) == weights_of(whole) and weights_of(best_of(out)) == weights_of(best_of(whole))


def test_what_cannot_work_is_refused_before_the_first_step(unlearn, measured, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'model_utility'"):
        unlearn(**{**GIVEN, "keep_best": "model_utilty"})
    with pytest.raises(ConfigError, match="forget_quality: has no value on this suite"):
        unlearn(**{**GIVEN, "keep_best": "forget_quality"})
    with pytest.raises(ConfigError, match="add --eval-every N"):
        unlearn(eval_suite="any")
    with pytest.raises(ConfigError, match="name it with --eval-suite SUITE"):
        unlearn(keep_best="model_utility")
    with pytest.raises(ConfigError, match="its goal is the value of the retain model"):
        unlearn(**{**GIVEN, "keep_best": "mia_loss"})
    taken = tmp_path / "taken"
    best_of(taken).mkdir()
    (best_of(taken) / "mine.txt").write_text("keep me")
    with pytest.raises(StoreError, match="best model"):
        unlearn(out=taken, **GIVEN)
    assert (best_of(taken) / "mine.txt").exists() and not list(tmp_path.glob("*.unfinished"))


def test_an_unknown_suite_is_told_by_the_command(unlearn):
    with pytest.raises(UserError, match=r"--eval-suite atals: .*did you mean 'atlas'"):
        unlearn(eval_suite="atals", eval_every=1)


def test_several_ranks_are_refused():
    config = UnlearnConfig(model="m", scores="s", retain=RETAIN, out="o", eval_suite=SUITE, eval_every=2)
    plan: Any = SimpleNamespace(config=config, objective=SimpleNamespace(pad_id=None))
    ranks: Any = SimpleNamespace(count=2)
    with pytest.raises(ConfigError, match="--eval-suite: 2 ranks"):
        check_ranks(plan, ranks)


def test_the_direction_is_that_of_the_evaluators_columns():
    for name in ("atlas", "tofu:forget01", "muse:news", "lume"):
        sets = [part.name for part in find_suite(name).sets] if name.startswith(("atlas", "tofu")) else ["forget", "retain"]
        kinds = ("probability", "fact_probability", "rouge", "truth_ratio", "exact_memorization", "extraction_strength", "knowmem")
        metrics = {f"{s}_{k}": 0.5 for s in sets for k in kinds} | dict.fromkeys(("forget_quality", "model_utility", "final_score"), 0.5)
        for column in columns_of({"rows": dict.fromkeys(sets, 1), "metrics": metrics | {"mia_loss": 0.5, "privleak": 1.0}}):
            if column.metric in ("mia_loss", "privleak"):
                assert column.better in (DOWN, ZERO)
                with pytest.raises(ConfigError):
                    lower_is_better(column.metric)
            else:
                assert lower_is_better(column.metric) is (column.better == DOWN) and column.better in (UP, DOWN)
