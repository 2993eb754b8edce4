"""Atlas: a seeded world of fictional people, as question-answer rows in the form of TOFU's perturbed files.

    split     rows
    full      retain then forget, in that order
    retain    the first people - forget_people people of full
    forget    the last forget_people people of full
    holdout   people of the same world who are never in full
    world     fixed general-knowledge questions; a check on damage, the same for every size and seed

A row holds question, answer, paraphrased_question, paraphrased_answer, perturbed_answer (the paraphrased answer with
another value of the same kind: 5, in `world` 3), fact_spans ([start, end) character offsets of the fact in `answer`),
person ("" in `world`), kind and row. For people, `row` indexes full and goes on in holdout, so the row of a forget or
retain row is its place in full.

Algorithm: draw every person's name, background and kinds of fact; draw each fact from the recipe of its kind, rejecting
any text the world already uses; then phrase the rows and draw the wrong values. So no two people, in whatever splits,
share a full name or a fact, and no wrong value is anyone's fact. Cost: linear in rows, under half a millisecond each;
every call builds the whole world anew.

With `language` in the size, people, facts and phrasings are those of another language (atlas_es.toml and its like): the
same kinds of fact, another world; `world` stays English. With `prose`, atlas_prose.py writes the rows.

The same size and seed give the same rows in every process and Python version: only Random.random() is used, the one
method whose sequence Python promises to keep. Another size with the same seed is another world.
"""

import random
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, fields

from shared.data.atlas_words import ANSWERS, ENGLISH, LANGUAGES, RECIPES, WORDS, WORLD, Book, book

Slots = dict[str, tuple[str, ...]]  # slot of a recipe -> its possible entries

KINDS = tuple(RECIPES)
SPLITS = ("full", "forget", "retain", "holdout", "world")
PERTURBED = 5  # wrong answers a row, as in TOFU
MAX_PEOPLE = 1000  # every kind can name at least 2000 values, so rejection stays cheap up to here
BIRTH_YEARS = range(1931, 1985)
DEBUT_AGES = range(19, 39)  # years
VERSIONS = min(map(len, ANSWERS.values()))  # so many documents of a person tell each fact in a sentence of its own
NAME_PART = re.compile(r"[ ·]")  # first and last name are set apart by a blank, in Chinese by a dot
SLOT = re.compile(r"<(\w+)>")
ARTICLE = re.compile(r"\ba\(n\) (?=([aeiou])?)")


@dataclass(frozen=True, kw_only=True)
class AtlasSize:
    """How large a world to draw. Raises ValueError naming the field that is out of range."""

    people: int = 60
    """People in `full`, forget and retain together; at least 2, and with the holdout at most MAX_PEOPLE."""

    facts_per_person: int = 10
    """Rows a person, each of another kind; 1 to len(KINDS)."""

    forget_people: int = 6
    """People in `forget`, the last of `full`; 1 to people - 1."""

    holdout_people: int = 6
    """People in `holdout`, beside those in `full`; at least 1."""

    documents: int = 1
    """Documents a person (atlas_documents.py), the same facts in other words and another order; 1 to VERSIONS. The rows
    of the splits here do not depend on it."""

    prose: int = 0
    """1: answers and documents read like those of people and chat models, and there are more kinds of fact
    (atlas_prose.py); 0 or 1."""

    language: str = "en"
    """One of LANGUAGES. Another than en goes with neither prose nor documents."""

    def __post_init__(self) -> None:
        if self.language not in LANGUAGES:
            raise ValueError(f"AtlasSize.language: got {self.language!r}, expected one of {', '.join(LANGUAGES)}")
        if self.language != "en" and (self.prose or self.documents != 1):
            other = "prose" if self.prose else "documents"
            raise ValueError(f"AtlasSize.language: {self.language} has no {other}; leave language or {other} out")
        lowest = {"people": 2, "prose": 0}
        highest = {
            "people": MAX_PEOPLE - 1,
            "prose": 1,
            "facts_per_person": len(book_of(self).recipes) if self.prose in (0, 1) else 0,
            "forget_people": self.people - 1,
            "holdout_people": MAX_PEOPLE - self.people,
            "documents": VERSIONS,
        }
        # `prose` and then `people` first: the other limits assume valid ones.
        for name in ("prose", *(field.name for field in fields(self) if field.name in highest)):
            got, low, high = getattr(self, name), lowest.get(name, 1), highest[name]
            if not low <= got <= high:
                raise ValueError(f"AtlasSize.{name}: got {got}, expected {low} to {high}")


