"""The numbers of `tu-eval choices` beside those of a suite: each folder belongs to the results of the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from shared.errors import StoreError
from tu_eval.choices.run import CHOICES_FOLDER, accuracies
from tu_eval.compare.intervals import DRAWS, LEVEL, SEED, Bounds
from tu_eval.results.folder import Finished, read_folder
from tu_eval.results.results import Results

METRICS = {"choices_accuracy": "picked", "choices_accuracy_norm": "picked_norm"}
"""metric -> column of the choice that is taken"""


def is_choices(folder: Path) -> bool:
    return (folder / CHOICES_FOLDER.summary).is_file()


def with_choices(results: Sequence[Results], folders: Sequence[Path]) -> list[Results]:
    """The results, with the accuracies of those folders in their metrics. Raises StoreError for a folder of weights
    that have no results here, of other questions than the first, or whose numbers are not those of its rows."""
    found: dict[str, Finished] = {}
    for folder in folders:
        choices = read_folder(folder, CHOICES_FOLDER)
        weights = choices.summary.get("model_fingerprint")
        if weights not in {r.summary["model_fingerprint"] for r in results}:
            raise StoreError(f"{folder}: none of the results given is of its weights; name those of tu-eval run on the same model too")
        if found and choices.summary.get("data_fingerprint") != next(iter(found.values())).summary.get("data_fingerprint"):
            raise StoreError(f"{folder}: has other questions than {next(iter(found.values())).folder}; ask both the same")
        again = accuracies(choices.rows())
        if any(choices.summary["metrics"].get(name) != value for name, value in again.items()):
            raise StoreError(f"{folder}: its accuracies are not those of its rows; it was edited, evaluate again")
        found[str(weights)] = choices
    return [_added(r, found.get(r.summary["model_fingerprint"])) for r in results] if found else list(results)


def spans(folders: Sequence[Path], results: Results) -> dict[str, Bounds]:
    """Bootstrap intervals over questions, of the folder of the same weights."""
    import numpy as np

    out: dict[str, Bounds] = {}
    for choices in (read_folder(folder, CHOICES_FOLDER) for folder in folders):
        if choices.summary.get("model_fingerprint") == results.summary["model_fingerprint"]:
            for metric, column in METRICS.items():
                right = np.array([row[column] == row["answer"] for row in choices.rows()], dtype=float)
                counts = np.random.default_rng(SEED).multinomial(len(right), [1 / len(right)] * len(right), DRAWS)
                low, high = np.percentile(counts @ right / len(right), (50 * (1 - LEVEL), 50 * (1 + LEVEL)))
                out[metric] = min(float(low), float(right.mean())), max(float(high), float(right.mean()))
    return out


def _added(results: Results, choices: Finished | None) -> Results:
    numbers = choices.summary["metrics"] if choices is not None else {}
    metrics = {metric: numbers.get(metric.removeprefix("choices_")) for metric in METRICS}
    reasons = {} if choices is not None else dict.fromkeys(METRICS, "no results of tu-eval choices on these weights were given")
    summary = {
        **results.summary,
        "metrics": {**results.summary["metrics"], **metrics},
        "reasons": {**results.summary["reasons"], **reasons},
    }
    return replace(results, summary=summary)
