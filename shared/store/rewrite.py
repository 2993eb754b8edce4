"""Replacing every part of a store at once.

The new parts, the hash of the manifest that is replaced and then the new manifest go into `_next`: with
`_next/_manifest.json` the rewrite is committed. Then each file is renamed over the old one, the manifest last, so that
a kill at any moment leaves the old state or the new one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pyarrow as pa

from shared.files.lock import locked
from shared.files.storage import Place
from shared.secret import without_secrets_in
from shared.store.files import MANIFEST, NEXT, REPLACES, committed, is_link, json_bytes, manifest_bytes, totals
from shared.store.manifest import check_form, parse
from shared.store.parts import describe, encode, schema, sha256
from shared.store.scores import Store, open_store


def rewrite(store: Store, change: Callable[[pa.Table], pa.Table], **manifest_changes: Any) -> Store:
    """Replaces every part by `change` of it, and fields of the manifest, all at once; returns the new store.

    `change` keeps the rows and gives the columns of `schema(optional)`. Raises StoreError when somebody else writes the
    store, or when it is damaged; the store is then as it was.
    """
    place = store.place
    with locked(place):
        settle(place)
        store = open_store(place.where)  # as it is under the lock
        columns = schema(manifest_changes.get("optional", store.optional))
        try:
            known = store.manifest["parts"]
            parts = [_rewrite_part(place, index, change(table), columns, known[index]) for index, table in enumerate(store.batches())]
            body = without_secrets_in({k: v for k, v in store.manifest.items() if k != "manifest_sha256"})
            place.write(f"{NEXT}/{REPLACES}", json_bytes({"manifest": sha256(place.read(MANIFEST))}))
            data = manifest_bytes({**body, **manifest_changes, **totals(parts)})
            check_form(parse(data, place.label(MANIFEST)), place.label(MANIFEST))  # or nobody could read the store again
            place.write(f"{NEXT}/{MANIFEST}", data)
        except BaseException:
            abandon(place)
            raise
        settle(place)
    return open_store(place.where)


def _rewrite_part(place: Place, index: int, table: pa.Table, columns: pa.Schema, known: dict[str, Any]) -> dict[str, Any]:
    data = encode(table, columns)
    entry = describe(index, table, data, known.get("noticed"))
    place.write(f"{NEXT}/{entry['file']}", data)
    return entry


def settle(place: Place) -> None:
    """Carries a committed rewrite to its end, and clears away one that was not committed. The caller holds the lock."""
    manifest = committed(place)
    if manifest is None:
        abandon(place)
        return
    for name in [*(entry["file"] for entry in manifest["parts"]), MANIFEST]:
        with suppress(FileNotFoundError):  # moved before a kill; asked by name, because a listing may lag behind
            place.move(f"{NEXT}/{name}", name)
    place.clear(NEXT)


def abandon(place: Place) -> None:
    """The manifest goes first: with it, parts that are already gone would be missing."""
    if not is_link(place, NEXT):
        place.delete(f"{NEXT}/{MANIFEST}")
    place.clear(NEXT)
