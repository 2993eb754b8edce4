"""The text of `tu-score list`: signals and span plans, and where they come from."""

from __future__ import annotations

from collections.abc import Iterator

from shared.console import print_table
from shared.extensions import first_sentence, listed
from shared.weighting.importance import SIGNAL, SIGNALS
from tu_score.config import PLANS, SPAN_PLAN

COLUMNS = ("kind", "name", "meaning", "from")


def rows() -> Iterator[tuple[str, ...]]:
    """One tuple of COLUMNS a signal and a span plan: those that are here, then those of installed packages."""
    signals = {name: first_sentence(signal.formula.__doc__) for name, signal in SIGNALS.items()}
    yield from (("signal", *row) for row in listed(SIGNAL, signals, lambda signal: signal.formula.__doc__))
    yield from (("span plan", *row) for row in listed(SPAN_PLAN, PLANS, lambda plan: plan.__doc__))


def print_list() -> None:
    print_table(COLUMNS, rows())
