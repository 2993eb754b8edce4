"""Finished runs of a world as one small Parquet file, a row a run, which is committed; and how tables read it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from benchmarks.study.plan import World
from shared.files.fs import read_json
from tu_eval.compare.intervals import over_seeds

RESULTS = Path(__file__).parent / "results"
Run = dict[str, Any]
TRIED = 0.3
"""share of hard tokens: the default, at which sources were compared"""
DEFAULT, BARE = "base-entropy", "tempered"
"""the default recipe with a base model, and without one"""


def collect(world: World, work: Path, out: Path) -> Path:
    """Writes NAME.parquet of every run that the working folder has, with the numbers of the world in its metadata."""
    folder = work / world.name
    rows = [read_json(path) for path in sorted((folder / "runs").glob("*.json"))]
    names = sorted({name for row in rows for name in row})
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    about = {
        name: (folder / name).read_bytes() for name in ("world.json", "ends.json", "agreement.json", "snr.json") if (folder / name).exists()
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{world.name}.parquet"
    pq.write_table(table.replace_schema_metadata(about), path, compression="zstd")
    return path


@dataclass(frozen=True)
class Study:
    runs: list[Run]
    about: dict[str, Any]

    @property
    def levels(self) -> tuple[float, float]:
        """How probable the facts are under the target and under the retain model."""
        world = self.about["world"]
        return math.exp(-world["start_nll"]), math.exp(-world["level_nll"])

    def of(self, **wanted: Any) -> list[Run]:
        """Runs with these values, in the order of their seeds."""
        found = [run for run in self.runs if all(run.get(k) == v for k, v in wanted.items())]
        return sorted(found, key=lambda run: run["seed"])


def load(name: str) -> Study:
    table = pq.read_table(RESULTS / f"{name}.parquet")
    about = {k.decode().removesuffix(".json"): json.loads(v) for k, v in (table.schema.metadata or {}).items() if k.endswith(b".json")}
    return Study(table.to_pylist(), about)


def write_runs(path: Path) -> None:
    """Every run of all studies as a line of a CSV file, with all that was measured but the curves."""
    files = sorted(RESULTS.glob("*.parquet"), key=lambda file: file.stem)
    tables = [pq.read_table(file).drop_columns(["curve"]).replace_schema_metadata() for file in files]
    table = pa.concat_tables(tables, promote_options="permissive")
    front = ["world", "method", "source", "tokens", "keep", "auto", "soft", "seed", "reached", "steps", "retain_nll"]
    order = sorted(table.schema.names, key=lambda name: (front.index(name) if name in front else len(front), name))
    pyarrow.csv.write_csv(table.select(order).sort_by([(name, "ascending") for name in ("world", "method", "source", "seed")]), path)


def retained(run: Run) -> float:
    return math.exp(-run["retain_nll"])


def spread(values: Sequence[float]) -> str:
    """`0.712 [0.698, 0.726]`, one value without an interval."""
    if len(values) < 2:
        return f"{values[0]:.3f}" if values else "—"
    found = over_seeds(values)
    assert found.value is not None and found.span is not None
    return f"{found.value:.3f} [{found.span[0]:.3f}, {found.span[1]:.3f}]"


def reached(runs: Sequence[Run], value: Callable[[Run], float | None]) -> list[float]:
    return [v for run in runs if run["reached"] and (v := value(run)) is not None]


def paired(ours: Sequence[Run], theirs: Sequence[Run], value: Callable[[Run], float | None]) -> list[float]:
    """Ours less theirs, of the seeds where both came to the level."""
    other = {run["seed"]: value(run) for run in theirs if run["reached"]}
    mine = {run["seed"]: value(run) for run in ours if run["reached"]}
    return [mine[s] - other[s] for s in mine if other.get(s) is not None and mine[s] is not None]  # type: ignore[operator]


def of_same_seeds(*choices: Sequence[Run]) -> list[list[Run]]:
    """Of each choice the runs of those seeds that came to the level in all of them."""
    seeds = set.intersection(*({run["seed"] for run in runs if run["reached"]} for runs in choices))
    return [[run for run in runs if run["seed"] in seeds] for runs in choices]


def share(ours: Sequence[Run], worst: Sequence[Run], best: Sequence[Run], value: Callable[[Run], float | None]) -> str:
    """How much of the way from all tokens to exactly the facts, over the seeds that all three have."""
    ours, worst, best = of_same_seeds(ours, worst, best)
    gap, won = sum(paired(best, worst, value)), sum(paired(ours, worst, value))
    return f"{100 * won / gap:.0f} %" if gap > 0 else "—"


def steps(runs: Sequence[Run]) -> str:
    found = reached(runs, lambda run: run["steps"])
    return f"{sum(found) / len(found):.0f}" if found else "—"


def mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.3f}" if values else "—"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
