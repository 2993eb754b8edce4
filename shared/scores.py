"""The score store, format 1: Parquet parts and a manifest written last.

    _plan.json      what is being scored and how it is cut into parts; written first
    _progress.jsonl one line a finished part (its hash), while the run lasts
    part-00000.parquet …
    _manifest.json  written last: a folder with it is a finished store, a folder without it an unfinished run

A part is trusted only with the hash recorded for it, and its pages carry checksums that are verified on every read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shared.errors import StoreError
from shared.fs import atomic_file, hash_json, read_json, write_json

FORMAT = 1
MANIFEST, PLAN, PROGRESS = "_manifest.json", "_plan.json", "_progress.jsonl"

TOKEN_COLUMNS = {
    "input_ids": pa.int32(),
    "tokens": pa.string(),
    "is_target": pa.bool_(),
    "logprob": pa.float32(),
    "entropy": pa.float32(),
    "delta": pa.float32(),
    "delta_mean": pa.float32(),
    "masked_entropy": pa.float32(),
    "base_logprob": pa.float32(),
    "base_entropy": pa.float32(),
    "delta_span": pa.int32(),
    "importance": pa.float32(),
}
"""columns with one entry a token"""

SPAN = pa.struct([("start", pa.int32()), ("end", pa.int32())])
SCHEMA = pa.schema(
    [("example_id", pa.string()), *((name, pa.list_(kind)) for name, kind in TOKEN_COLUMNS.items()), ("spans", pa.list_(SPAN))]
)


def part_name(index: int) -> str:
    return f"part-{index:05d}.parquet"


def plan_parts(lengths: list[int], part_tokens: int) -> list[tuple[int, int]]:
    """Row ranges (end exclusive) of at most `part_tokens` tokens each; a longer row is a part of its own."""
    parts, start, total = [], 0, 0
    for i, length in enumerate(lengths):
        if i > start and total + length > part_tokens:
            parts.append((start, i))
            start, total = i, 0
        total += length
    return [*parts, (start, len(lengths))]


class Writer:
    """Writes the parts of one run; a killed run is taken up where it was."""

    def __init__(self, folder: Path, plan: dict[str, Any]):
        """Starts a run, or resumes one with the same plan. Raises StoreError when the folder holds anything else."""
        self.folder, self.plan = folder, json.loads(json.dumps(plan))
        if (folder / PLAN).exists():
            self._check_same(read_json(folder / PLAN))
        else:
            self._start()
        self.parts: dict[int, dict[str, Any]] = self._finished()

    def _start(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise StoreError(f"{self.folder}: is a file; --out wants a folder")
        # A run killed while it wrote its plan leaves a temporary file and nothing else.
        if self.folder.exists() and any(p.name != f".tmp-{PLAN}" for p in self.folder.iterdir()):
            raise StoreError(f"{self.folder}: already holds files that are not a score store; choose a new --out")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.folder}: cannot be made: {error.strerror}; choose another --out") from None
        write_json(self.folder / PLAN, self.plan)

    def _check_same(self, earlier: dict[str, Any]) -> None:
        for field in sorted({*_flat(earlier), *_flat(self.plan)}):
            was, now = _flat(earlier).get(field), _flat(self.plan).get(field)
            if was != now:
                raise StoreError(
                    f"{self.folder}: holds another run: its {field} is {_short(was)}, this run's is {_short(now)}; "
                    "choose a new --out, or delete the folder"
                )

    def _finished(self) -> dict[int, dict[str, Any]]:
        """Parts whose recorded hash the file still has. A line cut short by a kill is a part to be scored again."""
        path, done = self.folder / PROGRESS, {}
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
            try:
                entry = json.loads(line)
                intact = hashlib.sha256((self.folder / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
            except (json.JSONDecodeError, KeyError, TypeError, FileNotFoundError):
                continue
            if intact:
                done[entry["part"]] = entry
        return done

    @property
    def finished(self) -> bool:
        return (self.folder / MANIFEST).exists()

    def write_part(self, index: int, columns: dict[str, list]) -> None:
        """`columns`: one list a column of SCHEMA, one entry a row."""
        table = pa.table(columns, schema=SCHEMA)
        path = self.folder / part_name(index)
        with atomic_file(path) as temporary:
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
        data = path.read_bytes()
        tokens = sum(map(len, columns["input_ids"]))
        entry = {
            "part": index,
            "file": path.name,
            "rows": len(table),
            "tokens": tokens,
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        with open(self.folder / PROGRESS, "a", encoding="utf-8") as handle:
            # A line cut short by a kill must not swallow the next one.
            handle.write("\n" + json.dumps(entry) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        self.parts[index] = entry

    def read_part(self, index: int) -> pa.Table:
        return read_verified(self.folder / part_name(index), self.parts[index])

    def finish(self, **more: Any) -> None:
        """Writes the manifest; the store is complete from then on."""
        parts = [{k: v for k, v in self.parts[i].items() if k != "part"} for i in sorted(self.parts)]
        totals = {"rows": sum(p["rows"] for p in parts), "tokens": sum(p["tokens"] for p in parts)}
        body = {"format": FORMAT, **self.plan, **totals, "parts": parts, **more}
        write_json(self.folder / MANIFEST, {**body, "manifest_sha256": hash_json(body)})
        self.tidy()

    def tidy(self) -> None:
        """Removes what only an unfinished run needs, and what a kill left half-written."""
        (self.folder / PROGRESS).unlink(missing_ok=True)
        for path in self.folder.glob(".tmp-*"):
            path.unlink()


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for name, item in value.items() for k, v in _flat(item, f"{prefix}.{name}" if prefix else name).items()}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"


def read_verified(path: Path, entry: dict[str, Any]) -> pa.Table:
    """One part, after its bytes have been compared with the hash recorded for it."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise StoreError(f"{path}: the manifest names this part, but it is missing; copy the folder again or score again") from None
    if len(data) != entry["bytes"] or hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise StoreError(f"{path}: its bytes are not those written (got {len(data)}, expected {entry['bytes']}, or a changed bit); "
                         "copy the folder again or score again")  # fmt: skip
    table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    if table.schema != SCHEMA:
        raise StoreError(f"{path}: its columns are not those of format {FORMAT}; it was written by something else")
    return table


