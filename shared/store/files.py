"""The files of a score store: their names, and each verified as it is read.

A rewrite that was committed and not carried to its end counts: its manifest is the store's, and each part is wherever
the bytes of its hash are (shared/store/rewrite.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from shared.errors import StoreError
from shared.files.fs import hash_json, json_text
from shared.files.shape import LARGEST
from shared.files.storage import LocalPlace, Place
from shared.secret import without_secrets_in
from shared.store.manifest import check_form, parse
from shared.store.parts import decode, sha256

FORMAT = 2
MANIFEST, PLAN, PROGRESS, NEXT, REPLACES = "_manifest.json", "_plan.json", "_progress", "_next", "_replaces.json"
PLANNED = ("options", "fingerprints", "engine", "replacement", "spans", "row_ranges", "part_rows", "rows", "tokens")
"""fields by which a manifest is known as one of the same plan"""
FOUND = ("fingerprints.data",)
"""fields that a manifest has and its plan has not: they are known at the end of a run"""


class Damaged(StoreError):
    """A manifest that is not as its writer left it."""


class Unfinished(StoreError):
    """There is no manifest."""


@dataclass(frozen=True)
class Upgrade:
    """How a store of one format is read as one of the next."""

    manifest: Callable[[dict[str, Any]], dict[str, Any]]
    table: Callable[[pa.Table], pa.Table]
    """all columns of a part"""


def _cut_by_tokens(manifest: dict[str, Any]) -> dict[str, Any]:
    """Of format 1: parts were ranges of examples (`part_rows`), now they are ranges of rows of the data
    (`row_ranges`)."""
    spans = manifest.get("spans")
    return {**manifest, "spans": {name: spans[name] for name in ("variants", "sha256")}} if isinstance(spans, dict) else manifest


UPGRADES: dict[int, Upgrade] = {1: Upgrade(_cut_by_tokens, lambda table: table)}
"""format -> what makes the next format of it, on read; `rewrite` then writes the newest. Formats before the first entry
are too old."""


def committed(place: Place) -> dict[str, Any] | None:
    """The manifest of a rewrite of this store that was committed and not carried to its end."""
    if is_link(place, NEXT):
        return None
    try:
        manifest = read_manifest(place, f"{NEXT}/{MANIFEST}")
    except FileNotFoundError:
        return None
    return manifest if _replaces(place, manifest) else None


def _replaces(place: Place, manifest: dict[str, Any]) -> bool:
    """Was this manifest made from the one that the store has? One of another store must not take its place.

    Where the store's own is gone or damaged, or an earlier version made the new one, which did not write down what it
    replaces, both have to be of one plan.
    """
    try:
        old = place.read(MANIFEST)
    except FileNotFoundError:
        old = None
    try:
        replaced = read_record(place, f"{NEXT}/{REPLACES}")
    except FileNotFoundError:
        replaced = None
    own = _own_manifest(place)
    if own is not None and replaced is not None:
        return own == manifest or (isinstance(replaced, dict) and replaced.get("manifest") == sha256(old or b""))
    if own is None:
        try:
            own = read_record(place, PLAN)
        except (FileNotFoundError, StoreError):
            return False
    if not isinstance(own, dict):
        return False
    fields = [name for name in PLANNED if name in own]
    return bool(fields) and all(_planned(own.get(name), name) == _planned(manifest.get(name), name) for name in fields)


def _planned(value: Any, name: str) -> Any:
    """A field without what no plan has."""
    value = without_secrets_in(value)
    return {k: v for k, v in value.items() if f"{name}.{k}" not in FOUND} if isinstance(value, dict) else value


def _own_manifest(place: Place) -> dict[str, Any] | None:
    """The store's own manifest, if it is there and whole."""
    try:
        return read_manifest(place, MANIFEST)
    except (FileNotFoundError, StoreError):
        return None


def read_manifest(place: Place, name: str) -> dict[str, Any]:
    """A manifest as it was written, in its own format. Raises StoreError when it is damaged or of a format that cannot
    be read."""
    data = place.read(name)
    try:
        manifest = parse(data, place.label(name))
    except StoreError as error:
        raise Damaged(str(error)) from None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if type(found) is int and FORMAT < found < LARGEST:
        raise StoreError(f"{place.where}: store format {found}, this version reads up to {FORMAT}; upgrade token-unlearn")
    body = {k: v for k, v in manifest.items() if k != "manifest_sha256"} if isinstance(manifest, dict) else {}
    if type(found) is not int or json_bytes(manifest) != data or manifest.get("manifest_sha256") != hash_json(body):
        raise Damaged(f"{place.label(name)}: damaged (its content does not fit its hash); copy the folder again or score again")
    if found < FORMAT and (found < 1 or any(step not in UPGRADES for step in range(found, FORMAT))):
        oldest = min((n for n in range(1, FORMAT + 1) if all(s in UPGRADES for s in range(n, FORMAT))), default=FORMAT)
        raise StoreError(f"{place.where}: store format {found}, the oldest that this version reads is {oldest}; score again, "
                         "or read it with the token-unlearn that wrote it")  # fmt: skip
    if found == FORMAT:
        try:
            check_form(manifest, place.label(name))
        except StoreError as error:
            raise Damaged(str(error)) from None
    return manifest


def verified(place: Place, entry: dict[str, Any], columns: Sequence[str] | None = None, expected: pa.Schema | None = None) -> pa.Table:
    """One part, after its bytes have been compared with the hash recorded for it."""
    name, found = entry["file"], None
    for candidate in (name, f"{NEXT}/{name}", name):  # a rewrite may move it from the second to the first between our looks
        try:
            data = _read_part(place, candidate, entry["bytes"])
        except FileNotFoundError:
            continue
        if sha256(data) == entry["sha256"]:
            return decode(data, place.label(candidate), columns, expected, rows=entry["rows"], tokens=entry["tokens"])
        found = data if found is None else found
    if found is None:
        raise StoreError(f"{place.label(name)}: the manifest names this part, but it is missing; copy the folder again or score again")
    raise StoreError(
        f"{place.label(name)}: its bytes are not those written (got {len(found)}, expected {entry['bytes']}, or a changed bit; "
        "or the store was rewritten while it was read); copy the folder again or score again"
    )


def _read_part(place: Place, name: str, size: int) -> bytes:
    """Of a file that is longer than it should be, no more than shows that."""
    if isinstance(place, LocalPlace) and (place.where / name).is_file() and (place.where / name).stat().st_size > size:
        with open(place.where / name, "rb") as handle:
            return handle.read(size + 1)
    return place.read(name)


def is_link(place: Place, name: str) -> bool:
    """What a link points to is not part of the store."""
    return isinstance(place.where, Path) and (place.where / name).is_symlink()


def read_record(place: Place, name: str) -> Any:
    """A file's JSON. Raises StoreError naming the file when it is not valid JSON."""
    return parse(place.read(name), place.label(name))


def totals(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {"rows": sum(p["rows"] for p in parts), "tokens": sum(p["tokens"] for p in parts), "parts": parts}


def manifest_bytes(body: dict[str, Any]) -> bytes:
    body = json.loads(json.dumps({k: v for k, v in body.items() if k != "manifest_sha256"}))
    return json_bytes({**body, "manifest_sha256": hash_json(body)})


def json_bytes(value: Any) -> bytes:
    return json_text(value).encode()
