"""Finished measurements by content: one folder for what was measured on what by which code, a file for each finished
piece.

    ROOT/<key>/identity.json        what the key is the hash of
    ROOT/<key>/<piece>.parquet      one row an example

The key is the sha256 of the model's weights, its tokenizer and template, the tokens measured, the settings that change
numbers, and the source files that compute them. Paths and names play no part: other weights under an old path have
another key. Each piece appears whole or not at all and carries its key and the hash of its values, so that one that was
damaged, or carried here from elsewhere, is measured again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import shared
import tu_eval
from shared.console import say
from shared.files.fs import atomic_file, hash_json, refuse_link, remove, write_json
from tu_eval.results.folder import Row

IDENTITY = "identity.json"
CODE = (
    *("measure/pieces.py", "suites/variants.py", "metrics/*.py", "engines/*.py", "data/examples.py", "data/layout.py", "data/words.py"),
    *(f"lm/{name}.py" for name in ("attention", "forest", "logprobs", "models", "packed", "products")),
)
"""of tu_eval and shared: what the values of a piece depend on"""


@cache
def code_version() -> str:
    """sha256 over the sources that compute the pieces."""
    digest, roots = hashlib.sha256(), [Path(package.__path__[0]) for package in (tu_eval, shared)]
    assert all(any(any(root.glob(pattern)) for root in roots) for pattern in CODE), "a file that moved would leave the key without a word"
    for root in roots:
        for path in sorted(p for pattern in CODE for p in root.glob(pattern)):
            digest.update(hash_json([path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")]).encode())
    return digest.hexdigest()


class Store:
    """The pieces of one identity. Nothing is written before the first piece is saved."""

    def __init__(self, root: Path, identity: Mapping[str, Any]):
        self.identity = {**identity, "code": code_version()}
        self.key = hash_json(self.identity)
        self.folder = root / self.key

    def load(self, piece: str) -> tuple[list[Row], dict[str, Any]] | None:
        """Rows of a finished piece and what was noted with it, or None: it is not there, or it is not what was
        saved."""
        import pyarrow
        import pyarrow.parquet

        path = self.folder / f"{piece}.parquet"
        if not path.exists():
            return None
        try:
            table = pyarrow.parquet.read_table(path, page_checksum_verification=True)
            noted = json.loads((table.schema.metadata or {})[b"tu_eval"])
            rows = table.to_pylist()
            if noted["key"] == self.key and noted["sha256"] == hash_json(rows):
                return rows, noted["notes"]
            reason = "it belongs to another evaluation"
        except (pyarrow.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        say(f"{path}: measured again ({reason})")
        return None

    def save(self, piece: str, rows: Sequence[Row], notes: Mapping[str, Any]) -> None:
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
        """The store's folder, or one in it, made if need be. Raises StoreError for a link: nothing is written through
        it."""
        for place in (self.folder, folder):
            refuse_link(place).mkdir(parents=True, exist_ok=True)
        return folder


def remove_stores(root: Path) -> None:
    """Removes every identity under `root` and nothing else, and `root` when that leaves it empty."""
    for identity in root.glob(f"*/{IDENTITY}"):
        remove(identity.parent)
    if root.is_dir() and not any(root.iterdir()):
        root.rmdir()