@dataclass(frozen=True)
class Store:
    """A finished store. Rows are read part by part, each verified."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def fingerprints(self) -> dict[str, str | None]:
        return self.manifest["fingerprints"]

    def __len__(self) -> int:
        return self.manifest["rows"]

    def part(self, index: int) -> list[dict[str, Any]]:
        """Rows of one part as dictionaries of Python lists."""
        entry = self.manifest["parts"][index]
        return read_verified(self.folder / entry["file"], entry).to_pylist()

    def rows(self) -> Iterator[dict[str, Any]]:
        for index in range(len(self.manifest["parts"])):
            yield from self.part(index)


def open_store(folder: Path) -> Store:
    """Raises StoreError when the folder is missing, unfinished, damaged or of a newer format."""
    path = folder / MANIFEST
    if not path.exists():
        if (folder / PLAN).exists():
            raise StoreError(f"{folder}: an unfinished scoring run; run the same tu-score command again to finish it")
        raise StoreError(f"{folder}: no score store here (no {MANIFEST}); expected the --out of a tu-score run")
    manifest = read_json(path)
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if isinstance(found, int) and found > FORMAT:
        raise StoreError(f"{folder}: store format {found}, this version reads up to {FORMAT}; upgrade token-unlearn")
    body = {k: v for k, v in manifest.items() if k != "manifest_sha256"} if isinstance(manifest, dict) else {}
    as_written = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n" == path.read_text(encoding="utf-8")
    if found != FORMAT or not as_written or manifest.get("manifest_sha256") != hash_json(body):
        raise StoreError(f"{path}: damaged (its content does not fit its hash); copy the folder again or score again")
    return Store(folder, manifest)


def check_fits(store: Store, fingerprints: dict[str, str], *, model: str) -> None:
    """Refuses a store made with another tokenizer, chat template or model, naming the first field that differs."""
    for field, value in fingerprints.items():
        if store.fingerprints[field] != value:
            raise StoreError(
                f"{store.folder}: made with another {field.replace('_', ' ')} than {model} has "
                f"(store {str(store.fingerprints[field])[:12]}, model {value[:12]}); score this model, or train the model that was scored"
            )
