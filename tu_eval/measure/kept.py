"""Finished measurements by content: one folder for what was measured on what by which code, a file for each finished
piece.

    ROOT/<key>/identity.json        what the key is the hash of
    ROOT/<key>/<piece>.parquet      one row an example

The key is the sha256 of the model's weights, its tokenizer and template, the tokens measured, the settings that change
numbers, and the source files that compute them (tu_eval/measure/source_code.py). Paths and names play no part: other
weights under an old path have another key. Each piece appears whole or not at all and carries its key and the hash of
its values, so that one that was damaged, or carried here from elsewhere, is measured again. Pieces of the earlier
version that source_code names are taken as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.console import say
from shared.files.fs import atomic_file, hash_json, refuse_link, remove, write_json
from tu_eval.measure.source_code import code_version, earlier
from tu_eval.results.folder import ResultRow

IDENTITY = "identity.json"


class KeptMeasurements:
    """The pieces of one identity. Nothing is written before the first piece is saved."""

    def __init__(self, root: Path, identity: Mapping[str, Any]):
        self.identity = {**identity, "code": code_version()}
        self.key = hash_json(self.identity)
        self.folder = root / self.key
        before = earlier(self.identity)
        self.folders = [self.folder, *([root / hash_json(before)] if before is not None else [])]
        """its own, and where an earlier version kept the same"""

    def load(self, piece: str) -> tuple[list[ResultRow], dict[str, Any]] | None:
        """Rows of a finished piece and what was noted with it, or None: it is not there, or it is not what was
        saved."""
        paths = (folder / f"{piece}.parquet" for folder in self.folders)
        return next((found for path in paths if path.exists() and (found := _read(path))), None)

    def save(self, piece: str, rows: Sequence[ResultRow], notes: Mapping[str, Any]) -> None:
        import pyarrow
        import pyarrow.parquet

        self.made(self.folder)
        if not (self.folder / IDENTITY).exists():
            write_json(self.folder / IDENTITY, self.identity)
        table = pyarrow.Table.from_pylist(list(rows))
        # Hashed as they will be read back.
        noted = {"key": self.key, "sha256": hash_json(table.to_pylist()), "notes": dict(notes)}
        table = table.replace_schema_metadata({"tu_eval": json.dumps(noted)})
        with atomic_file(self.folder / f"{piece}.parquet") as temporary:
            pyarrow.parquet.write_table(table, temporary, compression="zstd", write_page_checksum=True)

    def made(self, folder: Path) -> Path:
        """The folder of the pieces, or one in it, made if need be. Raises StoreError for a link: nothing is written
        through it."""
        for place in (self.folder, folder):
            refuse_link(place).mkdir(parents=True, exist_ok=True)
        return folder


def _read(path: Path) -> tuple[list[ResultRow], dict[str, Any]] | None:
    """A piece that belongs into its folder and is as it was saved; None for any other, of which is said why."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, page_checksum_verification=True)
        noted = json.loads((table.schema.metadata or {})[b"tu_eval"])
        rows = table.to_pylist()
        if noted["key"] == path.parent.name and noted["sha256"] == hash_json(rows):
            return rows, noted["notes"]
        reason = "it belongs to another evaluation"
    except (pyarrow.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    say(f"{path}: measured again ({reason})")
    return None


def remove_measurements(root: Path) -> None:
    """Removes every identity under `root` and nothing else, and `root` when that leaves it empty."""
    for identity in root.glob(f"*/{IDENTITY}"):
        remove(identity.parent)
    if root.is_dir() and not any(root.iterdir()):
        root.rmdir()