def book_of(size: AtlasSize) -> Book:
    return book(size.language, size.prose)


DEFAULT_SIZE = AtlasSize()


@dataclass(frozen=True, kw_only=True)
class Person:
    """Someone of the world."""

    name: str
    slots: Slots
    """what the facts agree on: `work`, `role`, `birth_year` and `debut_year`"""
    facts: dict[str, tuple[str, ...]]
    """Kind -> the texts of its fact spans, in the order of the person's rows."""


def rows(split: str, size: AtlasSize = DEFAULT_SIZE, seed: int = 0) -> list[dict]:
    """The rows of one split, in order; see the module docstring for the keys. `world` ignores size and seed.

    Raises ValueError if `split` is not one of SPLITS, or if `size` asks for prose.
    """
    if split not in SPLITS:
        raise ValueError(f"atlas split: got {split!r}, expected one of {', '.join(SPLITS)}")
    if split == "world":
        return [_world_row(index) for index in range(len(WORLD))]
    if size.prose:
        raise ValueError("AtlasSize.prose: got 1, expected 0; atlas_prose.rows writes the rows in prose")
    who = people_of(split, size)
    return _people_rows(size, seed)[who.start * size.facts_per_person : who.stop * size.facts_per_person]


def people_of(split: str, size: AtlasSize) -> range:
    """Which people a split is about: places in `everyone`."""
    forgotten = size.people - size.forget_people
    return {
        "full": range(size.people),
        "retain": range(forgotten),
        "forget": range(forgotten, size.people),
        "holdout": range(size.people, size.people + size.holdout_people),
    }[split]


def _people_rows(size: AtlasSize, seed: int) -> list[dict]:
    """The rows of everyone, holdout last."""
    rng, people, taken = everyone(size, seed)
    keyed = [(person, kind) for person in people for kind in person.facts]
    return [_row(rng, book_of(size), person, kind, taken, index) for index, (person, kind) in enumerate(keyed)]


def everyone(size: AtlasSize, seed: int) -> tuple[random.Random, list[Person], set[str]]:
    """-> the generator as it stands once all people are drawn, the people, holdout last, and every text that one of
    their names or facts uses."""
    # A string seed goes through SHA-512; an int would lose its sign.
    rng = random.Random(f"atlas {seed}")
    taken: set[str] = set()
    words = book_of(size)
    # All names first, so that no relation of an early person bears the name of a later one.
    names = [fresh(rng, (words.name,), words.words, "", (taken,), keep=taken)[0] for _ in range(size.people + size.holdout_people)]
    return rng, [_person(rng, words, name, size.facts_per_person, taken) for name in names], taken


def _person(rng: random.Random, words: Book, name: str, facts: int, taken: set[str]) -> Person:
    slots = background(rng, words)
    kinds = shuffled(rng, tuple(words.recipes))[:facts]
    # No word list bears the name of a slot of the person.
    known = {**words.words, **slots}
    return Person(
        name=name, slots=slots, facts={kind: fresh(rng, words.recipes[kind], known, name, (taken,), keep=taken) for kind in kinds}
    )


def background(rng: random.Random, words: Book = ENGLISH) -> Slots:
    """What a person's facts must agree on: the art form and the years."""
    work = pick(rng, tuple(words.fields))
    born = pick(rng, BIRTH_YEARS)
    debut = born + pick(rng, DEBUT_AGES)
    return {"work": (work,), "role": words.fields[work], "birth_year": (str(born),), "debut_year": (str(debut),)}


