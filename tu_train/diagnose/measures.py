"""Token gradients and weightings -> every number of a diagnosis. Definitions and estimators are those of snr.py.

`measure_all` gives each weighting, and each class of tokens as the weighting that is 1 on its tokens, an entry with

    tokens           how many have weight
    weight           share of the whole weight, 0..1: of a weighting in each class (`classes`), of a class among all
                     target tokens
    snr, gain        signal to noise of one row a step, and that over the SNR of `all`
    aimed_gain       the same with only what points along the true spans' mean gradient as signal; needs `given`
    ideal_gain       what the paper's formula makes of the weights alone; needs `given`
    conflict_share   share of the gradient's length against the retain gradient; needs retain rows
    cosine           of the forget loss's mean gradient with the retain loss's: below 0 they conflict; needs retain rows

Values are [estimate, standard error] or null where rows are too few to tell (ideal_gain: a number, it has no error).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tu_train.diagnose.snr import (
    RowSums,
    WeightingPair,
    against,
    aimed_snr,
    conflict_share,
    cosine,
    ideal_gain,
    jackknife,
    ratio,
    row_sums,
    snr,
)
from tu_train.diagnose.token_classes import CLASSES


@dataclass(frozen=True)
class Gradients:
    """Of the NLL, sketched to K numbers: one for each of N target tokens of the forget rows, one for each retain
    row."""

    gradient_NK: np.ndarray
    """float64"""
    row_N: np.ndarray
    """which forget row a token is of, 0 .. R-1"""
    retain: RowSums | None
    """sums over a retain row's target tokens, with their number as weight"""
    about: Mapping[str, Any]
    """goes into the report"""

    @property
    def rows(self) -> int:
        return int(self.row_N[-1]) + 1


def measure_all(gradients: Gradients, weights: Mapping[str, np.ndarray], kinds: Sequence[str]) -> dict[str, Any]:
    """`weights`: [N] of each weighting, `all` among them; `kinds`: each token's entry of CLASSES. -> plain JSON
    values."""
    kinds_N = np.array(kinds)
    members = {name: (kinds_N == name).astype(np.float64) for name in CLASSES if (kinds_N == name).any()}
    shared = _Shared.of(gradients, weights)
    return {
        **gradients.about,
        "rows": gradients.rows,
        "tokens": len(kinds),
        "retain_rows": 0 if gradients.retain is None else len(gradients.retain.weight_R),
        "weightings": {
            name: {
                **shared.measure(weight_N),
                "classes": {kind: _number(ratio(float(weight_N @ member_N), float(weight_N.sum()))) for kind, member_N in members.items()},
            }
            for name, weight_N in weights.items()
        },
        "classes": {kind: {"weight": float(member_N.mean()), **shared.measure(member_N)} for kind, member_N in members.items()},
    }


@dataclass(frozen=True)
class _Shared:
    """What every weighting is compared with."""

    gradients: Gradients
    uniform: WeightingPair
    critical_N: np.ndarray | None
    """which tokens lie in a true span"""
    aim: WeightingPair | None
    """their weighting with itself"""
    retain: WeightingPair | None
    length_N: np.ndarray | None
    against_N: np.ndarray | None

    @classmethod
    def of(cls, gradients: Gradients, weights: Mapping[str, np.ndarray]) -> _Shared:
        def pair(weight_N: np.ndarray) -> WeightingPair:
            rows = row_sums(gradients.gradient_NK, weight_N, gradients.row_N, gradients.rows)
            return WeightingPair.of(rows, rows)

        given, retain = weights.get("given"), gradients.retain
        return cls(
            gradients,
            pair(weights["all"]),
            None if given is None else given > 0,
            None if given is None else pair(given),
            None if retain is None else WeightingPair.of(retain, retain),
            *((None, None) if retain is None else against(gradients.gradient_NK, retain.mean(np.arange(len(retain.weight_R))))),
        )

    def measure(self, weight_N: np.ndarray) -> dict[str, Any]:
        rows = row_sums(self.gradients.gradient_NK, weight_N, self.gradients.row_N, self.gradients.rows)
        own = WeightingPair.of(rows, rows)
        out = {
            "tokens": int((weight_N > 0).sum()),
            "snr": self._estimate(lambda kept: snr(own, kept)),
            "gain": self._estimate(lambda kept: ratio(snr(own, kept), snr(self.uniform, kept))),
        }
        if self.aim is not None and self.critical_N is not None:
            towards, uniform_towards, aim = (
                WeightingPair.of(rows, self.aim.first),
                WeightingPair.of(self.uniform.first, self.aim.first),
                self.aim,
            )
            out["aimed_gain"] = self._estimate(
                lambda kept: ratio(aimed_snr(own, towards, aim, kept), aimed_snr(self.uniform, uniform_towards, aim, kept))
            )
            out["ideal_gain"] = _number(ideal_gain(weight_N, self.critical_N))
        return {**out, **self._conflict(weight_N, own)}

    def _conflict(self, weight_N: np.ndarray, own: WeightingPair) -> dict[str, Any]:
        if self.retain is None or self.length_N is None or self.against_N is None:
            return {}
        retain, length_N, against_N = self.retain, self.length_N, self.against_N
        every, every_retain = np.arange(self.gradients.rows), np.arange(len(retain.first.weight_R))

        def share(kept: np.ndarray) -> float:
            return conflict_share(weight_N * np.isin(self.gradients.row_N, kept), length_N, against_N)

        value, error = jackknife(lambda kept: -cosine(own, retain, kept, every_retain), len(every))
        _, retain_error = jackknife(lambda kept: -cosine(own, retain, every, kept), len(every_retain))  # the two samples are independent
        return {"conflict_share": self._estimate(share), "cosine": _pair(value, math.hypot(error, retain_error))}

    def _estimate(self, estimate: Callable[[np.ndarray], float]) -> list[float | None] | None:
        return _pair(*jackknife(estimate, self.gradients.rows))


def _pair(value: float, error: float) -> list[float | None] | None:
    return None if _number(value) is None else [value, _number(error)]


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None
