"""The score store, format 1: Parquet parts and a manifest written last, in a local folder or behind an fsspec URL.

    _plan.json       what is being scored and how it is cut into parts; written first
    _progress/       while the run lasts: one file a finished part (its hash)
    _lock            while somebody writes (shared/files/lock.py)
    part-00000.parquet …
    _manifest.json   written last: a folder with it is a finished store, a folder without it an unfinished run
    _next/           while parts are being replaced (`rewrite`)

What comes from somewhere else is not believed: the manifest has the form of shared/store/manifest.py, a part that of
shared/store/parts.py, its values are those of shared/store/sound.py. A part is trusted only with the hash recorded for
it, and its pages carry checksums that are verified on every read.

A rewrite puts the new parts, the hash of the manifest that it replaces and then the new manifest into `_next`: with
`_next/_manifest.json` it is committed. Then each file is renamed over the old one, the manifest last. A reader takes
the manifest of `_next` when there is one that replaces this store's, and each part from wherever the bytes of its hash
are, so that a kill at any moment leaves the old state or the new one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from shared.errors import StoreError
from shared.files.fs import TEMPORARY, hash_json, json_text
from shared.files.lock import LOCK, locked
from shared.files.shape import LARGEST, misfit
from shared.files.storage import LocalPlace, Place, leftovers, open_place
from shared.secret import without_secrets_in
from shared.store.manifest import PART, Said, check_form, parse
from shared.store.parts import OPTIONAL, SCHEMA, TOKEN_COLUMNS, decode, describe, encode, part_name, schema, sha256
from shared.store.sound import require_sound

__all__ = ["OPTIONAL", "SCHEMA", "TOKEN_COLUMNS", "Store", "Upgrade", "Writer", "check_fits", "claim", "open_store", "part_name",
           "rewrite", "schema"]  # fmt: skip

FORMAT = 1
ADDED = ("fingerprints.vocabulary", "vocabulary_size")
"""fields of a plan that earlier versions did not write, and that others say already"""
MANIFEST, PLAN, PROGRESS, NEXT, REPLACES = "_manifest.json", "_plan.json", "_progress", "_next", "_replaces.json"
HARMLESS = (LOCK, f"{TEMPORARY}{PLAN}", f"{TEMPORARY}{LOCK}")
"""beginnings of what a run leaves that was killed before its plan was there"""


PLANNED = ("options", "fingerprints", "engine", "replacement", "spans", "part_rows", "rows", "tokens")
"""fields by which a manifest is known as one of the same plan"""


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


UPGRADES: dict[int, Upgrade] = {}
"""format -> what makes the next format of it, on read; `rewrite` then writes the newest. Formats before the first entry
are too old."""


@contextmanager
def claim(where: str | Path) -> Iterator[Place]:
    """The place of a store that is to be written: it can be reached, holds nothing or a store, and is nobody else's
    during the block.

    Raises StoreError otherwise, and ConfigError for a URL of an unknown kind; a folder that was made for nothing is
    removed again.
    """
    place = open_place(where)
    refuse_foreign(place)
    with place.made(), locked(place):
        yield place


def refuse_foreign(place: Place) -> None:
    """Raises StoreError when the place holds anything but a score store or the beginning of one."""
    if isinstance(place.where, Path) and place.where.exists() and not place.where.is_dir():
        raise StoreError(f"{place.where}: is a file; --out wants a folder")
    names = place.names()
    if not {PLAN, MANIFEST} & set(names) and not all(name.startswith(HARMLESS) for name in names):
        raise StoreError(f"{place.where}: already holds files that are not a score store; choose a new --out")


class Writer:
    """Writes the parts of one run; a killed run is taken up where it was. The caller holds the lock (`claim`)."""

    def __init__(self, where: str | Path, plan: dict[str, Any]):
        """Starts a run, or resumes one with the same plan. Raises StoreError when the folder holds anything else.

        `plan` is kept in the manifest; `plan["optional"]` names the optional columns.
        """
        self.place = open_place(where)
        self.plan = without_secrets_in(json.loads(json.dumps({"format": FORMAT, "optional": [], **plan})))
        self.schema = schema(self.plan["optional"])
        refuse_foreign(self.place)
        self.kept = self._kept()
        """the manifest of a finished store; its parts may be damaged"""
        earlier = self._earlier()
        if earlier is not None:
            self._check_same(earlier)
        if earlier is None or self.lost_plan:
            if isinstance(self.place.where, Path):
                self.place.where.mkdir(parents=True, exist_ok=True)
            self.place.write(PLAN, _json_bytes(self.plan))
        self.parts: dict[int, dict[str, Any]] = self._sound_parts() | self._finished()

    @property
    def folder(self) -> Path | str:
        return self.place.where

    def _kept(self) -> dict[str, Any] | None:
        """Raises StoreError for a store of a format that this version does not read."""
        self.lost_manifest = self.lost_plan = False
        """there was one, but damaged"""
        try:
            settle(self.place)
        except Damaged:
            _abandon(self.place)
        try:
            return open_store(self.place.where).manifest
        except Damaged:
            self.lost_manifest = True
        except Unfinished:
            pass
        return None

    def _earlier(self) -> Any:
        """The plan that the place holds; of a finished store whose plan is damaged, what its manifest says of it. None:
        there is none."""
        try:
            return _json(self.place, PLAN)
        except FileNotFoundError:
            if self.kept is None and not self.lost_manifest:
                return None
            why = f"{self.place.label(PLAN)}: missing"
        except StoreError as error:
            why = str(error).partition(";")[0]
        if self.kept is None:
            raise StoreError(f"{why}; delete the folder, or choose a new --out, and score again")
        self.lost_plan = True
        return {name: self.kept[name] for name in self.plan if name in self.kept}

    def _check_same(self, earlier: Any) -> None:
        if not isinstance(earlier, dict):
            earlier = {"format": None}
        earlier = without_secrets_in(earlier)  # earlier versions wrote them down
        for field in sorted({*_flat(earlier), *_flat(self.plan)}):
            if field in ADDED and field not in _flat(earlier):
                continue  # an earlier version began this run
            was, now = _flat(earlier).get(field), _flat(self.plan).get(field)
            if was != now:
                raise StoreError(
                    f"{self.folder}: holds another run: its {field} is {_short(was)}, this run's is {_short(now)}; "
                    "choose a new --out, or delete the folder"
                )

    def _sound_parts(self) -> dict[int, dict[str, Any]]:
        """Parts of a finished store that are what its manifest says of them."""
        entries = self.kept["parts"] if self.kept is not None else []
        sound = {}
        for index, entry in enumerate(entries):
            with suppress(StoreError):
                _verified(self.place, entry, ["input_ids"], self.schema)
                sound[index] = entry
        return sound

    def _finished(self) -> dict[int, dict[str, Any]]:
        """Parts of an unfinished run that are what was recorded of them; the others are scored again."""
        done = {}
        for name in self.place.names(PROGRESS):
            try:
                entry = _json(self.place, f"{PROGRESS}/{name}")
                index = int(name.removesuffix(".json"))
                if (
                    name != f"{index:05d}.json"
                    or misfit(entry, PART)
                    or entry["file"] != part_name(index)
                    or not self._planned(index, entry)
                ):
                    continue
                table = _verified(self.place, entry, ["input_ids"], self.schema)
                if len(table) == entry["rows"]:
                    done[index] = entry
            except (FileNotFoundError, StoreError, ValueError):
                continue  # torn or damaged, or the part of it is
        return done

    def _planned(self, index: int, entry: dict[str, Any]) -> bool:
        """Is it the part of that number, with the rows that the plan gives it?"""
        parts = self.plan.get("part_rows")
        if entry["file"] != part_name(index):
            return False
        return parts is None or (0 <= index < len(parts) and parts[index][1] - parts[index][0] == entry["rows"])

    @property
    def finished(self) -> bool:
        """A store that is whole: a manifest, and every part that it names as it says."""
        return self.kept is not None and all(entry == self.parts.get(index) for index, entry in enumerate(self.kept["parts"]))

    @property
    def damage(self) -> str | None:
        """What has to be scored again of a store that was finished once, and why; None where it was not, or is
        whole."""
        if self.lost_manifest:
            return f"{MANIFEST} is damaged, so no part can be trusted"
        if self.kept is None or self.finished:
            return None
        lost = [index for index in range(len(self.kept["parts"])) if index not in self.parts]
        if not lost:
            return "it was being mended"
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        return f"{part_name(lost[0])}{more} of {len(self.kept['parts'])} parts missing or damaged"

    def as_store(self) -> Store:
        """What is written so far, as a store to be read; its parts in order, whatever their numbers."""
        return Store(self.place.where, Said({**self.plan, **_totals([self.parts[i] for i in sorted(self.parts)])}, str(self.place.where)))

    def write_part(self, index: int, columns: dict[str, Any] | pa.Table) -> None:
        """`columns`: a table, or one list (or Arrow array) a column of the schema, one entry a row."""
        table = columns if isinstance(columns, pa.Table) else pa.table(columns, schema=self.schema)
        data = encode(table, self.schema)
        entry = describe(index, table, data)
        self.place.write(entry["file"], data)
        self.place.write(f"{PROGRESS}/{index:05d}.json", _json_bytes(entry))
        self.parts[index] = entry

    def read_part(self, index: int) -> pa.Table:
        return _verified(self.place, self.parts[index], expected=self.schema)

    def finish(self, **more: Any) -> None:
        """Writes the manifest; the store is complete from then on."""
        self.place.write(MANIFEST, _manifest_bytes({**self.plan, **_totals([self.parts[i] for i in sorted(self.parts)]), **more}))
        self.tidy()

    def tidy(self) -> None:
        """Removes what only an unfinished run needs, and what a kill left half-written; carries a committed rewrite to
        its end."""
        self.place.clear(PROGRESS)
        for name in leftovers(self.place.names()):
            if not name.startswith(f"{TEMPORARY}{LOCK}"):  # the holder's own sign of life, where flock does not work
                self.place.delete(name)
        settle(self.place)


@dataclass(frozen=True)
class Store:
    """A finished store. Rows are read part by part, each verified."""

    folder: Path | str
    """a path, or a URL"""
    manifest: dict[str, Any]
    """of this version's format"""
    written: int = FORMAT
    """the format in which the parts were written"""

    @cached_property
    def place(self) -> Place:
        return open_place(self.folder)

    @property
    def fingerprints(self) -> dict[str, str | None]:
        return self.manifest["fingerprints"]

    @property
    def optional(self) -> list[str]:
        """The optional columns that it has."""
        return self.manifest["optional"]

    @property
    def sha256(self) -> str:
        """Of the manifest's bytes; it covers those of every part."""
        return sha256(_json_bytes(self.manifest))

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
            return _verified(self.place, entry, columns, schema(self.optional))
        table = _verified(self.place, entry)
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
        for index in range(len(self.manifest["parts"])):
            yield from self.part(index, columns)


