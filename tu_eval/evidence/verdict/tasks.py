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
HAZARD = "wmdp"
"""stands in the names of tasks that ask for knowledge which is to be forgotten; all others ask for what must stay"""


@dataclass(frozen=True)
class Benchmark:
    """One task or group as it was asked; equal where numbers compare."""

    task: str
    metric: str
    data: str
    """fingerprint of all questions of its folder, as they were put"""
    is_to_go: bool
    """whether it asks for what is to be forgotten"""

    @property
    def title(self) -> str:
        return f"{self.task} ({self.metric.replace('_', ' ')})"


def scores(about: Mapping[str, Any]) -> dict[Benchmark, Number]:
    """Of benchmark.json: each task once, as a part of the outermost group that has a number; tasks without a metric of
    METRICS are left out."""
    groups = about.get("groups", {})
    numbers = {name: metric for name, found in about["metrics"].items() if (metric := _metric(found)) is not None}
    # A group in which some tasks are to go and some are not says nothing of either.
    whole = {name for name in groups if name in numbers and len({_is_to_go(leaf) for leaf in _leaves(name, groups)}) == 1}
    within = {below for name in whole for below in _below(name, groups)}
    out = {}
    for name, metric in numbers.items():
        if name in within or (name in groups and name not in whole):
            continue
        found = about["metrics"][name]
        value, error = float(found[metric]), found.get(_error_of(metric))
        half = NormalDist().inv_cdf((1 + LEVEL) / 2) * error if _is_share(error) else None
        span = None if half is None else (max(0.0, value - half), min(1.0, value + half))
        to_go = all(map(_is_to_go, _leaves(name, groups)))
        out[Benchmark(name, metric, about.get("data_fingerprint", ""), to_go)] = Number(value, {}, span, _questions(name, about))
    return out


def _is_to_go(task: str) -> bool:
    return HAZARD in task.lower()


def _metric(found: Mapping[str, Any]) -> str | None:
    """The first of METRICS that it has; one that is read through a filter alone is called `exact_match (filter)`."""
    names = [name for m in METRICS for name in (m, *(n for n in found if n.startswith(f"{m} (")))]
    return next((name for name in names if _is_share(found.get(name))), None)


def _error_of(metric: str) -> str:
    name, blank, read = metric.partition(" ")
    return f"{name}_stderr{blank}{read}"


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _below(name: str, groups: Mapping[str, Any]) -> set[str]:
    """All groups and tasks inside of a group."""
    left, seen = [*groups.get(name, {}).get("tasks", [])], set()
    while left:
        one = left.pop()
        if one not in seen:
            seen.add(one)
            left += groups.get(one, {}).get("tasks", [])
    return seen


def _leaves(name: str, groups: Mapping[str, Any]) -> set[str]:
    """The tasks of a group; of a task itself."""
    return {one for one in {name, *_below(name, groups)} if one not in groups}


def _questions(name: str, about: Mapping[str, Any]) -> int:
    """Of a task, or of all in a group."""
    return sum(about.get("tasks", {}).get(one, {}).get("questions", 0) for one in _leaves(name, about.get("groups", {})))
