"""How well the tokens of a run were chosen: what `tu-score agree --json` found for the store that the run was trained
with.

A run names its store by content in training.json, and so does the file; nothing is matched by path. Only runs whose
weights come from the store's importance (hard and soft tokens) have such a quality.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import StoreError
from shared.files.fs import read_json
from tu_eval.compare.training import Training

FORMAT = 1
FIGURES = {
    "auc": "ROC-AUC",
    "ap": "Average precision",
    "p_true": "Precision at n true",
    "p_10": "Precision at 10\u00a0%",
    "p_20": "Precision at 20\u00a0%",
    "p_30": "Precision at 30\u00a0%",
}
"""figure -> heading; all are means over answers, 0 to 1, higher is better"""
CHOSEN = ("hard", "soft")


@dataclass(frozen=True)
class Agreement:
    """Of one store's importance with true spans."""

    store: str
    """sha256"""
    recipe: str
    answers: int
    figures: dict[str, float]
    place: Path


def read_agreements(paths: Sequence[Path]) -> list[Agreement]:
    """Raises StoreError for a file that `tu-score agree --json` did not write, or two that speak of one store."""
    found: dict[str, Agreement] = {}
    for path in paths:
        agreement = _read(path)
        if agreement.store in found:
            raise StoreError(f"--agreement {path}: speaks of the same store as {found[agreement.store].place}; give one of them")
        found[agreement.store] = agreement
    return list(found.values())


def _read(path: Path) -> Agreement:
    if not path.is_file():
        raise StoreError(f"--agreement {path}: no such file; expected the output of tu-score agree --json")
    value: Any = read_json(path)
    try:
        if value["format"] != FORMAT:
            raise StoreError(f"--agreement {path}: has format {value['format']}, this version reads {FORMAT}; run tu-score agree again")
        figures = {name: float(value["signals"]["importance"]["per_answer"][name]) for name in FIGURES}
        if not all(math.isfinite(x) for x in figures.values()):
            raise ValueError("a figure is no number")
        return Agreement(str(value["store"]), str(value["recipe"]), int(value["answers"]), figures, path)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"--agreement {path}: not what tu-score agree --json writes ({type(error).__name__} {error}); "
            "run it again, on a store with importance"
        ) from None


def agreement_of(training: Training | None, agreements: Sequence[Agreement]) -> tuple[Agreement | None, str]:
    """-> the agreement of the run's store, or None and why there is none."""
    if training is None:
        return None, "its training is not known"
    if training.tokens not in CHOSEN:
        return None, f"{training.tokens} tokens: importance chose none" if training.tokens else "it was not unlearned"
    store = training.record.store
    found = next((a for a in agreements if a.store == store), None)
    return found, "" if found else "no --agreement speaks of its store"
