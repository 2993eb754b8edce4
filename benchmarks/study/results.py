"""Finished runs of a world as one small Parquet file, a row a run, which is committed; and what tables read of it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.study.plan import World
from shared.fs import read_json

RESULTS = Path(__file__).parent / "results"


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