def open_store(folder: str | Path) -> Store:
    """Raises StoreError when the folder is missing, unfinished, damaged, or of a format that this version does not
    read."""
    place = open_place(folder)
    try:
        manifest = _committed(place) or _manifest(place, MANIFEST)
    except FileNotFoundError:
        if place.exists(PLAN):
            raise Unfinished(f"{folder}: an unfinished scoring run; run the same tu-score command again to finish it") from None
        raise Unfinished(f"{folder}: no score store here (no {MANIFEST}); expected the --out of a tu-score run") from None
    written = manifest["format"]
    for step in range(written, FORMAT):
        manifest = {**UPGRADES[step].manifest(manifest), "format": step + 1}
    if written != FORMAT:
        check_form(manifest, place.label(MANIFEST))
    return Store(place.where, Said(manifest, str(place.where)), written)


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
            parts = [_rewrite_part(place, index, change(table), columns) for index, table in enumerate(store.batches())]
            body = without_secrets_in({k: v for k, v in store.manifest.items() if k != "manifest_sha256"})
            place.write(f"{NEXT}/{REPLACES}", _json_bytes({"manifest": sha256(place.read(MANIFEST))}))
            place.write(f"{NEXT}/{MANIFEST}", _manifest_bytes({**body, **manifest_changes, **_totals(parts)}))
        except BaseException:
            _abandon(place)
            raise
        settle(place)
    return open_store(place.where)


