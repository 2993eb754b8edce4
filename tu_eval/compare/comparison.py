"""Several results side by side: seeds of one recipe as one entry, what is best and what only seems so, and what does
not go together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from shared.better import DOWN, ZERO
from shared.errors import StoreError
from tu_eval.compare.agreement import Agreement, agreement_of, read_agreements
from tu_eval.compare.choices import is_choices, spans, with_choices
from tu_eval.compare.fluency import babbling, babbling_notes, fluencies
from tu_eval.compare.groups import Group, group_results, is_reference
from tu_eval.compare.intervals import Estimate, over_rows, over_seeds
from tu_eval.compare.leaks import Made, leak_notes, leak_table
from tu_eval.compare.notes import cluster_notes, notes_of
from tu_eval.compare.training import Training, find_training, read_index
from tu_eval.measure.recompute import require_recomputable
from tu_eval.metrics.fluency import Fluency
from tu_eval.metrics.forget_quality import forget_quality
from tu_eval.metrics.privleak import privleak
from tu_eval.results.columns import Column, columns_of
from tu_eval.results.results import SUMMARY, Results, load_results, require_comparable

EQUAL = 1e-12
"""relative: how far two equal numbers can be apart that were summed up in another order"""


@dataclass(frozen=True)
class Comparison:
    """Results side by side: what the page of tu-eval compare shows, and its exports hold."""

    results: list[Results]
    labels: list[str]
    """unique; the folder's name is added where two results share a label"""
    columns: list[Column]
    trainings: list[tuple[Training | None, str]]
    """one a result: how the model was made, or None and why that is not known"""
    groups: list[Group]
    notes: list[str]
    """what a reader must know before comparing"""
    agreements: list[tuple[Agreement | None, str]]
    """one a group: how well its tokens were chosen, or None and why that is not known; empty unless files were given"""
    choices: Sequence[Path] = ()
    """folders of tu-eval choices, each of the weights of a result"""

    @cached_property
    def rows(self) -> list[dict[str, list[dict[str, Any]]]]:
        """Rows of each result by set. Raises StoreError when two results do not hold the same rows in the same
        order."""
        return _rows_by_set(self.results)

    @cached_property
    def fluency(self) -> list[dict[str, Fluency]]:
        """Of each result, by set with answers written."""
        return [fluencies(rows) for rows in self.rows]

    @cached_property
    def babbling(self) -> dict[int, list[str]]:
        """Results of broken models -> the sets where that shows."""
        return babbling(self.fluency, self.groups)

    @cached_property
    def leaks(self) -> Made | None:
        """Headings and rows of the secrets that models give away; None where no result holds a leak check."""
        return leak_table(self.labels, self.results)

    @cached_property
    def spans(self) -> list[dict[str, tuple[float, float]]]:
        """Bootstrap intervals of each result, by metric; those of membership inference were made with the results."""
        return [
            {**over_rows(rows, r.summary["metrics"], r.summary["utility_parts"]), **_membership(r), **spans(self.choices, r)}
            for r, rows in zip(self.results, self.rows, strict=True)
        ]

    def value(self, index: int, metric: str) -> float | None:
        """A metric of one result. The result that the others were tested against is tested against itself: it belongs
        in the plot."""
        result = self.results[index]
        metrics = result.summary["metrics"]
        value = metrics.get(metric)
        if value is not None or metric not in metrics or not is_reference(result, self.results):
            return value
        if metric == "privleak" and (auc := metrics.get("mia_min_k")) is not None:
            return privleak(auc, auc)
        if metric == "forget_quality":
            ratios = [row["log_truth_ratio"] for row in self.rows[index]["forget"]]
            return None if None in ratios else forget_quality(ratios, ratios)
        return value

    def true_positives(self, members: Sequence[int], metric: str) -> float | None:
        """Mean over results of an attack's true-positive rate at 1 % false positives; `metric` is that of its AUC."""
        attacks = [((self.results[i].summary.get("membership") or {}).get("attacks") or {}) for i in members]
        rates = [found[name]["true_positives"] for found in attacks if (name := metric.removeprefix("mia_")) in found]
        return math.fsum(rates) / len(rates) if rates and metric.startswith("mia_") else None

    def estimate(self, group: Group, column: Column) -> Estimate:
        """A metric of a group: over its seeds where there are two or more, else with the interval over rows."""
        values = [v for i in group.members if (v := self.value(i, column.metric)) is not None]
        if len(values) >= 2:
            return over_seeds(values, log=column.log, share=column.share)
        if not values:
            return Estimate(None, None, 0)
        at = next(i for i in group.members if self.value(i, column.metric) is not None)
        span = self.spans[at].get(column.metric)
        return Estimate(values[0], span, 1, "rows" if span else "none")

    def table(self) -> list[list[Estimate]]:
        """`[groups][columns]`."""
        return [[self.estimate(group, column) for column in self.columns] for group in self.groups]

    def marks(self, column: int, table: list[list[Estimate]]) -> list[str]:
        """[groups] `best`, `near` (within noise of the best) or nothing. Target and retain model take no part, nor does
        a lone model, nor in what is to be forgotten one that babbles.

        Models that are equal, up to the rounding of a sum, share the best; where all are, nothing is best.
        """
        held = [row[column] for row in table]
        broken = {g for g, group in enumerate(self.groups) if self.columns[column].forgets and set(group.members) & set(self.babbling)}
        running = [g for g, group in enumerate(self.groups) if group.role is None and held[g].value is not None and g not in broken]
        if len(running) < 2:
            return [""] * len(held)
        goal = self._goal(column, table)

        def lost(g: int) -> float:
            value = held[g].value or 0.0
            return abs(value - goal) if goal is not None else value if self.columns[column].better == DOWN else -value

        first = min(running, key=lost)
        # Of the numbers that went in: the distance of two models from the goal has their rounding, however small it is
        # itself.
        rounding = {g: EQUAL * max(abs(held[g].value or 0.0), abs(held[first].value or 0.0), abs(goal or 0.0)) for g in running}
        best = [g for g in running if lost(g) - lost(first) <= rounding[g]]
        if len(best) == len(running):
            return [""] * len(held)
        near = {g for g in running for b in best if held[g].near(held[b])}
        return ["best" if g in best else "near" if g in near else "" for g in range(len(held))]

    def _goal(self, column: int, table: list[list[Estimate]]) -> float | None:
        """0, or the retain model's value, where that is the goal and there is one retain model."""
        if self.columns[column].better == ZERO:
            return 0.0
        values = [table[g][column].value for g, group in enumerate(self.groups) if group.role == "retain"]
        return values[0] if self.columns[column].to_retain and len(values) == 1 else None


