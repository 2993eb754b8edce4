"""Questions that nobody trained on for TOFU, as far as rules can make them from its perturbed files.

    alias       the author by initial and last name; rows whose question does not name the author are left out
    mixed       a question of the split and one of the retained authors in one; mixed-retain the other way round
    french      the question behind "In French:"

Spec: tofu:alias-forget01_perturbed; of mixed, tofu:mixed-forget01_perturbed is about the forgotten, and
tofu:mixed-retain-forget01_perturbed about the retained fact. An author has AUTHOR rows, one after another, and goes by
what most of their questions call somebody: TOFU itself does not say it. Questions in two steps and reversed ones would
need to know which words of an answer are the fact, which its rows do not mark either.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from shared.data.atlas_questions import FRENCH, mixed_row, pairs

KINDS = ("alias", "mixed", "mixed-retain", "french")
PERTURBED = ("forget01_perturbed", "forget05_perturbed", "forget10_perturbed", "retain_perturbed")
SPLITS = tuple(f"{kind}-{split}" for kind in KINDS for split in PERTURBED if not (kind.startswith("mixed") and split == "retain_perturbed"))
AUTHOR = 20
"""rows an author"""
NAMED = 3
"""questions of an author that must hold a name for it to be theirs"""
POSSESSIVE = re.compile(r"[’'](?:s\b)?(?=\W|$)")


def rows(split: str, read: Callable[[str], Iterator[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of one of SPLITS; `read` gives those of a split of TOFU."""
    kind = max((k for k in KINDS if split.startswith(f"{k}-")), key=len)
    source = list(read(split.removeprefix(f"{kind}-")))
    if kind == "french":
        return [{**row, "question": FRENCH.format(question=row["question"])} for row in source]
    if kind == "alias":
        authors = [source[at : at + AUTHOR] for at in range(0, len(source), AUTHOR)]
        return [row for own in authors for row in _aliased(own)]
    beside = pairs(source, list(read("retain_perturbed")), "tofu mixed")
    return [mixed_row(*(pair if kind == "mixed" else pair[::-1])) for pair in beside]


def _aliased(own: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    name = author_of([row["question"] for row in own])
    if name is not None:
        alias = f"{name[0]}. {name.rpartition(' ')[2]}"
        yield from ({**row, "question": row["question"].replace(name, alias)} for row in own if name in row["question"])


def author_of(questions: Sequence[str]) -> str | None:
    """The run of capitalised words that most of the questions hold; the longest of equally frequent ones. None where no
    run is in NAMED of them."""
    runs: list[set[str]] = []
    for question in questions:
        words = re.sub(r"([?,.:;])", r" \1", POSSESSIVE.sub(" ’", question)).split()
        found: set[str] = set()
        for start in range(len(words)):
            for end in range(start + 2, len(words) + 1):
                if not all(word[:1].isupper() for word in words[start:end]):
                    break
                found.add(" ".join(words[start:end]))
        runs.append({run for run in found if run in question})
    counts = Counter(run for found in runs for run in found)
    best = max(counts, key=lambda run: (counts[run], len(run), run), default=None)
    return best if best is not None and counts[best] >= NAMED else None
