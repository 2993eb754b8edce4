"""Writing a score store part by part, so that a killed run goes on where it was."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from shared.errors import StoreError
from shared.files.fs import TEMPORARY
from shared.files.lock import LOCK, locked
from shared.files.shape import misfit
from shared.files.storage import Place, leftovers, open_place
from shared.secret import without_secrets_in
from shared.store.files import (
    FORMAT,
    FOUND,
    MANIFEST,
    PLAN,
    PROGRESS,
    Damaged,
    Unfinished,
    json_bytes,
    manifest_bytes,
    read_record,
    totals,
    verified,
)
from shared.store.manifest import PART, Said
from shared.store.parts import describe, encode, part_name, schema
from shared.store.rewrite import abandon, settle
from shared.store.scores import Store, open_store

ADDED = ("fingerprints.vocabulary", "vocabulary_size")
"""fields of a plan that earlier versions did not write, and that others say already"""
FLAGS = {"fingerprints.model": "--model", "fingerprints.base_model": "--base-model", "fingerprints.rows": "the text of --data"}
"""field of a plan -> what of the command line it stands for; of options it is the name of the setting"""
SHA256 = re.compile(r"[0-9a-f]{64}")
SHARDS = "_shards"
"""folder of what shards of a run have scored (tu_score/shards.py)"""
HARMLESS = (LOCK, SHARDS, f"{TEMPORARY}{PLAN}", f"{TEMPORARY}{LOCK}")
"""beginnings of what a run leaves that was killed before its plan was there"""


@contextmanager
def claim(where: str | Path) -> Iterator[Place]:
    """The place of a store that is to be written: it can be written, holds nothing or a store, and is nobody else's
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
    if place.exists(PLAN) or place.exists(MANIFEST):  # by name: a listing may lag behind, and be long
        return
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
            self.place.write(PLAN, json_bytes(self.plan))
        self.noticed: dict[int, dict[str, int]] = {}
        """what whoever made a part counted on the way, to be recorded when it is written"""
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
            abandon(self.place)
        self.written = FORMAT
        try:
            store = open_store(self.place.where)
            self.written = store.written
            return store.manifest
        except Damaged:
            self.lost_manifest = True
        except Unfinished:
            pass
        return None

    def _earlier(self) -> Any:
        """The plan that the place holds; of a finished store whose plan is damaged, what its manifest says of it. None:
        there is none."""
        try:
            return read_record(self.place, PLAN)
        except FileNotFoundError:
            if self.kept is None and not self.lost_manifest:
                return None
            why = f"{self.place.label(PLAN)}: missing"
        except StoreError as error:
            why = str(error).partition(";")[0]
        if self.kept is None:
            raise StoreError(f"{why}; delete the folder, or choose a new --out, and score again")
        self.lost_plan = True
        return {name: self.kept[name] for name in self.plan if name in self.kept} | {"format": self.written}

    def _check_same(self, earlier: Any) -> None:
        if not isinstance(earlier, dict):
            earlier = {"format": None}
        earlier = without_secrets_in(earlier)  # earlier versions wrote them down
        if earlier.get("format") == 1:
            self._check_same_run(earlier)
            return
        for field in sorted({*flat_plan(earlier), *flat_plan(self.plan)}):
            if (field in ADDED and field not in flat_plan(earlier)) or (field in FOUND and field not in flat_plan(self.plan)):
                continue  # an earlier version began this run; or it was known at its end alone
            was, now = flat_plan(earlier).get(field), flat_plan(self.plan).get(field)
            if was != now:
                raise self._another(field, was, now)

    def _check_same_run(self, earlier: dict[str, Any]) -> None:
        """Of format 1, which cut the data otherwise: nothing can be added to it. Raises StoreError where it is not
        whole, or of other settings than this run."""
        whole = self.kept is not None and all(self._is_sound(entry) for entry in self.kept["parts"])
        if not whole:
            raise StoreError(f"{self.folder}: was begun by an earlier version of token-unlearn, which cuts the data otherwise; finish it "
                             "with that version, or score again with a new --out")  # fmt: skip
        for name in ("options", "fingerprints", "engine"):
            was, now = flat_plan(earlier.get(name), name), flat_plan(self.plan.get(name), name)
            if changed := next((field for field in was if field in now and was[field] != now[field]), None):
                raise self._another(changed, was[changed], now[changed])

    def _another(self, field: str, was: Any, now: Any) -> StoreError:
        """That the folder is of another run, in the words of the command line where it has some."""
        what = FLAGS.get(field) or field.rpartition(".")[2].replace("_", " ")
        if field.startswith("options."):
            what = f"--set {field.removeprefix('options.')}"
        if field.startswith("fingerprints.") and None not in (was, now):
            change = f"{what} is another one now (SHA-256 then {_short(was)}, now {_short(now)})"
        else:
            change = f"{what} was {_short(was)}, now it is {_short(now)}"
        return StoreError(
            f"{self.folder}: holds another run: {change}; give the command as it was begun, choose a new --out, or delete the folder"
        )

    def _sound_parts(self) -> dict[int, dict[str, Any]]:
        """Parts of a finished store that are what its manifest says of them."""
        entries = self.kept["parts"] if self.kept is not None else []
        return {index: entry for index, entry in enumerate(entries) if self._is_sound(entry)}

    def _is_sound(self, entry: dict[str, Any]) -> bool:
        with suppress(StoreError):
            verified(self.place, entry, ["input_ids"], self.schema)
            return True
        return False

    def _finished(self) -> dict[int, dict[str, Any]]:
        """Parts of an unfinished run that are what was recorded of them; the others are scored again."""
        done = {}
        for name in self.place.names(PROGRESS):
            try:
                entry = read_record(self.place, f"{PROGRESS}/{name}")
                index = int(name.removesuffix(".json"))
                if (
                    name != f"{index:05d}.json"
                    or misfit(entry, PART)
                    or entry["file"] != part_name(index)
                    or not self._planned(index, entry)
                ):
                    continue
                table = verified(self.place, entry, ["input_ids"], self.schema)
                if len(table) == entry["rows"]:
                    done[index] = entry
            except (FileNotFoundError, StoreError, ValueError):
                continue  # torn or damaged, or the part of it is
        return done

    def _planned(self, index: int, entry: dict[str, Any]) -> bool:
        """Is it the part of that number, and one of the plan?"""
        parts = self.plan.get("row_ranges")
        return entry["file"] == part_name(index) and (parts is None or 0 <= index < len(parts))

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
        return Store(self.place.where, Said({**self.plan, **totals([self.parts[i] for i in sorted(self.parts)])}, str(self.place.where)))

    def write_part(self, index: int, columns: dict[str, Any] | pa.Table) -> None:
        """`columns`: a table, or one list (or Arrow array) a column of the schema, one entry a row."""
        table = columns if isinstance(columns, pa.Table) else pa.table(columns, schema=self.schema)
        data = encode(table, self.schema)
        noticed = self.noticed.get(index, self.parts.get(index, {}).get("noticed"))  # a part that is replaced keeps its own
        entry = describe(index, table, data, noticed)
        self.place.write(entry["file"], data)
        self.place.write(f"{PROGRESS}/{index:05d}.json", json_bytes(entry))
        self.parts[index] = entry

    def take_part(self, index: int, entry: dict[str, Any], data: bytes) -> None:
        """A part that was written elsewhere, as it is; `entry`: what is recorded of it, which the caller has
        verified."""
        self.place.write(entry["file"], data)
        self.place.write(f"{PROGRESS}/{index:05d}.json", json_bytes(entry))
        self.parts[index] = entry

    def read_part(self, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        return verified(self.place, self.parts[index], columns, self.schema)

    def finish(self, **more: Any) -> None:
        """Writes the manifest; the store is complete from then on."""
        self.place.write(MANIFEST, manifest_bytes({**self.plan, **totals([self.parts[i] for i in sorted(self.parts)]), **more}))
        self.tidy()

    def tidy(self) -> None:
        """Removes what only an unfinished run needs, and what a kill left half-written; carries a committed rewrite to
        its end."""
        self.place.clear(PROGRESS)
        if isinstance(self.place.where, Path):  # an object is there as a whole, or not at all
            for name in leftovers(self.place.names()):
                if not name.startswith(f"{TEMPORARY}{LOCK}"):  # the holder's own sign of life, where flock does not work
                    self.place.delete(name)
        settle(self.place)


def flat_plan(value: Any, prefix: str = "") -> dict[str, Any]:
    """The values of nested objects by their paths, as in `options.data`."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for name, item in value.items() for k, v in flat_plan(item, f"{prefix}.{name}" if prefix else name).items()}


def _short(value: Any) -> str:
    """For messages; of a sha256 enough to tell two apart."""
    if value is None:
        return "not given"
    if isinstance(value, str) and SHA256.fullmatch(value):
        return value[:12]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
