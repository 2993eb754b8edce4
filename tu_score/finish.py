"""After the last part: what a manifest says of all parts together, and the importance that it records."""

from __future__ import annotations

import hashlib
from typing import Any

from shared.console import say
from shared.data.examples import DataHash, data_fingerprint
from shared.errors import StoreError
from shared.files.fs import json_text
from shared.secret import without_secrets
from shared.store.writer import Writer
from shared.weighting.importance import CODE, FILE, Recipe
from tu_score.recipe import Seen, survey, with_importance, without_importance
from tu_score.source import Source


def whole(writer: Writer) -> dict[str, Any]:
    """What a manifest says of all parts together: the fingerprint of the data, and the masked variants. One part is in
    memory at a time."""
    data, spans, variants = DataHash(), hashlib.sha256(), 0
    for index in sorted(writer.parts):
        for row in writer.read_part(index, ["example_id", "input_ids", "is_target", "spans"]).to_pylist():
            data.add(row["example_id"], row["input_ids"], row["is_target"])
            spans.update(json_text([row["example_id"], [[s["start"], s["end"]] for s in row["spans"]]]).encode())
            variants += len(row["spans"])
    fingerprints = {**writer.plan["fingerprints"], "data": data.hexdigest()}
    return {"fingerprints": fingerprints, "spans": {"variants": variants, "sha256": spans.hexdigest()}}


def require_same_data(writer: Writer, source: Source) -> None:
    """A store of an earlier version knows its data by their tokens alone. Raises StoreError where they are others."""
    assert writer.kept is not None
    known = writer.kept["fingerprints"]
    if "rows" not in known and known["data"] != data_fingerprint(e for row in source.rows() for e in source.examples([row])):
        raise StoreError(f"{without_secrets(str(writer.folder))}: holds another run: it was scored from other data; choose a new --out")


def applied(writer: Writer, recipe: Recipe, *, later_on: bool) -> dict[str, Any] | None:
    """The recipe for the manifest. A store that is mended keeps the one that was applied to it since: its other parts
    have it. `later_on`: importance of `recipe` is not written with the parts."""
    own = None if later_on else recipe.written()
    later = writer.kept["recipe"] if writer.kept is not None else None
    if later is None or later == own:
        return own
    if FILE in later:
        return _without_file(writer, recipe, own)
    recipe, store = Recipe.recorded(later), writer.as_store()
    if recipe.codes() != {name: code for name, code in later.items() if name.endswith(CODE)}:
        raise StoreError(f"{without_secrets(str(store.folder))}: its importance is by {recipe.describe()}, of code that this run does not "
                         "name or that has changed since; what is lost cannot be made like the rest: choose a new --out")  # fmt: skip
    seen = survey(store, recipe)
    for index in sorted(writer.parts):
        writer.write_part(index, with_importance(writer.read_part(index), recipe, seen, store))
    return dict(later)


def _without_file(writer: Writer, recipe: Recipe, own: dict[str, Any] | None) -> dict[str, Any] | None:
    """A store that is mended cannot have the importance of a file that is not there: all parts get this run's own
    again."""
    say(f"{without_secrets(str(writer.folder))}: its importance came from a file of your own, of which the lost parts cannot be made; "
        "all of it is by this run's recipe again, tu-score recipe --importance puts yours back")  # fmt: skip
    for index in sorted(writer.parts):
        bare = without_importance(writer.read_part(index))  # stays so where there is none, or where it waits for all parts
        writer.write_part(index, bare if own is None else with_importance(bare, recipe, Seen(), writer.as_store()))
    return own
