"""Which way a metric of an evaluation is better: known to those who show it and to those who keep the best model."""

from __future__ import annotations

from collections.abc import Collection

from shared.asides import is_aside

UP, DOWN, ZERO = "↑", "↓", "→0"
"""higher; lower; nearer to 0"""
OVERALL = {
    "forget_quality": "Forget quality", "model_utility": "Model utility",
    "choices_accuracy": "Choices", "choices_accuracy_norm": "Choices (length taken out)",
    "final_score": "Final score", "task_aggregate": "Task aggregate", "mia_score": "MIA score", "mmlu": "MMLU",
}  # fmt: skip
"""metrics of a whole suite -> their headings"""


def set_of(metric: str, sets: Collection[str]) -> str | None:
    """The set that a metric is about: a set's name may begin another's, so the longest that fits."""
    return max((name for name in sets if metric.startswith(f"{name}_")), key=len, default=None) if metric not in OVERALL else None


def better(metric: str, sets: Collection[str], suite: str = "") -> str:
    """UP, DOWN or ZERO. `sets`: of the suite, `suite`: its name.

    What forgets is better on the forget set, on all others what keeps; of what belongs to no set (membership
    inference) what leaks less."""
    if metric in OVERALL:
        return UP
    of = set_of(metric, sets)
    if of is not None:
        kind = metric.removeprefix(f"{of}_")
        forgotten = of == "forget" or (of.startswith("forget_") and is_aside(of, suite))
        return DOWN if (forgotten and kind != "truth_ratio") or kind == "answer_nll" else UP
    return ZERO if metric == "privleak" else DOWN


def is_better(value: float, other: float, way: str) -> bool:
    """Whether `value` is better than `other`; equal ones are not."""
    return abs(value) < abs(other) if way == ZERO else value > other if way == UP else value < other
