"""Metrics of one's own (docs/extending.md): functions of what is known of one row.

A larger number means that the model knows more of the row. The numbers stand in a column of rows.parquet that has the
function's name, and their mean over the rows of each set in the summary, as SET_NAME.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from shared.errors import ConfigError
from shared.extensions import Kind, is_function, load
from tu_eval.measure.rows import Rows
from tu_eval.measure.summary import Metrics, Reasons, mean
from tu_eval.results.columns import KINDS
from tu_eval.results.folder import ResultRow
from tu_eval.results.results import schema
from tu_eval.suites.variants import Variants


@dataclass(frozen=True)
class Answered:
    """What is known of one row."""

    question: str | None
    answer: str
    """the gold one"""
    generation: str | None
    """what the model writes, greedily; None where nothing was written"""
    logprobs: list[float]
    """of the tokens of the gold answer, the end of the turn included, nats"""
    wrong: list[list[float]]
    """the same of each wrong answer"""


Function = Callable[[Answered], float | None]
METRIC: Kind[Function] = Kind(
    "token_unlearn.metrics", "--metric", "a function, Answered (tu_eval.measure.own) -> number or None", is_function
)
TAKEN = frozenset({*KINDS, "quality", "utility"})
"""last parts of the names of metrics that a summary has itself"""


@dataclass(frozen=True)
class OwnMetric:
    column: str
    asked: str
    """as it was named"""
    code: str
    """which source"""
    function: Function


def own_metrics(names: Sequence[str]) -> list[OwnMetric]:
    """Raises ConfigError for a name that stands for no function, or whose column would be another's."""
    out: list[OwnMetric] = []
    for name in names:
        found, column = load(METRIC, name), name.rpartition(":")[2]
        if not column.isidentifier() or column in TAKEN or column in schema("").names:
            raise ConfigError(f"--metric {name}: {column!r} cannot be the name of a column, or is that of another one; choose another name")
        if any(other.column == column for other in out):
            raise ConfigError(f"--metric {name}: a metric {column} is given already; each needs a name of its own")
        out.append(OwnMetric(column, name, found.identity, found.object))
    return out


def add_own(metrics: Sequence[OwnMetric], rows: Rows, variants: Sequence[Variants], scores: Mapping[str, ResultRow]) -> None:
    """Fills their columns. Raises ConfigError naming the row for which a metric gives no number."""
    for row, held in zip(rows, variants, strict=True) if metrics else ():
        wrong = [scores[e.id]["logprob"] for e in held.wrong]
        known = Answered(row["question"], row["answer"], row["generation"], scores[held.answer.id]["logprob"], wrong)
        for metric in metrics:
            value: Any = metric.function(known)
            if value is not None and (isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value)):
                raise ConfigError(f"--metric {metric.asked}: gave {value!r} for {row['example_id']}, expected a finite number or None")
            row[metric.column] = None if value is None else float(value)


def own_means(metrics: Sequence[OwnMetric], rows: Mapping[str, Rows]) -> tuple[Metrics, Reasons]:
    """-> their means by set, and for each null the reason."""
    means = {f"{name}_{metric.column}": mean(kept, metric.column) for metric in metrics for name, kept in rows.items()}
    return means, {name: "the metric gives no number for any row of this set" for name, value in means.items() if value is None}