def _row(rng: random.Random, words: Book, person: Person, kind: str, taken: set[str], index: int) -> dict:
    facts = person.facts[kind]
    question, question_again = shuffled(rng, words.questions[kind])[:2]
    answer, answer_again = shuffled(rng, words.answers[kind])[:2]
    text, spans = phrase(answer, person, facts)
    wrong = wrong_values(rng, person, kind, taken, PERTURBED, words)
    return {
        "question": phrase(question, person, ())[0],
        "answer": text,
        "paraphrased_question": phrase(question_again, person, ())[0],
        "paraphrased_answer": phrase(answer_again, person, facts)[0],
        "perturbed_answer": [phrase(answer_again, person, values)[0] for values in wrong],
        "fact_spans": spans,
        "person": person.name,
        "kind": kind,
        "row": index,
    }


def wrong_values(
    rng: random.Random, person: Person, kind: str, taken: set[str], count: int, words: Book = ENGLISH
) -> list[tuple[str, ...]]:
    """So many other values of a person's fact, each of them nobody's."""
    wrong: set[str] = set()

    def another() -> tuple[str, ...]:
        # A stranger's background: with the person's own, a wrong value would be right about the art form or the year.
        slots = {**words.words, **background(rng, words)}
        return fresh(rng, words.recipes[kind], slots, person.name, (taken, wrong), keep=wrong)

    return [another() for _ in range(count)]


def _world_row(index: int) -> dict:
    question, answer, wrong = WORLD[index]
    return {
        "question": question,
        "answer": answer,
        "paraphrased_question": question,
        "paraphrased_answer": answer,
        "perturbed_answer": list(wrong),
        "fact_spans": [[0, len(answer)]],
        "person": "",
        "kind": "world",
        "row": index,
    }


def phrase(template: str, person: Person, facts: Sequence[str]) -> tuple[str, list[list[int]]]:
    """The filled template and the [start, end) of each fact in it; the template has one {fact} for each of `facts`."""
    text, spans = "", []
    for piece, fact in zip(template.split("{fact}"), (*facts, ""), strict=True):
        text += piece.format(name=person.name, work=person.slots["work"][0])
        spans.append([len(text), len(text) + len(fact)])
        text += fact
    return text, spans[:-1]


def fresh(
    rng: random.Random, recipes: Iterable[str], slots: Slots, name: str, banned: Iterable[Container[str]], *, keep: set[str]
) -> tuple[str, ...]:
    """One text for each recipe, all different, in none of `banned`; they are added to `keep`.

    Nor does a text share a word with `name`: a relation of the same first or last name could be read off the question.
    """
    while True:
        texts = tuple(expand(rng, recipe, slots) for recipe in recipes)
        used = any(text in seen for text in texts for seen in banned) or len(set(texts)) < len(texts)
        if not used and not any(_holds(text, word) for text in texts for word in NAME_PART.split(name)):
            keep.update(texts)
            return texts


def _holds(text: str, word: str) -> bool:
    """Does a text hold a part of a name? Where scripts set no blanks, anywhere; else as a word of its own."""
    return word in text.split() or (not word.isascii() and word in text)


def expand(rng: random.Random, recipe: str, slots: Slots) -> str:
    """The recipe with random entries in its slots; `slots` comes before WORDS."""
    pieces = SLOT.split(recipe)  # text at the even places, slots at the odd
    for place in range(1, len(pieces), 2):
        entry = pick(rng, slots.get(pieces[place]) or WORDS[pieces[place]])
        pieces[place] = expand(rng, entry, slots) if "<" in entry else entry
    return ARTICLE.sub(lambda article: "an " if article[1] else "a ", "".join(pieces))


def pick(rng: random.Random, options: Sequence):
    return options[int(rng.random() * len(options))]


def shuffled(rng: random.Random, items: Sequence) -> list:
    return sorted(items, key=lambda _: rng.random())
