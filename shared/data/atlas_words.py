"""The words of the atlas: the fields, word lists, fact recipes and phrasings of each language, and those of its prose,
read from files of this folder, which also say what they must be like. Order is part of the data."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any

LANGUAGES = ("en", "es", "ar", "zh")
Table = dict[str, tuple[str, ...]]


def toml_of(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files("shared.data").joinpath(name).read_text(encoding="utf-8"))


def table(data: dict[str, Any], name: str) -> Table:
    return {key: tuple(entries) for key, entries in data[name].items()}


@dataclass(frozen=True, kw_only=True)
class Book:
    """All that people and their rows are made of."""

    fields: Table
    """noun of one work -> roles of a person who makes such works"""
    words: Table
    """slot -> what may fill it"""
    recipes: Table
    """kind of fact -> one recipe for each of its spans"""
    questions: Table
    """kind of fact -> phrasings"""
    answers: Table
    name: str = "<first> <last>"
    """recipe of a person's name"""


_DATA = toml_of("atlas.toml")
FIELDS = table(_DATA, "fields")
WORDS = table(_DATA, "words")
RECIPES = table(_DATA, "recipes")
QUESTIONS = table(_DATA, "questions")
ANSWERS = table(_DATA, "answers")
WORLD: tuple[tuple[str, str, tuple[str, ...]], ...] = tuple((question, answer, tuple(wrong)) for question, answer, wrong in _DATA["world"])
"""question, answer, wrong answers"""
ENGLISH = Book(fields=FIELDS, words=WORDS, recipes=RECIPES, questions=QUESTIONS, answers=ANSWERS)


@functools.cache
def book(language: str = "en", prose: int = 0) -> Book:
    """The book of one of LANGUAGES, or that of English prose, which keeps the word lists and adds to them."""
    if prose:
        more = toml_of("atlas_prose.toml")
        return Book(
            fields=FIELDS,
            words=WORDS | table(more, "words"),
            recipes=table(more, "recipes"),
            questions=QUESTIONS | table(more, "questions"),
            answers={},  # put together by atlas_prose.py
        )
    if language == "en":
        return ENGLISH
    own = toml_of(f"atlas_{language}.toml")
    return Book(**{name: table(own, name) for name in ("fields", "words", "recipes", "questions", "answers")}, name=own["name"])
