"""How well the learned importance finds facts, by world: what `python -m benchmarks.learning` measured, in found.csv,
and its table in docs/attribution.md."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from benchmarks.study.results import markdown

FOUND = Path(__file__).with_name("found.csv")
COLUMNS = {
    "answers": ("answers", 0), "auc": ("ROC-AUC", 3), "without": ("default of before", 3), "true": ("true share", 2),
    "auto": ("auto share", 2), "f1": ("F1 of auto", 2), "off": ("largest distance in a tenth", 2),
}  # fmt: skip
"""figure -> title, decimals"""
Found = dict[str, dict[str, float]]
"""world -> figures"""


def read(path: Path = FOUND) -> dict[str, Found]:
    """-> learned signal -> world -> figures."""
    out: dict[str, Found] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            out.setdefault(row["signal"], {})[row["world"]] = {name: float(row[name]) for name in COLUMNS}
    return out


def write(found: Mapping[str, Found], path: Path = FOUND) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["signal", "world", *COLUMNS])
        for signal, worlds in found.items():
            for world, figures in worlds.items():
                writer.writerow([signal, world, *(f"{figures[name]:.{COLUMNS[name][1]}f}" for name in COLUMNS)])


def table(title: str, worlds: Found) -> str:
    rows = [[world, *(f"{figures[name]:.{digits}f}" for name, (_, digits) in COLUMNS.items())] for world, figures in worlds.items()]
    return markdown([title, *(name for name, _ in COLUMNS.values())], rows)
