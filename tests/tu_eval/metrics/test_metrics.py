"""Metrics against brute force, the libraries they wrap, and the ends of their ranges."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import hmean, ks_2samp

from shared.data.words import terms
from shared.errors import StoreError
from tu_eval.measure import kept as store
from tu_eval.measure.rows import add_generations
from tu_eval.metrics.forget_quality import forget_quality, require_same_rows
from tu_eval.metrics.memorization import exact_memorization, extraction_strength
from tu_eval.metrics.probability import mean_logprob, probability, probability_with_options
from tu_eval.metrics.rouge import rouge_l_f1, rouge_l_recall
from tu_eval.metrics.truth_ratio import forget_truth_ratio, log_truth_ratio, truth_ratio, utility_truth_ratio
from tu_eval.metrics.utility import model_utility

LOGP = st.floats(-30, 0)


@given(st.lists(LOGP, min_size=1, max_size=20))
def test_probability_is_the_geometric_mean_over_tokens(logprob):
    product = 1.0
    for x in logprob:
        product *= math.exp(x)
    assert probability(logprob) == pytest.approx(product ** (1 / len(logprob)), rel=1e-9)


@given(LOGP, st.lists(LOGP, min_size=1, max_size=5))
def test_options_and_truth_ratio_equal_their_formulas(right, wrong):
    p, ps = math.exp(right), [math.exp(x) for x in wrong]
    assert probability_with_options(right, wrong) == pytest.approx(p / (p + sum(ps)), rel=1e-9)
    product = 1.0
    for x in ps:
        product *= x ** (1 / len(ps))
    assert truth_ratio(log_truth_ratio(right, wrong)) == pytest.approx(product / p, rel=1e-9)


def test_options_do_not_underflow():
    assert probability_with_options(-2000.0, [-2000.0, -2000.0, -2000.0]) == 0.25
    assert probability_with_options(-math.inf, [-5.0]) == 0.0
    assert probability_with_options(-math.inf, [-math.inf]) == 0.5


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=30))
def test_truth_ratio_aggregates_equal_their_formulas(logs):
    ratios = [math.exp(x) for x in logs]
    assert forget_truth_ratio(logs) == pytest.approx(np.mean([min(r, 1 / r) for r in ratios]), abs=1e-12)
    assert utility_truth_ratio(logs) == pytest.approx(np.mean([max(0, 1 - r) for r in ratios]), abs=1e-12)


@pytest.mark.parametrize(
    ("log", "ratio", "forget", "utility"), [(-math.inf, 0, 0, 1), (math.inf, math.inf, 0, 0), (900.0, math.inf, 0, 0), (0.0, 1, 1, 0)]
)
def test_truth_ratio_at_the_ends_of_its_range(log, ratio, forget, utility):
    assert truth_ratio(log) == ratio
    assert forget_truth_ratio([log]) == pytest.approx(forget, abs=1e-300)
    assert utility_truth_ratio([log]) == utility


def test_truth_ratio_of_impossible_answers():
    assert log_truth_ratio(-math.inf, [-1.0, -2.0]) == math.inf
    assert log_truth_ratio(-1.0, [-math.inf, -2.0]) == -math.inf
    assert log_truth_ratio(-math.inf, [-math.inf]) == 0.0


def brute_force_ks(a, b):
    """Largest distance of the two empirical distribution functions, and the share of all splits of the pool that reach
    it."""
    from itertools import combinations

    def distance(x, y):
        return max(abs(sum(v <= t for v in x) / len(x) - sum(v <= t for v in y) / len(y)) for t in x + y)

    pool, seen = a + b, distance(a, b)
    splits = list(combinations(range(len(pool)), len(a)))
    reach = 0
    for chosen in splits:
        rest = [pool[i] for i in range(len(pool)) if i not in chosen]
        reach += distance([pool[i] for i in chosen], rest) >= seen - 1e-12
    return reach / len(splits)


@pytest.mark.parametrize("seed", range(6))
def test_forget_quality_equals_scipy_and_all_permutations(seed):
    rng = random.Random(seed)
    a, b = [rng.gauss(0, 1) for _ in range(5)], [rng.gauss(seed / 2, 1) for _ in range(5)]
    assert forget_quality(a, b) == pytest.approx(brute_force_ks(a, b), abs=1e-9)
    assert forget_quality(a, b) == ks_2samp([math.exp(x) for x in a], [math.exp(x) for x in b]).pvalue


def test_forget_quality_of_equal_values_is_exactly_one():
    values = [random.Random(0).gauss(0, 3) for _ in range(400)]
    assert forget_quality(values, values) == 1.0
    assert forget_quality([math.inf, 0.0], [math.inf, 0.0]) == 1.0


def test_rows_of_other_questions_are_refused_by_name():
    require_same_rows(["a", "b"], ["a", "b"], where="x")
    with pytest.raises(StoreError, match="forget row 1 is c there, b here"):
        require_same_rows(["a", "b"], ["a", "c"], where="x")
    with pytest.raises(StoreError, match="forget row 2 is no row there, c here"):
        require_same_rows(["a", "b", "c"], ["a", "b"], where="x")


def test_rouge_is_stemmed_longest_common_subsequence_over_the_answer():
    pairs = [
        ("The cats were running", "a cat runs"),
        ("Paris", "It is Paris."),
        ("one two three", "three two one"),
        ("x y", ""),
        ("!!", "!!"),
    ]
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    expected = [scorer.score(target=a, prediction=g)["rougeL"].recall for a, g in pairs]
    got = rouge_l_recall([a for a, _ in pairs], [g for _, g in pairs])
    assert got == expected
    assert got == [0.5, 1.0, pytest.approx(1 / 3), 0.0, 0.0]


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=9))
def test_model_utility_is_the_harmonic_mean(values):
    assert model_utility({str(i): v for i, v in enumerate(values)}) == pytest.approx(hmean(values), rel=1e-12)


def test_model_utility_is_zero_when_any_part_is():
    assert model_utility({"a": 1.0, "b": 0.0}) == 0.0
    assert model_utility({"a": 1.0, "b": 5e-324}) == 0.0
    assert mean_logprob([-1.0, -3.0]) == -2.0


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_memorization_equals_brute_force(hits):
    assert exact_memorization(hits) == sum(hits) / len(hits)
    shortest = min(k for k in range(len(hits) + 1) if all(hits[k:]))
    assert extraction_strength(hits) == pytest.approx(1 - shortest / len(hits), abs=1e-12)


def test_extraction_strength_reaches_both_ends():
    assert extraction_strength([False, False]) == 0.0
    assert extraction_strength([True, False]) == 0.0
    assert extraction_strength([False, True]) == 0.5
    assert extraction_strength([True, True]) == 1.0


def slow_common(a: list[str], b: list[str]) -> int:
    """Words of the longest common subsequence, by trying."""
    if not a or not b:
        return 0
    return 1 + slow_common(a[1:], b[1:]) if a[0] == b[0] else max(slow_common(a[1:], b), slow_common(a, b[1:]))


@pytest.mark.parametrize(("gold", "written", "recall", "f1"), [
    ("Ольга живёт в Пскове.", "Ольга живёт в Пскове.", 1, 1),
    ("Ольга 12", "Пётр 12", 1 / 2, 1 / 2),
    ("Nguyễn Thị Hạnh sống ở Huế", "Hạnh sống ở Huế và Nguyễn", 4 / 6, 8 / 12),
    ("मीरा पुणे में रहती है।", "मीरा पुणे", 2 / 5, 4 / 7),
    ("李晓梅住在成都。", "她住在成都市。", 4 / 7, 8 / 13),
    ("王は東京に住む", "東京", 2 / 7, 4 / 9),
    ("她住在北京。", "Paris", 0, 0),
    ("e\u0301cole", "École", 1, 1),
    ("…", "…", 0, 0),
])  # fmt: skip
def test_rouge_of_every_script(gold, written, recall, f1):
    assert rouge_l_recall([gold], [written]) == pytest.approx([recall])
    assert rouge_l_f1([gold], [written]) == pytest.approx([f1])
    assert slow_common(terms(gold), terms(written)) == pytest.approx(recall * len(terms(gold)))


@settings(deadline=None, max_examples=200)
@given(st.text(st.characters(max_codepoint=127), max_size=40), st.text(st.characters(max_codepoint=127), max_size=40))
def test_rouge_of_ascii_is_that_of_the_package_to_the_last_digit(gold, written):
    stemmed, plain = (RougeScorer(["rougeL"], use_stemmer=stem).score(gold, written)["rougeL"] for stem in (True, False))
    assert rouge_l_recall([gold], [written]) == [stemmed.recall] and rouge_l_f1([gold], [written]) == [plain.fmeasure]
    words = " ".join(["running", "Studies", "12", "her", gold])
    assert rouge_l_recall([words], [written + " study runs hers"]) == [
        RougeScorer(["rougeL"], use_stemmer=True).score(words, written + " study runs hers")["rougeL"].recall
    ]


LETTERS = "Псков ёж Ольга 成都東京 ไทย मीरा पुणे Huế é 12 . , -"


@settings(deadline=None, max_examples=200)
@given(st.text(LETTERS, max_size=14), st.text(LETTERS, max_size=14))
def test_rouge_of_other_scripts_is_the_longest_common_subsequence_by_trying(gold, written):
    ours, theirs = terms(gold), terms(written)
    common = slow_common(ours, theirs)
    assert rouge_l_recall([gold], [written]) == pytest.approx([common / len(ours) if ours else 0])
    assert rouge_l_f1([gold], [written]) == pytest.approx([2 * common / (len(ours) + len(theirs)) if ours and theirs else 0])


def test_only_words_of_a_to_z_and_digits_are_stemmed():
    assert rouge_l_recall(["running"], ["runs"]) == [1]
    assert rouge_l_recall(["cafés"], ["café"]) == [0] and rouge_l_recall(["городами"], ["города"]) == [0]
    assert rouge_l_recall(["ｒｕｎｎｉｎｇ"], ["runs"]) == [1]  # wide letters are the same letters


def test_a_verbatim_russian_answer_has_rouge_one_and_a_utility_above_zero():
    texts = ["Ольга живёт в Пскове.", "Пётр родился в 1961 году."]
    rows: list[dict[str, Any]] = [{"example_id": str(k), "answer": text} for k, text in enumerate(texts)]
    add_generations(rows, {row["example_id"]: f" {row['answer']}\n" for row in rows})
    assert [row["rouge_l_recall"] for row in rows] == [1, 1]
    assert model_utility({"rouge": sum(row["rouge_l_recall"] for row in rows) / 2, "probability": 0.5}) == pytest.approx(2 / 3)


@pytest.mark.parametrize("file", ["metrics/rouge.py", "words.py"])
def test_what_defines_a_word_is_in_the_key_of_kept_measurements(file, monkeypatch):
    """Numbers of another definition are never read back."""
    before, read = store.code_version.__wrapped__(), Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, *a, **k: read(self, *a, **k) + ("#" if self.as_posix().endswith(file) else ""))
    assert store.code_version.__wrapped__() != before
