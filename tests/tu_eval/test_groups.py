"""What is best among recipes, and what tells two of them apart."""

import pytest

from tests.tu_eval.made import make_results
from tu_eval.compare import load_comparison


def marks(place, metric, values, **references):
    """Marks of models with these values of one metric, in order; `references`: values of the target and the retain model."""
    every = {**{f"m{k}": value for k, value in enumerate(values)}, **references}
    results = [
        make_results(place / label, label, seed=k, metrics={metric: value}, reasons={}, utility_parts=[])
        for k, (label, value) in enumerate(every.items())
    ]
    comparison = load_comparison(results)
    return comparison.marks(0, comparison.table())[: len(values)]


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("metric", ["model_utility", "forget_quality", "mia_loss", "privleak"])
def test_nothing_is_best_where_all_are_equal(tmp_path, metric, value):
    assert marks(tmp_path, metric, [value] * 3) == ["", "", ""]


def test_equal_models_share_the_best_when_another_is_worse(tmp_path):
    assert marks(tmp_path / "a", "forget_quality", [0.5, 0.5, 0.4]) == ["best", "best", ""]
    assert marks(tmp_path / "b", "model_utility", [0.1 + 0.2, 0.3, 0.29]) == ["best", "best", ""]  # 0.30000000000000004
    assert marks(tmp_path / "c", "mia_loss", [0.7, 0.8, 0.7]) == ["best", "", "best"]
    assert marks(tmp_path / "d", "privleak", [-3.0, 3.0, 4.0]) == ["best", "best", ""]
    assert marks(tmp_path / "e", "model_utility", [0.5, None, 0.5]) == ["", "", ""]  # of those that have a value


def test_equally_far_from_the_retain_model_is_equal(tmp_path):
    assert marks(tmp_path / "a", "forget_probability", [0.4, 0.2], target=0.9, retain=0.3) == ["", ""]
    assert marks(tmp_path / "b", "forget_probability", [0.4, 0.2, 0.1], target=0.9, retain=0.3) == ["best", "best", ""]


def test_small_differences_that_are_real_are_no_ties(tmp_path):
    assert marks(tmp_path / "a", "forget_quality", [1e-30, 1e-20, 0.0]) == ["", "best", ""]
    assert marks(tmp_path / "b", "model_utility", [0.5, 0.5 + 1e-9]) == ["", "best"]
