"""What lm-eval's tasks say of a model (tu-eval benchmarks), as measures: a number a group, and a task that is in none,
with the interval that its standard error gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from tu_eval.compare.intervals import LEVEL
from tu_eval.evidence.verdict.measured import Number

METRICS = ("acc", "acc_norm", "exact_match", "f1")
"""of lm-eval's metrics those read here, from 0 to 1 and higher where more is right; the first that a task has"""
TO_GO = "wmdp"
"""tasks that ask for knowledge which is to be forgotten begin so"""


@dataclass(frozen=True)
class Benchmark:
    """One task or group as it was asked; equal where numbers compare."""

    task: str
    metric: str
    data: str
    """fingerprint of all questions of its folder, as they were put"""

    @property
    def title(self) -> str:
        return f"{self.task} ({self.metric.replace('_', ' ')})"

    @property
    def is_to_go(self) -> bool:
        return self.task.startswith(TO_GO)


def scores(about: Mapping[str, Any]) -> dict[Benchmark, Number]:
    """Of benchmark.json: what stands in no group, and groups in no other; tasks without a metric of METRICS are left
    out."""
    within = {name for group in about.get("groups", {}).values() for name in group["tasks"]}
    out = {}
    for name, found in about["metrics"].items():
        metric = next((m for m in METRICS if _is_share(found.get(m))), None)
        if name in within or metric is None:
            continue
        value, error = float(found[metric]), found.get(f"{metric}_stderr")
        half = NormalDist().inv_cdf((1 + LEVEL) / 2) * error if _is_share(error) else None
        span = None if half is None else (max(0.0, value - half), min(1.0, value + half))
        out[Benchmark(name, metric, about.get("data_fingerprint", ""))] = Number(value, {}, span, _questions(name, about))
    return out


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _questions(name: str, about: Mapping[str, Any]) -> int:
    """Of a task, or of all in a group."""
    left, seen = [name], set()
    while left:
        one = left.pop()
        if one not in seen:
            seen.add(one)
            left += about.get("groups", {}).get(one, {}).get("tasks", [])
    return sum(about.get("tasks", {}).get(one, {}).get("questions", 0) for one in seen)
