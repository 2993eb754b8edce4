"""Signal and noise of a token weighting, estimated from gradients of a few rows. Numbers only; no model, no files.

Weights w turn the token gradients g_t of a row r into a_r = Σ_{t in r} w_t g_t and W_r = Σ_{t in r} w_t; the update
over R rows is ĝ = Σ a_r / Σ W_r, as in training (Σ w_t g_t / Σ w_t). Rows are independent draws; tokens of one row need
not be. For one row a step:

    signal   ‖E ĝ‖²               what the update is on average
    noise    tr Cov(a_r − W_r ĝ) / (E W)²        how much one row strays from it; B rows: this / B
    SNR      signal / noise       1 / SNR rows make a step in which both are equal: the gradient noise scale B_simple =
                                  tr Σ / ‖G‖² of McCandlish et al. 2018 (arXiv 1812.06162, section 2.2 and appendix A),
                                  here in rows

Estimators, for two weightings x and y (x = y gives signal and noise of one):

    covariance  C = Σ_r ⟨a_r − W_r ĝ, b_r − V_r ĥ⟩ / ((R − 1) W̄ V̄)
    product     M = ⟨ĝ, ĥ⟩ − C / R

For rows of equal weight M is Σ_{r≠s} ⟨a_r, b_s⟩ / (R (R − 1) W̄ V̄), the mean over all pairs of disjoint rows, so it
carries no row's own noise and is unbiased (Hoeffding's U-statistic, 1948; split halves average to the same); for
unequal ones ĝ is a ratio estimator and the bias is O(1 / R) (Cochran, Sampling Techniques, ch. 6). M may come out
negative: no signal can be told from noise with so few rows. Everything is computed from inner products of rows, [R, R],
so the jackknife costs R of those, not R of the gradients.

Why this is the paper's quantity (TokenUnlearn, arXiv 2605.00364; see docs/diagnose.md): let k of T tokens have g_t = μ
+ ε_t, the others ε_t alone, ε_t independent with trace of covariance σ². Then signal ∝ (Σ_crit w)² ‖μ‖² and noise ∝ Σ
w² σ², so

    gain over uniform = SNR_w / SNR_1 = (Σ_crit w)² / Σ w² · T / k²

which is ρ·π·T/k for 0/1 weights with recall ρ and precision π (Σ_crit w = ρk, Σ w² = ρk / π).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RowSums:
    """What a weighting makes of each of R rows."""

    sums_RK: np.ndarray
    """a_r, sketched"""
    weight_R: np.ndarray
    """W_r"""

    def mean(self, kept: np.ndarray) -> np.ndarray:
        """ĝ of the rows `kept`, [K]."""
        return self.sums_RK[kept].sum(0) / self.weight_R[kept].sum()


def row_sums(gradient_NK: np.ndarray, weight_N: np.ndarray, row_N: np.ndarray, rows: int) -> RowSums:
    """Token gradients and weights -> row sums, float64. A row without weight counts as a row of zeros."""
    weight_RN = np.where(row_N == np.arange(rows)[:, None], weight_N, 0.0)
    return RowSums(weight_RN @ gradient_NK.astype(np.float64, copy=False), weight_RN.sum(1))


def moments(inner_RR: np.ndarray, first_R: np.ndarray, second_R: np.ndarray) -> tuple[float, float]:
    """-> (M, C) of two weightings: `inner_RR[r, s]` = ⟨a_r, b_s⟩, `first_R` and `second_R` their W_r and V_r. NaN where
    one has no weight.

    Both scale with the square of a gradient's length; R is at least 2.
    """
    rows = len(first_R)
    if not (first_R.sum() > 0 and second_R.sum() > 0):
        return float("nan"), float("nan")
    product = inner_RR.sum() / (first_R.sum() * second_R.sum())
    own = np.trace(inner_RR) - second_R @ inner_RR.sum(1) / second_R.sum() - first_R @ inner_RR.sum(0) / first_R.sum()
    covariance = (own + first_R @ second_R * product) / ((rows - 1) * first_R.mean() * second_R.mean())
    return float(product - covariance / rows), float(covariance)


@dataclass(frozen=True)
class WeightingPair:
    """Two weightings of the same rows, and how their moments are taken with some rows left out."""

    first: RowSums
    second: RowSums
    inner_RR: np.ndarray

    @classmethod
    def of(cls, first: RowSums, second: RowSums) -> WeightingPair:
        return cls(first, second, first.sums_RK @ second.sums_RK.T)

    def moments(self, kept: np.ndarray) -> tuple[float, float]:
        """`kept`: indices of the rows that count."""
        return moments(self.inner_RR[np.ix_(kept, kept)], self.first.weight_R[kept], self.second.weight_R[kept])


def snr(rows: WeightingPair, kept: np.ndarray) -> float:
    """Signal over noise of one row a step; the pair is a weighting with itself."""
    signal, noise = rows.moments(kept)
    return ratio(signal, noise)


def aimed_snr(own: WeightingPair, towards: WeightingPair, aim: WeightingPair, kept: np.ndarray) -> float:
    """As `snr`, but only what points along the mean gradient h of the critical tokens is signal, and everything else
    noise.

    signal ⟨E ĝ, h⟩² / ‖h‖², with the sign of ⟨E ĝ, h⟩; noise E‖ĝ‖² of one row − |signal|. `own`: the weighting with
    itself, `towards`: with the critical tokens, `aim`: those with themselves. In the paper's model all of E ĝ lies
    along h, so both definitions agree.
    """
    (mean, noise), (along, _), (length, _) = own.moments(kept), towards.moments(kept), aim.moments(kept)
    if not length > 0:
        return float("nan")
    signal = along**2 / length
    return ratio(math.copysign(signal, along), mean + noise - signal)


def cosine(own: WeightingPair, other: WeightingPair, kept: np.ndarray, other_kept: np.ndarray) -> float:
    """Cosine of E ĝ with the mean gradient of other, independent rows; each pair is a weighting with itself.

    Lengths of sample means are too long by their noise, which would make noisy weightings look harmless; M has none of
    it. An estimate may lie beyond −1..1; cut off there, it would lose its error too.
    """
    (mean, _), (other_mean, _) = own.moments(kept), other.moments(other_kept)
    if not (mean > 0 and other_mean > 0):
        return float("nan")
    return float(own.first.mean(kept) @ other.first.mean(other_kept) / math.sqrt(mean * other_mean))


def ratio(a: float, b: float) -> float:
    """a / b, NaN where b is no positive number."""
    return a / b if b > 0 else float("nan")


def jackknife(estimate: Callable[[np.ndarray], float], rows: int) -> tuple[float, float]:
    """-> estimate from all rows, and its standard error from leaving each out (Efron & Stein 1981); R calls."""
    every = np.arange(rows)
    values = np.array([estimate(np.delete(every, r)) for r in every])
    return estimate(every), float(np.sqrt((rows - 1) / rows * np.square(values - values.mean()).sum()))


def ideal_gain(weight_N: np.ndarray, critical_N: np.ndarray) -> float:
    """(Σ_crit w)² / Σ w² · T / k²: the paper's ρ·π·T/k, for any weights. NaN without critical tokens or without
    weight."""
    count = critical_N.sum()
    return ratio(float(weight_N[critical_N].sum()) ** 2 * len(weight_N), float(np.square(weight_N).sum()) * float(count) ** 2)


def conflict_share(weight_N: np.ndarray, length_N: np.ndarray, against_N: np.ndarray) -> float:
    """Share, 0..1, of the token gradients' length that points against the retain gradient: Σ w · against / Σ w ·
    length."""
    return ratio(float(weight_N @ against_N), float(weight_N @ length_N))


def against(gradient_NK: np.ndarray, retain_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """-> ‖g_t‖ and max(0, ⟨g_t, r⟩ / ‖r‖), [N] each, for gradients of the NLL of forget tokens t and of the retain
    rows, r.

    Forgetting raises the NLL: its loss has the gradient −g_t, so where ⟨g_t, r⟩ > 0 the step that forgets this token
    raises the retain loss. Without any relation between the two the sketch alone makes a share of about 0.4 / √K of it.
    """
    length_N = np.linalg.norm(gradient_NK, axis=1)
    return length_N, np.maximum(gradient_NK @ retain_K / max(float(np.linalg.norm(retain_K)), 1e-300), 0.0)
