"""A plan says what is trained on what before any model is loaded."""

from dataclasses import FrozenInstanceError

import pytest

from tests.tu_train.conftest import FULL, RETAIN, ROWS
from tu_train import load
from tu_train.config import FinetuneConfig, UnlearnConfig
from tu_train.gather import gather_finetuning, gather_unlearning
from tu_train.methods.retain_terms import RETAIN_TERMS
from tu_train.methods.table import METHODS
from tu_train.plan import plan_finetuning, plan_unlearning


@pytest.fixture
def unlearning(target, scores, monkeypatch):
    monkeypatch.setattr(load, "load_model", None)

    def make(**fields):
        given = {"model": str(target), "scores": str(scores), "retain": RETAIN, "out": "o", "device": "cpu", **fields}
        config = UnlearnConfig(**given).filled()
        return plan_unlearning(config, gather_unlearning(config))

    return make


def test_rows_and_steps_are_counted_and_streamed(unlearning):
    plan = unlearning(epochs=3, batch_size=4, tokens="all")
    assert plan.rows == {"forget_rows": ROWS, "retain_rows": ROWS} and plan.steps == 6
    sizes = [[(len(p.forget), len(p.retain)) for p in step] for step in plan.stream(0)]
    assert len(sizes) == 6 and sum(n for step in sizes for n, _ in step) == sum(n for step in sizes for _, n in step) == 3 * ROWS
    assert [[i.name for p in step for i in p.forget] for step in plan.stream(4)] == [
        [i.name for p in step for i in p.forget] for step in list(plan.stream(0))[4:]
    ]
    with pytest.raises(FrozenInstanceError):
        plan.steps = 3  # type: ignore[misc]


def test_the_objective_is_the_methods_unless_the_settings_say_otherwise(unlearning):
    plan = unlearning(method="kl", gamma=0.0)
    assert plan.objective.method is METHODS["kl"] and (plan.objective.gamma, plan.objective.alpha) == (0.0, 1.0)
    assert plan.objective.retain is RETAIN_TERMS["kl"] and plan.objective.reads_start
    assert not unlearning(method="npo").objective.reads_start


def test_retain_rows_that_no_term_holds_are_evaluated_and_not_trained_on(unlearning):
    plan = unlearning(method="ga", eval_every=1, eval_rows=2)
    assert plan.corpora[0].retain is None and plan.rows["retain_rows"] == 0 and plan.objective.retain is None
    assert plan.evaluation is not None and len(plan.evaluation.retain) == 2


def test_fine_tuning_trains_on_retain_rows(tiny_model):
    config = FinetuneConfig(model=str(tiny_model), data=FULL, out="o", epochs=2, batch_size=5, limit=7)
    plan = plan_finetuning(config, gather_finetuning(config))
    assert plan.corpora == () and plan.rows == {"rows": 7} and plan.steps == 4
    passes = [one for step in plan.stream(0) for one in step]
    assert sum(len(one.retain) for one in passes) == 14 and not any(one.forget for one in passes)
    assert plan.about.task == "finetune" and plan.about.settings["epochs"] == 2


def test_in_file_order_rows_come_as_they_stand_in_the_data_in_every_epoch(unlearning):
    plan = unlearning(method="ga", tokens="all", order="file", epochs=2, batch_size=2)
    names = [item.name for step in plan.stream(0) for rows in step for item in rows.forget]
    stands = [row["example_id"] for row in plan.corpora[0].forget.store.rows(["example_id"])]
    assert len(stands) == ROWS and names == stands * 2
    drawn = unlearning(method="ga", tokens="all", epochs=2, batch_size=2)
    assert [item.name for step in drawn.stream(0) for rows in step for item in rows.forget] != names
