"""What a reader of a comparison must know first: settings that differ, the same weights twice, runs that are not on the
page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shared.console import number_of
from tu_eval.compare.groups import references
from tu_eval.compare.training import RunFolder
from tu_eval.measure.model_folder import local_folder
from tu_eval.results.results import Results


def notes_of(results: Sequence[Results], labels: Sequence[str], runs: Sequence[RunFolder]) -> list[str]:
    """A sentence each. `runs`: all of an index, whether the page has results of them or not."""
    return [*_settings(results, labels), *_same_weights(results, labels), *_missing(runs, results)]


def cluster_notes(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Of the sets whose rows name clusters that cannot be redrawn."""
    notes = []
    for name, kept in rows.items():
        named = [row["cluster"] for row in kept if row.get("cluster") is not None]
        if len(named) < len(kept) or len(named) < 2:
            continue
        if len(set(named)) == len(named):
            notes.append(f"{name}: every cluster has one row only, so intervals are over rows.")
        elif len(set(named)) == 1:
            notes.append(f"{name}: all rows are of one cluster, so intervals are over rows and say nothing of other clusters.")
    return notes


def _settings(results: Sequence[Results], labels: Sequence[str]) -> list[str]:
    notes = []
    effects = {
        "max_new_tokens": "ROUGE and model utility",
        "knowmem_tokens": "answers",
        "completion_tokens": "completions and answers",
        "dtype": "small differences",
        "long": "lengths",
        "rounding": "everything",
        "generate": "ROUGE and model utility",
    }
    for field, effect in effects.items():
        values = sorted({str(r.summary["settings"].get(field)) for r in results})
        if len(values) > 1:
            notes.append(f"The runs differ in {field} ({', '.join(values)}): mind that when comparing {effect}.")
    older = [label for r, label in zip(results, labels, strict=True) if "rouge_words" not in r.summary]
    if 0 < len(older) < len(results):
        notes.append(
            f"ROUGE of {', '.join(older)} is of an earlier version, which read a to z and digits alone: it and model utility compare "
            "with the others only where all text is ASCII; evaluate again."
        )
    if len(references(results)) > 1:
        notes.append("Forget quality and PrivLeak were computed against different retain results, so these numbers do not compare.")
    if results[0].summary["limit"] is not None:
        was = "was" if (limit := results[0].summary["limit"]) == 1 else "were"
        notes.append(f"Only the first {number_of(limit, 'row')} of each set {was} measured (--limit): a quick look, not a result.")
    return notes


def _same_weights(results: Sequence[Results], labels: Sequence[str]) -> list[str]:
    by_weights: dict[str, list[str]] = {}
    for result, label in zip(results, labels, strict=True):
        by_weights.setdefault(result.summary["model_fingerprint"], []).append(label)
    return [f"{' and '.join(same)} are the same weights, and no seeds of each other." for same in by_weights.values() if len(same) > 1]


def _missing(runs: Sequence[RunFolder], results: Sequence[Results]) -> list[str]:
    """The runs of the index that the page has nothing of."""
    measured = {str(folder.resolve()) for r in results if (folder := local_folder(r.summary["model"])) is not None}
    notes = []
    for held in runs:
        run = held.run
        if run.error:
            notes.append(f"Not on this page: {run.name}, {run.status}: {run.error.splitlines()[0]}")
        elif not held.results and held.place not in measured:
            notes.append(
                f"Not on this page: {run.name} ({run.status}), of which there are no results, neither as DIR nor in {held.folder}/results."
            )
    return notes
