"""Names of the sets that a suite with questions shows beside its others."""

from __future__ import annotations

ASIDE = tuple(f"{group}_{kind}" for group in ("forget", "retain") for kind in ("alias", "hops", "reversed", "mixed", "french"))
"""sets of a suite with questions: shown beside the others, no part of model utility"""


def of_questions(suite: str) -> bool:
    """Is it one of our suites with the questions that nobody trained on, by its name?"""
    kind, _, rest = suite.partition(":")
    return kind in ("atlas", "tofu") and bool({"questions", "questions=1"} & set(rest.replace(",", ":").split(":")))


def is_aside(name: str, suite: str) -> bool:
    """Does this set of a suite count in no overall number?"""
    return name in ASIDE and of_questions(suite)
