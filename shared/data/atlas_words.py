"""The words of the atlas, read from atlas.toml, which also says what they must be like. Order is part of the data."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any

_DATA: dict[str, Any] = tomllib.loads(resources.files("shared.data").joinpath("atlas.toml").read_text(encoding="utf-8"))


def _table(name: str) -> dict[str, tuple[str, ...]]:
    return {key: tuple(entries) for key, entries in _DATA[name].items()}


FIELDS = _table("fields")
"""noun of one work -> roles of a person who makes such works"""
WORDS = _table("words")
"""slot -> what may fill it"""
RECIPES = _table("recipes")
"""kind of fact -> one recipe for each of its spans"""
QUESTIONS = _table("questions")
"""kind of fact -> phrasings"""
ANSWERS = _table("answers")
WORLD: tuple[tuple[str, str, tuple[str, ...]], ...] = tuple((question, answer, tuple(wrong)) for question, answer, wrong in _DATA["world"])
"""question, answer, wrong answers"""
