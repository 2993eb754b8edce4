"""The meta-evaluation: pairs counted one by one, and cases whose answers are known."""

import itertools
import math
import random

import pytest

from tu_eval.metrics.meta import faithfulness, harmonic, quantisation, relearning
from tu_eval.metrics.truth_ratio import truth_ratio_share


def test_faithfulness_is_the_share_of_pairs_in_which_the_model_with_the_knowledge_has_more():
    rng = random.Random(0)
    known, unknown = ([round(rng.gauss(mean, 1), 1) for _ in range(9)] for mean in (1, 0))
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(known, unknown)]
    assert 0.5 in pairs and faithfulness(known, unknown) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    assert faithfulness([0.9, 0.8], [0.1]) == 1 and faithfulness([0.1], [0.9, 0.8]) == 0 and faithfulness([0.5], [0.5]) == 0.5


def test_relearning_on_known_cases():
    assert relearning((0.1, 0.3), (0.1, 0.3)) == 1  # a model equal to the retain model gains as it does
    assert relearning((0.1, 0.1), (0.1, 0.9)) == 0  # everything was there, and the retain model learns nothing
    assert relearning((0.1, 0.3), (0.1, 0.5)) == pytest.approx(0.5, abs=1e-12)
    assert relearning((0.1, 0.5), (0.1, 0.2)) == 1  # at most 1
    assert relearning((0.1, 0.5), (0.9, 0.9)) == 1 and relearning((0.1, 0.5), (0.9, 0.7)) == 1  # it gains nothing
    assert relearning((0.3, 0.1), (0.1, 0.5)) == 0  # never below 0


def test_quantisation_on_known_cases():
    assert quantisation(0.2, 0.2) == quantisation(0.2, 0.1) == quantisation(0.0, 0.0) == 1
    assert quantisation(0.0, 0.5) == 0
    assert quantisation(0.2, 0.8) == pytest.approx(0.25, abs=1e-12)


def test_the_harmonic_mean():
    assert harmonic([0.5, 1.0]) == pytest.approx(2 / 3, abs=1e-12) and harmonic([0.0, 1.0]) == 0 and harmonic([0.3]) == pytest.approx(0.3)


def test_the_share_of_the_right_answer_is_that_of_the_two_probabilities():
    for right, wrong in ((0.5, [0.5, 0.5]), (0.9, [0.1, 0.4]), (1e-8, [0.3, 0.2])):
        mean = math.exp(sum(map(math.log, wrong)) / len(wrong))
        assert truth_ratio_share([math.log(mean / right)]) == pytest.approx(right / (right + mean), abs=1e-6)
    assert truth_ratio_share([math.inf]) == 0 and truth_ratio_share([-math.inf]) == 1 and truth_ratio_share([0.0, 800.0]) == 0.25
