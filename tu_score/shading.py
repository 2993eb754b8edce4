"""Which tokens of an example are shaded, and how strongly; the terminal and the page both draw from here.

A shade compares the target tokens of one example: 0 for the lowest value, 1 for the highest; importance is 0 to 1 as it
stands. Signed signals are shaded by size. The signals are those below, each computed from columns of the store, so no
model is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Any

import numpy as np

from shared.errors import ConfigError, StoreError, nearest
from shared.store.auto_keep import settled
from shared.store.scores import Store
from shared.weighting.selection import KEEP, Selection
from shared.weighting.weights import most_important, share_count, token_weights

TOP_SHARE = KEEP
SPANS = "any --spans but none"
FEW = 20
"""ids that a message names, all of them"""


@dataclass(frozen=True)
class Shading:
    meaning: str
    columns: tuple[str, ...]
    """the signal is this column, or the first minus the second"""
    needs: str = ""
    """the scoring option that adds it; empty when every store holds it"""
    unit: str = "nats"
    signed: bool = False


SIGNALS = {
    "importance": Shading(
        "how much of the knowledge a token carries, by the store's recipe", ("importance",),
        needs=f"{SPANS}, or a recipe over columns that the store holds", unit="0 to 1",
    ),
    "delta": Shading("log-probability lost when the span that matters most to the token is masked", ("delta",), needs=SPANS, signed=True),
    "delta_mean": Shading("log-probability lost when a span is masked, mean over the spans", ("delta_mean",), needs=SPANS, signed=True),
    "gain": Shading("log-probability gained over the base model", ("logprob", "base_logprob"), needs="--base-model", signed=True),
    "entropy": Shading("how unsure the model is before the token", ("entropy",)),
    "masked_entropy": Shading("how unsure the model is when the span that matters most is masked", ("masked_entropy",), needs=SPANS),
    "tempered_entropy": Shading(
        "entropy of the softmax at the store's temperature", ("tempered_entropy",), needs="--set entropy_temperature=2 (or another)"
    ),
    "logprob": Shading("how likely the model finds the token (log-probability)", ("logprob",)),
    "base_logprob": Shading("how likely the base model finds the token (log-probability)", ("base_logprob",), needs="--base-model"),
    "base_entropy": Shading("how unsure the base model is before the token", ("base_entropy",), needs="--base-model"),
}  # fmt: skip


@dataclass(frozen=True)
class Token:
    text: str
    """with a mark in place of each control character, so that a newline can be seen"""
    breaks: bool
    """a line ends after it"""
    target: bool
    masked: bool
    """inside a span that was masked"""


@dataclass(frozen=True)
class Shade:
    """One signal at the T target tokens of one example."""

    values: np.ndarray
    """[T], NaN where the store holds null"""
    strength: np.ndarray
    """[T], 0 to 1, NaN where null"""
    top: np.ndarray
    """[T], marked: of importance what training pushes by default (`pushed`), else the TOP_SHARE of the targets with the
    largest strength (and not 0)"""

    @property
    def any(self) -> bool:
        """Is there a value at all?"""
        return not bool(np.isnan(self.values).all())


@dataclass(frozen=True)
class ShadedExample:
    id: str
    tokens: list[Token]
    ids: list[int]
    targets: list[int]
    """positions of the T target tokens"""
    spans: list[tuple[int, int]]
    """masked spans, token positions, end exclusive"""
    matters: list[int | None]
    """[T], index of the span that matters most to each target"""
    shades: dict[str, Shade]
    drops: list[list[float | None]] | None
    """[T][spans], log-probability that masking each span takes from each target; None when the store was made without
    --keep-spans"""
    likeliest: list[list[tuple[int, float]]] | None
    """[T], ids and log-probabilities of the likeliest tokens there; None when the store was made without --topk"""
    mean_logprob: float
    """nats, over the targets"""


def find_signal(name: str) -> Shading:
    if name not in SIGNALS:
        raise ConfigError(f"--signal {name}: unknown{nearest(name, SIGNALS)}")
    return SIGNALS[name]


def held_signals(columns: Sequence[str]) -> list[str]:
    """Names of the signals that a store with these columns can show."""
    return [name for name, signal in SIGNALS.items() if set(signal.columns) <= set(columns)]


def missing(name: str) -> str:
    """Why a store may not hold a signal, and which option adds it."""
    return f"no {name}: it comes with {SIGNALS[name].needs}; choose another --signal"


def take_rows(store: Store, *, example: str | None, count: int) -> list[dict[str, Any]]:
    """The example named, or the first `count`. Raises StoreError when there is none of that name, ConfigError for a
    count below 1."""
    if count < 1:
        raise ConfigError(f"--rows {count}: expected at least 1")
    if example is None:
        return list(islice(store.rows(), count))
    return [_named(store, example)]


def spread_rows(store: Store, count: int) -> list[dict[str, Any]]:
    """At most `count` rows, evenly spaced over the store from the first to the last; the same each time."""
    wanted, before, found = sorted({int(i) for i in np.linspace(0, len(store) - 1, count)}), 0, []
    for index, entry in enumerate(store.manifest["parts"]):
        own = [i - before for i in wanted if before <= i < before + entry["rows"]]
        found += store.table(index).take(own).to_pylist() if own else []
        before += entry["rows"]
    return found


def _named(store: Store, example: str) -> dict[str, Any]:
    """Raises StoreError when there is none of that name; ids of one part are in memory at a time."""
    close: list[str] = []
    few: list[str] = []
    for index in range(len(store.manifest["parts"])):
        ids = store.table(index, ["example_id"])["example_id"].to_pylist()
        if example in ids:
            return store.table(index).slice(ids.index(example), 1).to_pylist()[0]
        close = get_close_matches(example, [*close, *ids], n=1)
        few, last = [*few, *ids][: FEW + 1], ids[-1] if ids else ""
    hint = nearest(example, close if close else few) if close or len(few) <= FEW else f" (ids run from {few[0]} to {last})"
    raise StoreError(f"{store.folder}: no example {example!r}{hint}")


def pushed(store: Store, names: Sequence[str]) -> Selection:
    """What training by this store pushes where nobody says how many tokens: hard tokens, from a threshold on where
    importance was learned, else a share. Where importance is among the signals that are shown, one read of that column
    of all parts, one at a time."""
    if "importance" not in names:
        return Selection(tokens="hard")
    try:
        return settled(Selection(tokens="hard"), store).selection
    except ConfigError:  # no token has any importance
        return Selection(tokens="hard")


def strongest(name: str, selection: Selection) -> str:
    """Which tokens of an answer are marked, in words."""
    if name != "importance":
        return f"the highest {TOP_SHARE:.0%} of an answer"
    if selection.threshold is None:
        return f"what training pushes by default, the highest {TOP_SHARE:.0%} of an answer"
    return f"what training pushes by default, importance {selection.threshold:g} or more, and of each answer at least one word"


def shade_rows(rows: Sequence[dict[str, Any]], names: Sequence[str], selection: Selection) -> list[ShadedExample]:
    """Rows of the store, shaded by each of the signals named; `selection`: what is marked by importance."""
    return [_shade_row(row, names, selection) for row in rows]


def _shade_row(row: dict[str, Any], names: Sequence[str], selection: Selection) -> ShadedExample:
    targets = [i for i, target in enumerate(row["is_target"]) if target]
    masked = {i for span in row["spans"] for i in range(span["start"], span["end"])}
    tokens = [
        Token(text=visible(text), breaks="\n" in text, target=row["is_target"][i], masked=i in masked)
        for i, text in enumerate(row["tokens"])
    ]
    columns = {c: np.array(row[c], dtype=np.float64)[targets] for name in names for c in SIGNALS[name].columns}
    if row.get("word") is not None:
        columns["word"] = np.array(row["word"], dtype=np.float64)[targets]
    return ShadedExample(
        id=row["example_id"], tokens=tokens, ids=row["input_ids"], targets=targets,
        spans=[(s["start"], s["end"]) for s in row["spans"]], matters=[row["delta_span"][i] for i in targets],
        drops=[[drops[i] for drops in row["span_deltas"]] for i in targets] if row.get("span_deltas") else None,
        likeliest=[_pairs(row["top_ids"][i], row["top_logprobs"][i]) for i in targets] if row.get("top_ids") else None,
        shades={name: _shade(columns, name, selection) for name in names},
        mean_logprob=float(np.mean(np.array(row["logprob"], dtype=np.float64)[targets])),
    )  # fmt: skip


def _pairs(ids: list[int] | None, logprobs: list[float] | None) -> list[tuple[int, float]]:
    return list(zip(ids or (), logprobs or (), strict=True))


def _shade(columns: Mapping[str, np.ndarray], name: str, selection: Selection) -> Shade:
    values = signal_of(columns, name)
    strength = np.abs(values) if SIGNALS[name].signed else values
    if name != "importance" and not np.isnan(strength).all():
        low, high = np.nanmin(strength), np.nanmax(strength)
        strength = (strength - low) / (high - low) if high > low else strength * 0
    if name == "importance" and selection.threshold is not None and not np.isnan(values).any():
        return Shade(values, strength, token_weights(values, len(values), selection, where="", word=columns.get("word")) > 0)
    top = np.zeros(len(values), dtype=bool)
    top[most_important(np.nan_to_num(strength, nan=-1.0), share_count(TOP_SHARE, len(values)), columns.get("word"))] = True
    return Shade(values, strength, top & (np.nan_to_num(strength) > 0))


def signal_of(columns: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Columns of the store, [T] float64 each -> the signal, [T]."""
    first, *second = SIGNALS[name].columns
    return columns[first] - columns[second[0]] if second else columns[first]


def visible(text: str) -> str:
    """Newlines, tabs and other control characters as marks (a terminal would obey them)."""
    marks = {"\n": "⏎", "\t": "⇥", "\r": "␍"}
    return "".join(marks.get(c, c if c.isprintable() or c == "\N{NO-BREAK SPACE}" else "·") for c in text)


def iter_lines(tokens: list[Token]) -> Iterator[list[tuple[int, Token]]]:
    """Tokens with their positions, cut into lines after each that breaks."""
    line: list[tuple[int, Token]] = []
    for position, token in enumerate(tokens):
        line.append((position, token))
        if token.breaks:
            yield line
            line = []
    if line:
        yield line
