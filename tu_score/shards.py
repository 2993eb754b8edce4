"""`--shard 3/64`: a share of the parts, scored without a coordinator, and `tu-score merge`, which joins them.

Shard k of n has the parts k-1, k-1+n, k-1+2n, … and a folder of its own, OUT/_shards/k-of-n, so that shards never write
the same file, on whatever file system or object store. `merge` compares their plans and every hash, copies the parts
into OUT and finishes it as a run of one worker would have.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.console import say
from shared.errors import StoreError
from shared.files.shape import Count, Named, misfit
from shared.files.storage import Place, open_place
from shared.secret import without_secrets
from shared.store.files import MANIFEST, PLAN, json_bytes, read_record, verified
from shared.store.manifest import PART
from shared.store.scores import open_store
from shared.store.writer import SHARDS, Writer, claim, flat_plan
from shared.weighting.importance import CODE, Recipe
from tu_score.check import Finding, check_of
from tu_score.config import ScoreConfig
from tu_score.count import require_some, say_all_noticed
from tu_score.finish import applied, whole
from tu_score.recipe import apply_recipe

SHARD = "_shard.json"
MERGED = "_merged.json"
"""lies beside a finished store while its shards are removed"""
FORM = {
    "number": Count(1), "of": Count(1), "parts": [{"index": Count(), "entry": PART}], "recipe": Named((str, float)),
    "waits": bool, "lacking": bool, "dtype": str,
    "check": [{"part": Count(), "place": Count(), "id": str, "largest": float, "sum": float, "number": Count()}],
}  # fmt: skip


def place_of(out: str, number: int, of: int) -> str:
    return f"{out.rstrip('/')}/{SHARDS}/{number}-of-{of}"


def write_shard(place: Place, number: int, of: int, writer: Writer, found: Sequence[Finding], config: ScoreConfig) -> None:
    """What `merge` needs of a shard that is done; with it the shard is complete."""
    parts = [{"index": index, "entry": entry} for index, entry in sorted(writer.parts.items())]
    told = {"number": number, "of": of, "parts": parts, "recipe": config.recipe.written(), "waits": config.recipe.waits,
            "lacking": bool(config.lacking), "dtype": config.dtype, "check": list(found)}  # fmt: skip
    place.write(SHARD, json_bytes(told))


@dataclass(frozen=True)
class Shard:
    place: Place
    plan: dict[str, Any]
    told: dict[str, Any]

    @property
    def name(self) -> str:
        return without_secrets(str(self.place.where))


def shards_in(where: str) -> list[Shard]:
    """Those that are done, of an OUT. Raises StoreError for one that is not, or that is damaged."""
    found = []
    for name in open_place(where).names(SHARDS):
        place = open_place(f"{where.rstrip('/')}/{SHARDS}/{name}")
        label = without_secrets(str(place.where))
        try:
            plan, told = read_record(place, PLAN), read_record(place, SHARD)
        except FileNotFoundError:
            raise StoreError(f"{label}: this shard is not done; give its tu-score run command again") from None
        if wrong := misfit(told, FORM):
            raise StoreError(f"{label}/{SHARD}: damaged ({wrong}); give the shard's tu-score run command again")
        found.append(Shard(place, plan, told))
    return found


def merge(out: str, more: Sequence[str] = ()) -> Path | str:
    """Joins the shards in OUT, and in other folders, into a store at OUT; returns it. Raises StoreError for shards of
    different plans, one that is missing or there twice, and damage. A merge that was killed goes on."""
    place = open_place(out)
    try:
        shards = [] if place.exists(MERGED) else [shard for where in (out, *more) for shard in shards_in(where)]
        _require_one_plan(shards)
        _require_all(shards)
    except StoreError:
        if not place.exists(MANIFEST) or not _merged_before(place):
            raise
        shards = []
    if not shards:
        if place.exists(MANIFEST):
            _remove_shards(place)
            say(f"{without_secrets(out)}: this store is finished; nothing to merge")
            return place.where
        raise StoreError(f"{without_secrets(out)}: no shards here (no {SHARDS}); expected the --out of tu-score run --shard K/N")
    told = shards[0].told
    with claim(out) as place:
        writer = Writer(out, shards[0].plan)
        if not writer.finished:
            for shard in shards:
                _take(shard, writer)
            place.write("_config.toml", b"".join(_settings(shards[0])))
            _finish(writer, shards)
    store = open_store(out)
    if told["waits"] and not told["lacking"] and store.manifest["recipe"] is None:
        apply_recipe(store, recipe_of(shards[0]))
    place.write(MERGED, b"{}\n")
    _remove_shards(place)
    return place.where


def _merged_before(place: Place) -> bool:
    """Of a finished store: whether what is left of shards in it is of a merge that was killed while it removed them, or
    nothing is, and the others lie elsewhere. Merges of earlier versions did not say so beforehand."""
    plan, recipe = flat_plan(read_record(place, PLAN)), open_store(place.where).manifest["recipe"]
    for name in place.names(SHARDS):
        try:
            shard = open_place(f"{place.where}/{SHARDS}/{name}")
            if flat_plan(read_record(shard, PLAN)) != plan:
                return False
            told = read_record(shard, SHARD)
        except FileNotFoundError:  # half removed
            continue
        if recipe is None and misfit(told, FORM) is None and told["waits"] and not told["lacking"]:
            return False  # removing them comes after their importance
    return True


def _remove_shards(place: Place) -> None:
    """Of a store that has all of them; what says so goes last, so that a kill on the way is no shard that is lost."""
    place.clear(SHARDS)
    place.delete(MERGED)


def recipe_of(shard: Shard) -> Recipe:
    """Raises StoreError where the importance of the shards is by code that is not here."""
    told = shard.told["recipe"]
    recipe = Recipe.recorded(told)
    if recipe.codes() != {name: code for name, code in told.items() if name.endswith(CODE)}:
        raise StoreError(f"{shard.name}: its importance is by {recipe.describe()}, of code that this package does not have; merge with the "
                         "version that scored, and with built-in signals")  # fmt: skip
    return recipe


def _settings(shard: Shard) -> list[bytes]:
    """Lines of its settings, as a run of one worker has them."""
    return [line for line in shard.place.read("_config.toml").splitlines(keepends=True) if not line.startswith(b"shard = ")]


def _require_one_plan(shards: Sequence[Shard]) -> None:
    if not shards:
        return
    first = shards[0]
    if not isinstance(first.plan.get("row_ranges") if isinstance(first.plan, dict) else None, list):
        raise StoreError(f"{first.name}/{PLAN}: damaged (no row_ranges); give the shard's tu-score run command again")
    for other in shards[1:]:
        one, two = flat_plan(first.plan), flat_plan(other.plan)
        if differs := next((name for name in sorted({*one, *two}) if one.get(name) != two.get(name)), None):
            raise StoreError(f"{other.name}: is of another run than {first.name}: its {differs} differs; merge shards of one command")
        if other.told["of"] != first.told["of"]:
            raise StoreError(f"{other.name}: is one of {other.told['of']} shards, {first.name} one of {first.told['of']}; "
                             "merge shards of one command")  # fmt: skip


def _require_all(shards: Sequence[Shard]) -> None:
    if not shards:
        return
    of, seen = shards[0].told["of"], {}
    for shard in shards:
        other = seen.setdefault(shard.told["number"], shard)
        if other is not shard:
            raise StoreError(f"{shard.name}: shard {shard.told['number']} is here twice, also as {other.name}; name each folder once")
    if missing := sorted(set(range(1, of + 1)) - set(seen)):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise StoreError(f"shard {missing[0]} of {of}{more} is missing; score it with --shard {missing[0]}/{of}, then merge again")


def _take(shard: Shard, writer: Writer) -> None:
    """Copies the parts that the store does not have yet, each compared with its hash. Raises StoreError for a damaged
    one, or one that is not the shard's."""
    parts, of = len(writer.plan["row_ranges"]), shard.told["of"]
    entries = {part["index"]: part["entry"] for part in shard.told["parts"]}
    if set(entries) != set(range(shard.told["number"] - 1, parts, of)):
        raise StoreError(f"{shard.name}: does not hold the parts of shard {shard.told['number']} of {of}; give its command again")
    for index, entry in entries.items():
        if index not in writer.parts:
            verified(shard.place, entry, ["input_ids"], writer.schema)
            writer.take_part(index, entry, shard.place.read(entry["file"]))


def _finish(writer: Writer, shards: Sequence[Shard]) -> None:
    told = shards[0].told
    require_some(sum(entry["rows"] for entry in writer.parts.values()))
    found = [one for shard in shards for one in shard.told["check"]]
    check = check_of(found, str(writer.folder), told["dtype"])
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    recipe = applied(writer, recipe_of(shards[0]), later_on=told["lacking"] or told["waits"])
    writer.finish(**whole(writer), self_check=check, recipe=recipe, created_at=now)
    say_all_noticed(writer.plan["options"], writer.parts.values())
