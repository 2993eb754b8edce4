"""Which tokens of an example are shaded, and how strongly; the terminal and the page both draw from here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from shared.errors import ConfigError, StoreError, nearest
from shared.scores import Store

SIGNED = ("delta", "delta_mean", "gain")
SIGNALS = ("importance", *SIGNED, "entropy", "masked_entropy", "logprob", "base_logprob", "base_entropy")
TOP_SHARE = 0.3
HOVER = {"logprob": "log-probability", "entropy": "entropy", "delta": "delta", "importance": "importance"}


@dataclass(frozen=True)
class Token:
    text: str
    """with a mark in place of each control character, so that a newline can be seen"""
    breaks: bool
    """a line ends after it"""
    target: bool
    masked: bool
    """inside a span that was masked"""
    shade: float | None
    """0 to 1; None off target, and where the signal is null"""
    top: bool
    """among the TOP_SHARE of the targets with the largest shade"""
    hover: str


@dataclass(frozen=True)
class ShadedExample:
    id: str
    tokens: list[Token]
    mean_logprob: float
    """nats, over the targets"""

    @property
    def prompt(self) -> list[Token]:
        return [t for t in self.tokens if not t.target]

    @property
    def answer(self) -> list[Token]:
        return [t for t in self.tokens if t.target]


def take_rows(store: Store, *, example: str | None, count: int) -> list[dict[str, Any]]:
    """The example named, or the first `count`. Raises StoreError when there is none of that name, ConfigError for a count below 1."""
    if count < 1:
        raise ConfigError(f"--rows {count}: expected at least 1")
    if example is None:
        return list(islice(store.rows(), count))
    known = []
    for row in store.rows():
        if row["example_id"] == example:
            return [row]
        known.append(row["example_id"])
    hint = (
        nearest(example, known)
        if len(known) <= 20 or "did you" in nearest(example, known)
        else f" (ids run from {known[0]} to {known[-1]})"
    )
    raise StoreError(f"{store.folder}: no example {example!r}{hint}")


def shade(row: dict[str, Any], signal: str) -> ShadedExample:
    """One row of the store, shaded by `signal`: importance as it is, the others min-max over the targets (signed ones by size)."""
    values = _signal(row, signal)
    at = np.array(row["is_target"], dtype=bool)
    if np.isnan(values[at]).all():
        missing = "--base-model" if "base" in signal or signal == "gain" else "--spans question or window"
        raise StoreError(f"{row['example_id']}: the store holds no {signal}, it was scored without {missing}; choose another --signal")
    strength = _strength(values, at, signal)
    order = np.argsort(-np.nan_to_num(strength[at], nan=-1.0), kind="stable")
    top = set(np.flatnonzero(at)[order[: int(np.ceil(TOP_SHARE * at.sum() - 1e-9))]].tolist())
    masked = {i for span in row["spans"] for i in range(span["start"], span["end"])}
    tokens = [
        Token(
            text=visible(text), breaks="\n" in text, target=bool(at[i]), masked=i in masked,
            shade=None if np.isnan(strength[i]) else float(strength[i]), top=i in top and strength[i] > 0, hover=_hover(row, i),
        )
        for i, text in enumerate(row["tokens"])
    ]  # fmt: skip
    return ShadedExample(row["example_id"], tokens, float(np.mean(np.array(row["logprob"], dtype=np.float64)[at])))


def _signal(row: dict[str, Any], signal: str) -> np.ndarray:
    if signal not in SIGNALS:
        raise ConfigError(f"--signal {signal}: unknown{nearest(signal, SIGNALS)}")
    if signal == "gain":
        return _column(row, "logprob") - _column(row, "base_logprob")
    return _column(row, signal)


def _column(row: dict[str, Any], name: str) -> np.ndarray:
    return np.array(row[name], dtype=np.float64)


def _strength(values: np.ndarray, at: np.ndarray, signal: str) -> np.ndarray:
    out = np.where(at, np.abs(values) if signal in SIGNED else values, np.nan)
    if signal == "importance":
        return out
    low, high = np.nanmin(out), np.nanmax(out)
    return (out - low) / (high - low) if high > low else out * 0


def _hover(row: dict[str, Any], i: int) -> str:
    return "\n".join(f"{name}: {_number(row[key][i])}" for key, name in HOVER.items())


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def visible(text: str) -> str:
    """Newlines, tabs and other control characters as marks (a terminal would obey them)."""
    marks = {"\n": "⏎", "\t": "⇥", "\r": "␍"}
    return "".join(marks.get(c, c if c.isprintable() or c == "\N{NO-BREAK SPACE}" else "·") for c in text)


def iter_lines(tokens: list[Token]) -> Iterator[list[Token]]:
    """Tokens cut into lines after each that breaks."""
    line: list[Token] = []
    for token in tokens:
        line.append(token)
        if token.breaks:
            yield line
            line = []
    if line:
        yield line
