"""The form of a manifest, checked in one place before anything in it is believed.

A valid hash says that a manifest is as somebody wrote it, and not who that was. A manifest also names the fields that
it lacks when one of them is asked for.
"""

from __future__ import annotations

from typing import Any

from shared.errors import StoreError
from shared.files import shape
from shared.files.shape import LARGEST, Count, Maybe, Named, misfit
from shared.store.parts import OPTIONAL, part_name

MOST_TOKENS = 2**31 - 1
"""of a part: its lists have 32-bit offsets"""
TEXT = Maybe((str, None))

OPTIONS = {
    "data": Maybe(str), "question_key": Maybe(str), "answer_key": Maybe(str), "text_key": TEXT,
    "messages_key": TEXT, "turns": TEXT, "limit": Maybe((Count(1), None)),
    "long": Maybe(str), "text_length": Maybe(Count(2)), "spans": Maybe(str), "window_length": Maybe(Count(1)),
    "window_stride": Maybe(Count(1)), "window_over": Maybe(str), "template": TEXT, "system": TEXT, "template_date": TEXT,
    "template_options": Maybe(({}, None)), "beginning_token": TEXT, "text_pieces": TEXT,
    "text_overlap": Maybe(Count(0)), "text_copies": TEXT,
}  # fmt: skip
PART = {"file": str, "rows": Count(0, MOST_TOKENS), "tokens": Count(0, MOST_TOKENS), "bytes": Count(), "sha256": str,
        "noticed": Maybe(Named(Count()))}  # fmt: skip
"""noticed: how often something was left out of it, or cut; not there where nothing was"""
FORM = {
    "optional": [str], "rows": Count(), "tokens": Count(), "parts": [PART],
    "fingerprints": Maybe(Named((str, None))), "options": Maybe(OPTIONS), "vocabulary_size": Maybe((Count(1, MOST_TOKENS), None)),
    "engine": Maybe({"name": str, "version": str, "dtype": str}),
    "replacement": Maybe({"kind": str}),
    "spans": Maybe({"variants": Count(), "sha256": str}),
    "row_ranges": Maybe([[Count()]]),
    "part_rows": Maybe([[Count()]]),
    "self_check": Maybe({"rows": [str], "largest_nats": float, "mean_nats": float, "bound_nats": float}),
    "recipe": Maybe((Named((str, float)), None)),
    "created_at": Maybe(str),
}  # fmt: skip
"""of this version's format; what earlier versions did not write may be missing"""


class Said(dict):
    """An object of a manifest. What it does not say is one clear line for whoever asks."""

    def __init__(self, values: dict[str, Any], where: str, path: str = ""):
        inner = {k: Said(v, where, f"{path}{k}.") if isinstance(v, dict) else v for k, v in values.items()}
        super().__init__(inner)
        self.where, self.path = where, path

    def __missing__(self, name: str) -> Any:
        raise StoreError(f"{self.where}: its manifest does not say {self.path}{name}; it was written by something else, score again")

    def __reduce__(self) -> Any:
        return Said, (dict(self), self.where, self.path)


def check_form(manifest: dict[str, Any], label: str) -> None:
    """Raises StoreError naming the first field that no writer of stores would have written."""
    wrong = misfit(manifest, FORM)
    if wrong is None:
        wrong = next((f"optional names {name!a:.60}, which is no column" for name in manifest["optional"] if name not in OPTIONAL), None)
    if wrong is None:
        names = [entry["file"] for entry in manifest["parts"]]
        wrong = next((f"parts.{i}.file is not {part_name(i)}" for i, name in enumerate(names) if name != part_name(i)), None)
    if wrong is None and any(sum(entry[what] for entry in manifest["parts"]) > LARGEST for what in ("rows", "tokens", "bytes")):
        wrong = "its parts hold more than any store"
    if wrong is not None:
        raise StoreError(f"{label}: not a manifest that tu-score wrote ({wrong}); copy the folder again or score again")


def parse(data: bytes, label: str) -> Any:
    """JSON of a store's file. Raises StoreError naming the file when it is none, or none that could be written
    again."""
    return shape.parse(data, label, hint="the file is damaged, copy the folder again or score again")