def _rewrite_part(place: Place, index: int, table: pa.Table, columns: pa.Schema) -> dict[str, Any]:
    data = encode(table, columns)
    entry = describe(index, table, data)
    place.write(f"{NEXT}/{entry['file']}", data)
    return entry


def settle(place: Place) -> None:
    """Carries a committed rewrite to its end, and clears away one that was not committed. The caller holds the lock."""
    manifest = _committed(place)
    if manifest is None:
        _abandon(place)
        return
    waiting = set(place.names(NEXT))
    for name in [entry["file"] for entry in manifest["parts"] if entry["file"] in waiting] + [MANIFEST]:
        place.move(f"{NEXT}/{name}", name)
    place.clear(NEXT)


def _abandon(place: Place) -> None:
    """The manifest goes first: with it, parts that are already gone would be missing."""
    if not _is_link(place, NEXT):
        place.delete(f"{NEXT}/{MANIFEST}")
    place.clear(NEXT)


def _is_link(place: Place, name: str) -> bool:
    """What a link points to is not part of the store."""
    return isinstance(place.where, Path) and (place.where / name).is_symlink()


def _committed(place: Place) -> dict[str, Any] | None:
    """The manifest of a rewrite of this store that was committed and not carried to its end."""
    if _is_link(place, NEXT):
        return None
    try:
        manifest = _manifest(place, f"{NEXT}/{MANIFEST}")
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
        replaced = _json(place, f"{NEXT}/{REPLACES}")
    except FileNotFoundError:
        replaced = None
    own = _own_manifest(place)
    if own is not None and replaced is not None:
        return own == manifest or (isinstance(replaced, dict) and replaced.get("manifest") == sha256(old or b""))
    if own is None:
        try:
            own = _json(place, PLAN)
        except (FileNotFoundError, StoreError):
            return False
    fields = [name for name in PLANNED if name in own] if isinstance(own, dict) else []
    return bool(fields) and all(without_secrets_in(own.get(name)) == without_secrets_in(manifest.get(name)) for name in fields)


