"""Do the compared models still write? Counted from the answers that the results hold, so also for results of earlier
versions.

A run babbles in a set where more than MOST of its answers are empty or repeat themselves (metrics/fluency.py), and that
is MORE above the share of the model before unlearning, where that one is on the page. Its numbers on the forget set are
those of a broken model and no sign of forgetting: it is never the best there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tu_eval.compare.groups import Group
from tu_eval.metrics.fluency import Fluency, fluency
from tu_eval.results.columns import set_title, show

MOST, MORE = 0.5, 0.25
HEADS = ("Model", "Set", "Answers", "Repetition", "Distinct-1", "Distinct-2", "Empty", "Refusing", "Empty or repeating")
RowsBySet = Mapping[str, Sequence[Mapping[str, Any]]]


def fluencies(rows: RowsBySet) -> dict[str, Fluency]:
    """Of the sets with answers written."""
    written = {name: [row["generation"] for row in kept if row.get("generation") is not None] for name, kept in rows.items()}
    return {name: fluency(texts) for name, texts in written.items() if texts}


def babbling(every: Sequence[Mapping[str, Fluency]], groups: Sequence[Group]) -> dict[int, list[str]]:
    """Result -> the sets in which it babbles, the worst first, of those that are neither target nor retain model."""
    targets = [i for group in groups if group.role == "target" for i in group.members]
    found: dict[int, list[str]] = {}
    for i in (i for group in groups if group.role is None for i in group.members):
        for name, held in sorted(every[i].items(), key=lambda item: -item[1].babbling):
            usual = max((every[t][name].babbling for t in targets if name in every[t]), default=0.0)
            if held.babbling > MOST and held.babbling >= usual + MORE:
                found.setdefault(i, []).append(name)
    return found


def babbling_said(held: Mapping[str, Fluency], broken: Sequence[str]) -> str:
    """How many answers are empty or repeat themselves, in which sets and in which not, and what follows for the reader:
    a sentence without its subject, and one more."""

    def shares(names: Sequence[str]) -> str:
        return ", ".join(f"{100 * held[name].babbling:.0f} % ({set_title(name).lower()})" for name in names)

    rest = [name for name in held if name not in broken]
    where = f"there; where it still writes: {shares(rest)}" if rest else "everywhere"
    follows = "Its low numbers on the forget set are those of a broken model, no sign that the facts are gone."
    if "forget" not in broken:
        follows = "Its numbers there are those of a broken model."
    elif rest:
        follows = "Its low numbers on the forget set are those of broken answers, no sign that the facts are gone."
    return f"babbles: {shares(broken)} of its answers are empty or repeat themselves {where}. {follows}"


def babbling_notes(labels: Sequence[str], every: Sequence[Mapping[str, Fluency]], found: Mapping[int, Sequence[str]]) -> list[str]:
    return [f"{labels[i]} {babbling_said(every[i], names)}" for i, names in sorted(found.items())]


def cells(labels: Sequence[str], every: Sequence[Mapping[str, Fluency]]) -> list[tuple[str, ...]]:
    """As HEADS has them, a row a result and set."""
    return [
        (label, set_title(name), str(f.texts), *map(show, (f.repetition, f.distinct_1, f.distinct_2, f.empty)),
         *map(show, (f.refusing, f.babbling)))
        for label, held in zip(labels, every, strict=True)
        for name, f in held.items()
    ]  # fmt: skip
