"""Estimators on drawn gradients whose truth is known, against loops written from the formulas; the sketch against its
own bound."""

import itertools

import numpy as np
import pytest
import torch

from tu_train.diagnose.measures import Gradients, measure_all
from tu_train.diagnose.sketch import CHUNK, Sketch, largest_prime, token_gradients
from tu_train.diagnose.snr import (
    RowSums,
    WeightingPair,
    against,
    aimed_snr,
    conflict_share,
    cosine,
    ideal_gain,
    jackknife,
    moments,
    row_sums,
    snr,
)


def drawn(rows: int, tokens: int, width: int, *, critical: int, signal: float, seed: int = 0):
    """The paper's model: the first `critical` tokens of a row have gradient μ + ε, the others ε; ‖μ‖ = signal, ε of
    variance 1 a number."""
    random = np.random.default_rng(seed)
    gradient = random.normal(size=(rows, tokens, width))
    gradient[:, :critical, 0] += signal
    return gradient.reshape(-1, width), np.repeat(np.arange(rows), tokens)


def weights_of(rows: int, tokens: int, chosen) -> np.ndarray:
    return np.tile([float(i in chosen) for i in range(tokens)], rows)


def small(seed: int = 0, rows: int = 5, width: int = 4):
    """Rows of unequal length with soft weights: nothing cancels by symmetry. -> gradients, rows, two weightings"""
    random = np.random.default_rng(seed)
    row_N = np.repeat(np.arange(rows), random.integers(1, 6, size=rows))
    gradient_NK = random.normal(size=(len(row_N), width)) + 0.7
    return gradient_NK, row_N, random.uniform(0.1, 2, size=(2, len(row_N)))


def sums_by_loop(gradient_NK, weight_N, row_N) -> tuple[np.ndarray, np.ndarray]:
    count = row_N.max() + 1
    a, w = np.zeros((count, gradient_NK.shape[1])), np.zeros(count)
    for g, weight, row in zip(gradient_NK, weight_N, row_N, strict=True):
        a[row] += weight * g
        w[row] += weight
    return a, w


def moments_by_loop(a, w, b, v):
    """M and C straight from their definitions."""
    count, mean_a, mean_b = len(a), a.sum(0) / w.sum(), b.sum(0) / v.sum()
    scatter = sum((a[r] - w[r] * mean_a) @ (b[r] - v[r] * mean_b) for r in range(count))
    c = scatter / ((count - 1) * w.mean() * v.mean())
    return mean_a @ mean_b - c / count, c


class TestTheory:
    """ρ·π·T/k on gradients drawn from the paper's own assumptions."""

    ROWS, TOKENS, CRITICAL, SIGNAL = 200, 20, 4, 12.0

    @pytest.fixture(scope="class")
    def measured(self):
        gradient, row = drawn(self.ROWS, self.TOKENS, 20, critical=self.CRITICAL, signal=self.SIGNAL)
        hard = weights_of(self.ROWS, self.TOKENS, {0, 1, 2, 10, 11})  # recall 3/4, precision 3/5
        weights = {
            "all": np.ones(len(row)),
            "hard": hard,
            "soft": 0.4 + 1.6 * weights_of(self.ROWS, self.TOKENS, range(4)),
            "given": weights_of(self.ROWS, self.TOKENS, range(4)),
        }
        kinds = ["name" if i % self.TOKENS < self.CRITICAL else "other" for i in range(len(row))]
        return measure_all(Gradients(gradient, row, None, {}), weights, kinds)

    def test_the_snr_of_all_tokens_is_the_known_one(self, measured):
        truth = (self.CRITICAL * self.SIGNAL) ** 2 / (self.TOKENS * 20)
        assert measured["weightings"]["all"]["snr"][0] == pytest.approx(truth, rel=0.15)

    @pytest.mark.parametrize(
        ("name", "truth"),
        [("hard", 3 / 4 * 3 / 5 * 20 / 4), ("given", 20 / 4), ("soft", 8.0**2 / (4 * 4 + 16 * 0.4**2) * 20 / 16)],
    )
    def test_gain_is_recall_times_precision_times_T_over_k(self, measured, name, truth):
        found = measured["weightings"][name]
        assert found["ideal_gain"] == pytest.approx(truth, rel=1e-12)
        assert found["gain"][0] == pytest.approx(truth, rel=0.15)
        assert found["aimed_gain"][0] == pytest.approx(truth, rel=0.15)
        assert abs(found["gain"][0] - truth) < 4 * found["gain"][1]

    def test_the_class_of_the_critical_tokens_is_the_given_weighting(self, measured):
        assert measured["classes"]["name"]["snr"] == measured["weightings"]["given"]["snr"]
        assert measured["classes"]["name"]["weight"] == pytest.approx(0.2)

    def test_a_class_of_noise_has_no_signal_beyond_its_error(self, measured):
        value, error = measured["classes"]["other"]["snr"]
        assert abs(value) < 4 * error < 0.1

    def test_a_weightings_share_of_each_class(self, measured):
        assert measured["weightings"]["hard"]["classes"] == pytest.approx({"name": 3 / 5, "other": 2 / 5})


