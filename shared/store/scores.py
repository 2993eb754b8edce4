"""The score store, format 1: Parquet parts and a manifest written last, in a local folder or behind an fsspec URL.

    _plan.json       what is being scored and how it is cut into parts; written first
    _progress/       while the run lasts: one file a finished part (its hash)
    _lock            while somebody writes (shared/files/lock.py)
    part-00000.parquet …
    _manifest.json   written last: a folder with it is a finished store, a folder without it an unfinished run
    _next/           while parts are being replaced

What comes from somewhere else is not believed: the manifest has the form of shared/store/manifest.py, a part that of
shared/store/parts.py, its values are those of shared/store/sound.py. A part is trusted only with the hash recorded for
it, and its pages carry checksums that are verified on every read.

shared/store/writer.py writes a store, shared/store/rewrite.py replaces its parts, shared/store/files.py reads its
files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from shared.errors import StoreError
from shared.files.storage import Place, open_place
from shared.store.files import FORMAT, MANIFEST, PLAN, UPGRADES, Unfinished, committed, json_bytes, read_manifest, verified
from shared.store.manifest import Said, check_form
from shared.store.parts import part_name, schema, sha256
from shared.store.sound import require_sound


@dataclass(frozen=True)
class Store:
    """A finished store. Rows are read part by part, each verified."""

    folder: Path | str
    """a path, or a URL"""
    manifest: dict[str, Any]
    """of this version's format"""
    written: int = FORMAT
    """the format in which the parts were written"""
    told: str | None = None
    """hash of a manifest of an earlier format, as its bytes are"""

    @cached_property
    def place(self) -> Place:
        """Where it lies. Raises ConfigError for a URL that cannot be used."""
        return open_place(self.folder)

    @property
    def fingerprints(self) -> dict[str, str | None]:
        """Hashes of model, tokenizer, template and data, None for what there was not."""
        return self.manifest["fingerprints"]

    @property
    def optional(self) -> list[str]:
        """The optional columns that it has."""
        return self.manifest["optional"]

    @property
    def sha256(self) -> str:
        """Of the manifest's bytes; it covers those of every part."""
        return self.told or sha256(json_bytes(self.manifest))

    def __len__(self) -> int:
        return self.manifest["rows"]

    @property
    def vocabulary_size(self) -> int | None:
        """Ids that the scored model reads, from 0 on; None in stores of versions that did not write it."""
        return self.manifest.get("vocabulary_size")

    def table(self, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """One part, all of its bytes verified; of its columns, those named. Raises StoreError when it is missing or
        damaged, or holds what no reader could use (shared/store/sound.py)."""
        return require_sound(self.unchecked(index, columns), self.place.label(part_name(index)), self.vocabulary_size)

    def unchecked(self, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The same, whatever its values are; for `tu-score verify`."""
        entry = self.manifest["parts"][index]
        if self.written == FORMAT:
            return verified(self.place, entry, columns, schema(self.optional))
        table = verified(self.place, entry)
        for step in range(self.written, FORMAT):
            table = UPGRADES[step].table(table)
        return table.select(schema(self.optional).names if columns is None else list(columns))

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The parts one after another; memory is that of one part."""
        for index in range(len(self.manifest["parts"])):
            yield self.table(index, columns)

    def part(self, index: int, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Rows of one part as dictionaries of Python lists."""
        return self.table(index, columns).to_pylist()

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """All rows in order, as dictionaries of Python lists, a part in memory at a time. Raises StoreError for a
        damaged part."""
        for index in range(len(self.manifest["parts"])):
            yield from self.part(index, columns)


def open_store(folder: str | Path) -> Store:
    """Raises StoreError when the folder is missing, unfinished, damaged, or of a format that this version does not
    read."""
    place = open_place(folder)
    try:
        manifest = committed(place) or read_manifest(place, MANIFEST)
    except FileNotFoundError:
        if place.exists(PLAN):
            raise Unfinished(f"{folder}: an unfinished scoring run; run the same tu-score command again to finish it") from None
        raise Unfinished(f"{folder}: no score store here (no {MANIFEST}); expected the --out of a tu-score run") from None
    written = manifest["format"]
    told = None if written == FORMAT else sha256(json_bytes(manifest))
    for step in range(written, FORMAT):
        manifest = {**UPGRADES[step].manifest(manifest), "format": step + 1}
    if written != FORMAT:
        check_form(manifest, place.label(MANIFEST))
    return Store(place.where, Said(manifest, str(place.where)), written, told)


def check_fits(store: Store, fingerprints: dict[str, str], *, model: str) -> None:
    """Refuses a store made with another tokenizer, chat template or model, naming the first field that differs.

    Tokenizers that differ in padding alone are the same: their `vocabulary` is, which stores of earlier versions do not
    name.
    """
    same = "vocabulary" in fingerprints and store.fingerprints.get("vocabulary") == fingerprints["vocabulary"]
    for field, value in fingerprints.items():
        if field != "vocabulary" and store.fingerprints[field] != value and not (field == "tokenizer" and same):
            mend = "score this model, or train the model that was scored"
            if field == "chat_template":
                mend += " (template, system, template_date and template_options count too: left out, they are those of the scoring run)"
            raise StoreError(
                f"{store.folder}: made with another {field.replace('_', ' ')} than {model} has "
                f"(store {str(store.fingerprints[field])[:12]}, model {value[:12]}); {mend}"
            )
