"""An evaluation with the questions that nobody trained on, through the commands: today's numbers stay."""

import json

import pytest

from shared.asides import ASIDE, is_aside
from tests.tu_eval.conftest import SUITE


def test_the_numbers_of_today_stay_and_each_kind_of_question_has_its_own(run_cli, evaluate, tiny_model):
    out = evaluate(tiny_model, suite=f"{SUITE},questions=1", limit=2)
    plain = evaluate(tiny_model, limit=2)
    found, today = (json.loads((folder / "summary.json").read_text()) for folder in (out, plain))
    for name, value in today["metrics"].items():  # but for the order of sums in other batches
        assert found["metrics"][name] == (None if value is None else pytest.approx(value, rel=1e-6)), name
    assert found["utility_parts"] == today["utility_parts"] and set(found["rows"]) == {*today["rows"], *ASIDE}
    for name in ASIDE:
        for kind in ("probability", "fact_probability", "truth_ratio", "rouge"):
            assert found["metrics"][f"{name}_{kind}"] is not None
    code, _, err = run_cli("tu-eval", "verify", out)
    assert code == 0, err
    code, _, err = run_cli("tu-eval", "compare", out, "--out", out.parent / "page.html")
    assert code == 0, err


def test_a_set_of_ones_own_of_that_name_counts_as_it_did():
    assert all(is_aside("forget_alias", suite) for suite in ("atlas:questions=1", "atlas:people=9,questions=1", "tofu:forget01:questions"))
    assert not any(is_aside("forget_alias", suite) for suite in ("questions", "atlas", "atlas:people=9", "my.questions"))
    assert not is_aside("retain", "atlas:questions=1")