def test_the_signal_is_unbiased_where_the_length_of_the_mean_is_not():
    truth, estimates, plain = (4 * 0.5 / 10) ** 2, [], []
    for seed in range(300):
        gradient, row = drawn(8, 10, 20, critical=4, signal=0.5, seed=seed)
        sums = row_sums(gradient, np.ones(len(row)), row, 8)
        estimates.append(moments(sums.sums_RK @ sums.sums_RK.T, sums.weight_R, sums.weight_R)[0])
        plain.append(np.square(sums.mean(np.arange(8))).sum())
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - truth) < 4 * error
    assert np.mean(plain) - truth > 20 * error


@pytest.mark.parametrize("seed", range(3))
def test_moments_are_those_of_the_definition(seed):
    gradient, row, (first, second) = small(seed)
    a, b = row_sums(gradient, first, row, 5), row_sums(gradient, second, row, 5)
    found = WeightingPair.of(a, b).moments(np.arange(5))
    assert found == pytest.approx(moments_by_loop(*sums_by_loop(gradient, first, row), *sums_by_loop(gradient, second, row)), rel=1e-10)


def test_rows_of_equal_weight_give_the_mean_over_pairs_of_different_rows():
    gradient, row = drawn(5, 3, 4, critical=1, signal=1.0)
    a, _ = sums_by_loop(gradient, np.ones(15), row)
    pairs = [a[r] @ a[s] for r, s in itertools.permutations(range(5), 2)]
    sums = row_sums(gradient, np.ones(15), row, 5)
    assert WeightingPair.of(sums, sums).moments(np.arange(5))[0] == pytest.approx(np.mean(pairs) / 9, rel=1e-10)


def test_aimed_snr_is_that_of_the_definition():
    gradient, row, (weight, aim) = small()
    own, target = row_sums(gradient, weight, row, 5), row_sums(gradient, aim, row, 5)
    a, w = sums_by_loop(gradient, weight, row)
    h, v = sums_by_loop(gradient, aim, row)
    (mean, noise), (along, _), (length, _) = moments_by_loop(a, w, a, w), moments_by_loop(a, w, h, v), moments_by_loop(h, v, h, v)
    signal = along**2 / length
    pairs = WeightingPair.of(own, own), WeightingPair.of(own, target), WeightingPair.of(target, target)
    assert aimed_snr(*pairs, np.arange(5)) == pytest.approx(signal / (noise + mean - signal), rel=1e-10)


def test_aimed_snr_takes_a_gradient_beside_the_aim_for_noise():
    """Tokens that share a direction of their own have signal, but none of what is aimed at."""
    gradient, row = drawn(300, 4, 10, critical=1, signal=3.0)
    gradient[2::4, 5] += 3.0
    aim, beside = (row_sums(gradient, weights_of(300, 4, {i}), row, 300) for i in (0, 2))
    every = np.arange(300)
    assert snr(WeightingPair.of(beside, beside), every) == pytest.approx(0.9, rel=0.15)
    assert aimed_snr(WeightingPair.of(beside, beside), WeightingPair.of(beside, aim), WeightingPair.of(aim, aim), every) < 0.01


def test_aimed_snr_of_weights_that_push_the_other_way_is_negative():
    gradient, row = drawn(100, 2, 5, critical=1, signal=3.0)
    gradient[1::2, 0] -= 3.0
    aim, away = (row_sums(gradient, weights_of(100, 2, {i}), row, 100) for i in (0, 1))
    found = aimed_snr(WeightingPair.of(away, away), WeightingPair.of(away, aim), WeightingPair.of(aim, aim), np.arange(100))
    assert found == pytest.approx(-9 / 5, rel=0.2)