def _own_manifest(place: Place) -> dict[str, Any] | None:
    """The store's own manifest, if it is there and whole."""
    try:
        return _manifest(place, MANIFEST)
    except (FileNotFoundError, StoreError):
        return None


def _manifest(place: Place, name: str) -> dict[str, Any]:
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
    if type(found) is not int or _json_bytes(manifest) != data or manifest.get("manifest_sha256") != hash_json(body):
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


def _verified(place: Place, entry: dict[str, Any], columns: Sequence[str] | None = None, expected: pa.Schema | None = None) -> pa.Table:
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


def _totals(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {"rows": sum(p["rows"] for p in parts), "tokens": sum(p["tokens"] for p in parts), "parts": parts}


def _manifest_bytes(body: dict[str, Any]) -> bytes:
    body = json.loads(json.dumps({k: v for k, v in body.items() if k != "manifest_sha256"}))
    return _json_bytes({**body, "manifest_sha256": hash_json(body)})


def _json_bytes(value: Any) -> bytes:
    return json_text(value).encode()


def _json(place: Place, name: str) -> Any:
    """A file's JSON. Raises StoreError naming the file when it is not valid JSON."""
    return parse(place.read(name), place.label(name))


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for name, item in value.items() for k, v in _flat(item, f"{prefix}.{name}" if prefix else name).items()}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
