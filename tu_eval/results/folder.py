"""A results folder, whichever command made it: written in one place, checked and read in one place.

    SUMMARY.json    numbers, and what they belong to; the hash of each table, and of itself
    rows.parquet    the numbers row by row; suites with a holdout have a second table, membership.parquet
    _config.toml    the settings, as --config reads them back

It appears whole or not at all. Passwords and tokens in URLs are cut out of whatever is written. Hashes are checked on
every read: against damage and mixed-up files, not against somebody who edits all of them, which only a signature tells
(tu_eval/evidence/sign.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.config import write_config
from shared.errors import StoreError
from shared.files.fs import atomic_folder, hash_file, hash_json, read_object, write_json
from shared.files.shape import Text, misfit
from shared.secret import without_secrets_in
from tu_eval.results.parquet_file import read_table, rows_of

if TYPE_CHECKING:
    import pyarrow

    Table = tuple[pyarrow.Schema, Sequence["ResultRow"]]

ResultRow = dict[str, Any]

MEMBERSHIP_METRICS = ("loss", "zlib", "min_k", "min_k_plus", "reference", "gradient_norm")
"""columns of membership.parquet; a metric is called mia_ and the name, and is its AUC"""
FORMAT = 1
ROWS, CONFIG = "rows.parquet", "_config.toml"
SEAL = "summary_sha256"
"""field of the summary: the hash of all its other fields"""


@dataclass(frozen=True)
class FolderKind:
    """What one command leaves."""

    summary: str
    """name of its JSON file"""
    command: str
    """that makes it, for messages"""
    form: dict[str, Any]
    """of the summary, as shared/files/shape.py has it, beside `format` and hashes"""
    columns: Callable[[], pyarrow.Schema] | None = None
    """of rows.parquet; None where they differ from folder to folder"""
    more: tuple[str, ...] = ()
    """tables that a folder may have beside rows.parquet"""
    always_sealed: bool = False
    """False: earlier versions wrote the summary without a hash of itself"""


@dataclass(frozen=True)
class Finished:
    """A folder that was read and checked. Its summary is in memory, rows are read when asked for."""

    folder: Path
    kind: FolderKind
    summary: dict[str, Any]
    sealed: bool
    """False: the summary holds no hash of itself, so that nothing tells whether it was edited"""

    def rows(self) -> list[ResultRow]:
        """Raises StoreError naming the file for one that cannot be read, or has other kinds of values."""
        import pyarrow.parquet

        path = self.folder / ROWS
        count = rows_of(path)
        schema = self.kind.columns() if self.kind.columns is not None else pyarrow.parquet.read_schema(path)
        return read_table(path, schema, rows=count, required=frozenset())


def seal_of(summary: Mapping[str, Any], name: str = SEAL) -> str:
    """sha256 of a summary without the field that holds it."""
    return hash_json({k: v for k, v in summary.items() if k != name})


def write_folder(
    out: Path,
    kind: FolderKind,
    summary: Mapping[str, Any],
    tables: Mapping[str, Table | None],
    config: Any,
    also: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes the folder in one step; -> the summary as written, which gains the format, a hash for each table (null for
    None, of which there is no file) and its own hash.

    What a row lacks of a table's schema is null. `also`: further JSON files, name -> value.
    """
    import pyarrow
    import pyarrow.parquet

    full = {"format": FORMAT, **without_secrets_in(summary)}
    with atomic_folder(out) as folder:
        for name, table in tables.items():
            if table is not None:
                schema, rows = table
                made = pyarrow.Table.from_pylist(list(rows), schema=schema)
                pyarrow.parquet.write_table(made, folder / name, compression="zstd", write_page_checksum=True)
            full[_hash_field(name)] = hash_file(folder / name) if table is not None else None
        write_config(folder / CONFIG, config)
        for name, value in (also or {}).items():
            write_json(folder / name, value)
        full[SEAL] = seal_of(full)
        write_json(folder / kind.summary, full)
    return full


def read_folder(folder: Path, kind: FolderKind) -> Finished:
    """Raises StoreError, naming the file, for a folder that is missing, unfinished, of a newer format, damaged or
    edited."""
    path = folder / kind.summary
    if not folder.is_dir():
        raise StoreError(f"{folder}: no such folder; expected the --out of a finished {kind.command}")
    if not path.exists():
        raise StoreError(f"{folder}: holds no {kind.summary}; it is not a results folder, or its {kind.command} did not finish")
    summary = read_object(path, hint="the file is damaged, evaluate again")
    if "format" not in summary:
        raise StoreError(f"{path}: not what {kind.command} writes; evaluate again")
    if summary["format"] != FORMAT:
        raise StoreError(
            f"{path}: has format {str(summary['format'])[:20]}, this version reads {FORMAT}; update token-unlearn or evaluate again"
        )
    sealed = kind.always_sealed or SEAL in summary
    if sealed and seal_of(summary) != summary.get(SEAL):
        raise StoreError(f"{path}: does not match its own hash; it was damaged or edited, evaluate again")
    if wrong := misfit(summary, {**kind.form, _hash_field(ROWS): Text()}):
        raise StoreError(f"{path}: {wrong}; it was edited, or not written by {kind.command}: evaluate again")
    for name in (ROWS, *kind.more):
        _check_table(folder / name, summary.get(_hash_field(name)), kind)
    return Finished(folder, kind, summary, sealed)


def _check_table(path: Path, expected: str | None, kind: FolderKind) -> None:
    if expected is None:
        return
    if not path.is_file():
        raise StoreError(f"{path}: is missing; evaluate again")
    if hash_file(path) != expected:
        raise StoreError(f"{path}: does not match the hash in {kind.summary}; it was damaged or edited, evaluate again")


def _hash_field(table: str) -> str:
    return f"{Path(table).stem}_sha256"