def test_cosine_is_that_of_the_definition_and_of_the_means():
    random = np.random.default_rng(1)
    gradient, row = drawn(800, 2, 12, critical=2, signal=1.0)
    other = random.normal(size=(700, 12))
    other[:, 0] += 0.6
    other[:, 1] += 0.8
    own = row_sums(gradient, np.ones(1600), row, 800)
    against_rows = row_sums(other, np.ones(700), np.arange(700), 700)
    a, w = sums_by_loop(gradient, np.ones(1600), row)
    b, v = sums_by_loop(other, np.ones(700), np.arange(700))
    lengths = moments_by_loop(a, w, a, w)[0] * moments_by_loop(b, v, b, v)[0]
    found = cosine(WeightingPair.of(own, own), WeightingPair.of(against_rows, against_rows), np.arange(800), np.arange(700))
    assert found == pytest.approx(a.sum(0) / w.sum() @ b.sum(0) / v.sum() / np.sqrt(lengths), rel=1e-10)
    assert found == pytest.approx(0.6, abs=0.1)


def test_conflict_share_is_that_of_the_definition():
    gradient, _, (weight, _) = small()
    retain = np.array([1.0, -2.0, 0.5, 0.3])
    top = bottom = 0.0
    for g, w in zip(gradient, weight, strict=True):
        cosine_of_forget_loss = -g @ retain / (np.linalg.norm(g) * np.linalg.norm(retain))
        top += w * max(0.0, -cosine_of_forget_loss) * np.linalg.norm(g)
        bottom += w * np.linalg.norm(g)
    assert conflict_share(weight, *against(gradient, retain)) == pytest.approx(top / bottom, rel=1e-12)


@pytest.mark.parametrize(("sign", "share"), [(1, 1.0), (-1, 0.0)])
def test_conflict_share_is_all_where_both_want_the_opposite(sign, share):
    """A forget token whose NLL falls along with the retain rows' cannot be forgotten without harm."""
    retain = np.array([3.0, 4.0])
    assert conflict_share(np.ones(2), *against(sign * np.array([retain, 2 * retain]), retain)) == pytest.approx(share)


def test_the_report_tells_conflict_with_the_error_of_both_samples():
    random = np.random.default_rng(2)
    gradient, row = drawn(12, 3, 6, critical=3, signal=2.0)
    sums, lengths = random.normal(size=(9, 6)) + np.array([3.0, 0, 0, 0, 0, 0]), random.integers(1, 5, size=9).astype(float)
    weight = random.uniform(0.1, 1, size=36)
    found = measure_all(Gradients(gradient, row, RowSums(sums, lengths), {}), {"all": np.ones(36), "soft": weight}, ["other"] * 36)

    def cosine_without(forget=(), retain=()):
        a, w = (x[[r for r in range(12) if r not in forget]] for x in sums_by_loop(gradient, weight, row))
        b, v = (x[[r for r in range(9) if r not in retain]] for x in (sums, lengths))
        squares = moments_by_loop(a, w, a, w)[0] * moments_by_loop(b, v, b, v)[0]
        return a.sum(0) / w.sum() @ b.sum(0) / v.sum() / np.sqrt(squares)

    def share_without(forget=-1):
        kept, retain = row != forget, sums.sum(0) / np.linalg.norm(sums.sum(0))
        return weight[kept] @ np.maximum(gradient[kept] @ retain, 0) / (weight[kept] @ np.linalg.norm(gradient[kept], axis=1))

    def spread(values):
        return (len(values) - 1) * np.var(values)

    value, error = found["weightings"]["soft"]["cosine"]
    assert value == pytest.approx(-cosine_without(), rel=1e-9) and value < -0.8  # both want more of μ: forgetting it hurts
    variance = spread([cosine_without(forget=[r]) for r in range(12)]) + spread([cosine_without(retain=[r]) for r in range(9)])
    assert error == pytest.approx(np.sqrt(variance), rel=1e-9)
    expected = share_without(), np.sqrt(spread([share_without(r) for r in range(12)]))
    assert found["weightings"]["soft"]["conflict_share"] == pytest.approx(expected, rel=1e-9)
    assert found["retain_rows"] == 9


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=13)
    value, error = jackknife(lambda kept: float(values[kept].mean()), 13)
    assert value == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(13))


def test_the_jackknife_error_of_snr_is_the_spread_over_fresh_rows():
    found = []
    for seed in range(150):
        gradient, row = drawn(40, 5, 10, critical=2, signal=2.0, seed=seed)
        sums = row_sums(gradient, np.ones(len(row)), row, 40)
        pair = WeightingPair.of(sums, sums)
        found.append(jackknife(lambda kept, pair=pair: snr(pair, kept), 40))
    values, errors = np.array(found).T
    assert errors.mean() == pytest.approx(values.std(), rel=0.2)


def test_ideal_gain_of_whole_weights_is_recall_times_precision_times_T_over_k():
    weight, critical = np.zeros(50), np.zeros(50, dtype=bool)
    critical[:10] = True
    weight[4:20] = 1  # 6 of 10 found, 6 of 16 right
    assert ideal_gain(weight, critical) == pytest.approx(6 / 10 * 6 / 16 * 50 / 10)


