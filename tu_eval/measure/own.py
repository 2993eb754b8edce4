"""Metrics of one's own (docs/extending.md): functions of what is known of one row.

A larger number means that the model knows more of the row. The numbers stand in a column of rows.parquet that has the
function's name, and their mean over the rows of each set in the summary, as SET_NAME.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from shared.errors import ConfigError
from shared.extensions import Kind, is_function, load, running
from shared.settings import LARGEST_NUMBER
from tu_eval.measure.rows import Rows
from tu_eval.measure.summary import Metrics, Reasons, mean
from tu_eval.results.columns import KINDS
from tu_eval.results.folder import ResultRow
from tu_eval.results.results import MORE, schema
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
    """A metric of code that is not ours, found and identified."""

    column: str
    asked: str
    """as it was named"""
    code: str
    """which source"""
    function: Function


def own_metrics(names: Sequence[str], sets: Sequence[str] = ()) -> list[OwnMetric]:
    """`sets`: those of the suite. Raises ConfigError for a name that stands for no function, or whose column or mean
    would be another's."""
    out: list[OwnMetric] = []
    for name in names:
        found, column = load(METRIC, name), name.rpartition(":")[2]
        if not column.isidentifier() or column in TAKEN or column in schema("", (), MORE).names:
            raise ConfigError(f"--metric {name}: {column!r} cannot be the name of a column, or is that of another one; choose another name")
        if any(other.column == column for other in out):
            raise ConfigError(f"--metric {name}: a metric {column} is given already; each needs a name of its own")
        out.append(OwnMetric(column, name, found.identity, found.object))
    means = [f"{part}_{metric.column}" for metric in out for part in sets]
    if twice := next((mean for mean in means if means.count(mean) > 1), None):
        raise ConfigError(f"--metric: two sets and metrics would both be called {twice}; choose another name for one of the metrics")
    return out


def add_own(metrics: Sequence[OwnMetric], rows: Rows, variants: Sequence[Variants], scores: Mapping[str, ResultRow]) -> None:
    """Fills their columns. Raises ConfigError naming the row for which a metric gives no number."""
    for row, held in zip(rows, variants, strict=True) if metrics else ():
        for metric in metrics:
            wrong = [list(scores[e.id]["logprob"]) for e in held.wrong]  # copies: what a metric does to them is its own affair
            own = list(scores[held.answer.id]["logprob"])
            with running(METRIC, metric.asked):
                value: Any = metric.function(Answered(row["question"], row["answer"], row["generation"], own, wrong))
            row[metric.column] = None if value is None else _number(value, metric, row["example_id"])


def _number(value: Any, metric: OwnMetric, row: str) -> float:
    """Raises ConfigError for what is no number, or none that a results folder could hold."""
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except (OverflowError, ValueError):
        number = math.inf
    if not abs(number) <= LARGEST_NUMBER:
        raise ConfigError(f"--metric {metric.asked}: gave {reprlib.repr(value)} for {row}, expected a finite number or None")
    return number


def own_means(metrics: Sequence[OwnMetric], rows: Mapping[str, Rows]) -> tuple[Metrics, Reasons]:
    """-> their means by set, and for each null the reason."""
    means = {f"{name}_{metric.column}": mean(kept, metric.column) for metric in metrics for name, kept in rows.items()}
    return means, {name: "the metric gives no number for any row of this set" for name, value in means.items() if value is None}