def load_comparison(
    folders: Sequence[Path], index: Path | None = None, agreements: Sequence[Path] = (), *, search: bool = True
) -> Comparison:  # fmt: skip
    """`search`: the results of the index's runs are compared too; else the index only says how runs were trained.

    Raises StoreError for a folder that is no finished result, whose metrics are not those of its rows, or that was
    measured on another suite, data or tokenizer."""
    runs, agreed = read_index(index) if index else [], read_agreements(agreements)
    choices, folders = [f for f in folders if is_choices(f)], [f for f in folders if not is_choices(f)]
    given = {folder.resolve() for folder in folders}
    found = [place for run in runs for place in run.results if search and place.resolve() not in given]
    results = [load_results(folder) for folder in [*folders, *found]]
    if not results and choices and index is None:
        raise StoreError(f"{choices[0]}: holds results of tu-eval choices alone; name those of tu-eval run on the same model too")
    if not results:
        raise StoreError(
            f"--index {index}: none of its {len(runs)} runs has results; they are looked for as {SUMMARY} in each run's folder RUN or in a "
            "folder in it: tu-eval run --model RUN --out RUN/results, or name results folders from elsewhere as DIR"
        )
    first = results[0]
    for other in results[1:]:
        require_comparable(first.summary, other, what=f"{first.folder} and")
    for result in results:
        require_recomputable(result, results)
    results = with_choices(results, choices)
    settings = {held.place: held.run.settings for held in runs if held.run.settings is not None}
    trainings = [find_training(r, settings) for r in results]
    labels = _labels(results)
    groups = group_results(results, labels, trainings)
    quality = [agreement_of(group.training, agreed) for group in groups] if agreed else []
    unused = [
        f"No run here was trained with the store of {a.place.name} (--agreement)." for a in agreed if all(a is not q for q, _ in quality)
    ]
    notes = [*notes_of(results, labels, runs), *unused]
    made = Comparison(results, labels, _columns(results), trainings, groups, notes, quality, choices)
    notes += [*cluster_notes(made.rows[0]), *leak_notes(labels, results), *babbling_notes(labels, made.fluency, made.babbling)]
    return made


def _labels(results: Sequence[Results]) -> list[str]:
    counts = Counter(r.label for r in results)
    labels = [r.label if counts[r.label] == 1 else f"{r.label} ({r.folder.name})" for r in results]
    if len(set(labels)) < len(labels):
        labels = [f"{r.label} ({r.folder})" for r in results]
    if len({r.folder.resolve() for r in results}) < len(results):
        raise StoreError(f"{Counter(labels).most_common(1)[0][0]}: the same results folder is given twice")
    return labels


def _columns(results: Sequence[Results]) -> list[Column]:
    """Every metric that some result has."""
    first = results[0].summary
    metrics = dict.fromkeys(metric for r in results for metric in r.summary["metrics"])
    return columns_of({"rows": first["rows"], "metrics": metrics, "suite": first["suite"]})


def _rows_by_set(results: Sequence[Results]) -> list[dict[str, list[dict[str, Any]]]]:
    out: list[dict[str, list[dict[str, Any]]]] = []
    for result in results:
        by_set: dict[str, list[dict[str, Any]]] = {}
        for row in result.rows():
            by_set.setdefault(row["set"], []).append(row)
        if out and _ids(by_set) != _ids(out[0]):
            raise StoreError(f"{result.folder}: holds other rows than {results[0].folder}; evaluate both the same way")
        out.append(by_set)
    return out


def _membership(result: Results) -> dict[str, tuple[float, float]]:
    attacks = (result.summary.get("membership") or {}).get("attacks") or {}
    return {f"mia_{name}": (found["low"], found["high"]) for name, found in attacks.items()}


def _ids(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[str]]:
    return {name: [row["example_id"] for row in kept] for name, kept in rows.items()}