def test_what_cannot_be_told_is_null():
    """Without weight, without a second row to compare with, and where noise drowns the signal."""
    gradient, row = drawn(4, 3, 5, critical=0, signal=0.0)
    weights = {"all": np.ones(12), "none": np.zeros(12), "one": (row == 0).astype(float)}
    kinds = ["other"] * 12
    with np.errstate(invalid="ignore", divide="ignore"):
        found = measure_all(Gradients(gradient, row, None, {}), weights, kinds)["weightings"]
    assert found["none"]["snr"] is None and found["none"]["classes"] == {"other": None}
    assert found["one"]["snr"][1] is None


class TestSketch:
    @pytest.mark.parametrize(("limit", "prime"), [(3, 3), (4, 3), (16, 13), (4096, 4093), (4093, 4093)])
    def test_largest_prime(self, limit, prime):
        assert largest_prime(limit) == prime

    def test_it_is_a_linear_map_of_signed_buckets(self):
        """Column by column: each number lands in one bucket with one sign; the same seed gives the same map."""
        sizes = [30, 7, 1]
        columns = []
        for at in range(38):
            unit = torch.eye(38)[at]
            columns.append(Sketch(sizes, 5, seed=3)(unit.split(sizes)))
        matrix = torch.stack(columns, 1)
        assert torch.equal(matrix.abs().sum(0), torch.ones(38))
        x = torch.randn(38, dtype=torch.float64)
        torch.testing.assert_close(Sketch(sizes, 5, seed=3)(x.split(sizes)), matrix.double() @ x)
        assert not torch.equal(Sketch(sizes, 5, seed=4)(x.split(sizes)), Sketch(sizes, 5, seed=3)(x.split(sizes)))

    @pytest.mark.parametrize("like", ["dense", "constant", "blocks", "one column", "chunk starts"])
    def test_inner_products_are_right_on_average_and_within_the_variance_bound(self, like, monkeypatch):
        """Over 1500 draws of the sketch; vectors of one sign in aligned blocks would show a fold without its shears or
        signs."""
        monkeypatch.setattr(
            "tu_train.diagnose.sketch.CHUNK", 120 if like == "chunk starts" else 600
        )  # several chunks, or some of many rows
        random, buckets, sizes = np.random.default_rng(5), 31, [700, 90]
        x, y = random.normal(size=(2, 790))
        if like == "constant":  # the bound's worst case: x = y, so that pairs of equal sign would add up
            x = y = np.ones(790)
        if like == "blocks":
            x, y = np.repeat([1.0, 0.0], 395), np.tile([1.0, 0.5], 395)
        if like == "one column":
            x, y = x * (np.arange(790) % 31 == 0), y * (np.arange(790) % 31 == 0)
        if like == "chunk starts":  # would always meet if buckets of all chunks began at the same place
            x, y = x * (np.arange(790) % 124 == 0), y * (np.arange(790) % 124 == 0)
            assert Sketch(sizes, buckets, seed=0).length == 124
        x_sizes, y_sizes = (torch.tensor(v).split(sizes) for v in (x, y))
        found = np.array([float(s(x_sizes) @ s(y_sizes)) for s in (Sketch(sizes, buckets, seed) for seed in range(1500))])
        bound = 2 * (x @ x) * (y @ y) / (buckets - 1)
        assert abs(found.mean() - x @ y) < 4 * np.sqrt(bound / len(found))
        assert found.var() < bound

    def test_a_parameter_without_gradient_counts_as_zeros(self):
        sketch, x = Sketch([6, 9], 7, seed=0), torch.randn(6)
        assert torch.equal(sketch([x, None]), sketch([x, torch.zeros(9)]))
        assert torch.equal(sketch([None, None]), torch.zeros(7))

    def test_a_chunk_has_no_more_rows_than_buckets(self):
        """Or two of its rows would always meet; large buckets end a chunk by its size."""
        assert Sketch([1000], 7, seed=0).length == 49
        assert Sketch([10], 4093, seed=0).length == (CHUNK // 4093 + 1) * 4093 <= 4093**2

    def test_token_gradients_are_those_of_each_tokens_nll(self):
        weight = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
        unused = torch.randn(2, requires_grad=True)
        logp = (weight @ torch.randn(3, 5, dtype=torch.float64)).log_softmax(0)[1].square()
        sketch = Sketch([12, 2], 11, seed=0)
        expected = [sketch([torch.autograd.grad(-one, weight, retain_graph=True)[0], None]) for one in logp]
        for found, one in zip(token_gradients(list(logp), [weight, unused], sketch), expected, strict=True):
            torch.testing.assert_close(found, one)
