"""Intervals over seeds: a share's stays on its scale and still holds the true mean as often as it says."""

import math

import numpy as np
import pytest

from tests.tu_eval.made import make_model, make_results
from tu_eval.compare.bars import charts
from tu_eval.compare.comparison import load_comparison
from tu_eval.compare.intervals import over_seeds
from tu_eval.results.columns import columns_of

T_2, T_1 = 4.302652729911275, 12.706204736432095  # t(0.975) of 2 and 1 degrees of freedom


def test_a_share_has_the_interval_of_its_log_odds():
    e = over_seeds([0.01, 0.02, 0.06], share=True)
    mean, spread = 0.03, math.sqrt((0.02**2 + 0.01**2 + 0.03**2) / 2)
    half = T_2 * spread / math.sqrt(3)
    odds = math.log(mean / (1 - mean))
    low, high = (1 / (1 + math.exp(-odds + sign * half / (mean * (1 - mean)))) for sign in (1, -1))
    assert e.value == pytest.approx(mean) and e.span == pytest.approx((low, high), rel=1e-9) and e.source == "seeds"
    assert mean - half < 0 < low < mean < high < 1
    mirrored = over_seeds([0.99, 0.98, 0.94], share=True)
    assert mirrored.span == pytest.approx((1 - high, 1 - low), rel=1e-9)
    close = over_seeds([0.500, 0.501, 0.502], share=True)  # in the middle it is the plain one
    assert close.span == pytest.approx(over_seeds([0.500, 0.501, 0.502]).span, rel=1e-4)


@pytest.mark.parametrize("values", [[0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0], [0.0, 1e-300], [0.0, 0.2], [1.0, 1 - 1e-12], [0.3, 0.3, 0.3]])
def test_ends_of_the_scale_and_equal_seeds(values):
    e = over_seeds(values, share=True)
    assert e.value == pytest.approx(sum(values) / len(values)) and 0 <= e.span[0] <= e.value <= e.span[1] <= 1
    assert (e.span[1] - e.span[0] < 1e-12) == (max(values) - min(values) < 1e-100)


def test_the_interval_holds_the_true_mean_of_skewed_shares_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for a, b, n in ((2, 60, 3), (60, 2, 3), (20, 20, 2), (2, 60, 5)):
        drawn = rng.beta(a, b, (1500, n))
        true = a / (a + b)

        def held(share, drawn=drawn, true=true):
            spans = [over_seeds(list(map(float, values)), share=share).span for values in drawn]
            return sum(low <= true <= high for low, high in spans) / len(spans)

        assert 0.93 < held(True) < 0.97 and held(True) >= held(False)
    assert held(False) < 0.935  # mean ± t, cut off or not, is too short there


def test_only_shares_are_bounded():
    metrics = ["forget_quality", "model_utility", "forget_probability", "my_world_rouge", "forget_made_up", "mia_min_k", "privleak", "odd"]
    columns = columns_of({"rows": {"forget": 1, "my_world": 1}, "metrics": dict.fromkeys(metrics, 0.5)})
    assert {c.metric for c in columns if c.share} == {"model_utility", "forget_probability", "my_world_rouge", "mia_min_k"}


def seeds(place, values, **settings):
    """Results of one recipe, with these metrics, a seed each."""
    out = []
    for seed, metrics in enumerate(values):
        name = f"{place.name}-{seed}"
        model, print_ = make_model(place / "models" / name, word=name, method="npo", tokens="hard", seed=seed, **settings)
        out.append(make_results(place / name, name, seed=seed, model=model, model_fingerprint=print_, metrics=metrics, reasons={}))
    return out


def test_the_comparison_keeps_shares_on_their_scale_and_others_as_they_are(made_up, tmp_path):
    low = [{"model_utility": u, "forget_rouge": 1 - u, "privleak": -80 + 60 * u} for u in (0.0, 0.1, 0.9)]
    comparison = load_comparison(seeds(tmp_path / "a", low))
    table = comparison.table()
    found = {c.metric: e for c, e in zip(comparison.columns, table[0], strict=True)}
    for metric in ("model_utility", "forget_rouge"):
        assert found[metric].n == 3 and 0 < found[metric].span[0] < found[metric].value < found[metric].span[1] < 1
    assert found["privleak"] == over_seeds([-80.0, -74.0, -26.0]) and found["privleak"].span[0] < -100
    bar = {c.column.metric: c.methods[0][1][0] for c in charts(comparison, table)}
    start, width = bar["privleak"].whisker  # all of it is on the track
    low, high = found["privleak"].span
    zero = bar["privleak"].start + bar["privleak"].width
    scale = bar["privleak"].width / -found["privleak"].value
    assert (start, start + width) == pytest.approx((zero + scale * low, zero + scale * high))
