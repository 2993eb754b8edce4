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

The same size and seed give the same rows in every process and Python version: only Random.random() is used, the one
method whose sequence Python promises to keep. Another size with the same seed is another world.
"""

import random
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, fields

from shared.data.atlas_words import ANSWERS, FIELDS, QUESTIONS, RECIPES, WORDS, WORLD

Slots = dict[str, tuple[str, ...]]  # slot of a recipe -> its possible entries

KINDS = tuple(RECIPES)
SPLITS = ("full", "forget", "retain", "holdout", "world")
PERTURBED = 5  # wrong answers a row, as in TOFU
MAX_PEOPLE = 1000  # every kind can name at least 2000 values, so rejection stays cheap up to here
BIRTH_YEARS = range(1931, 1985)
DEBUT_AGES = range(19, 39)  # years
VERSIONS = min(map(len, ANSWERS.values()))  # so many documents of a person tell each fact in a sentence of its own
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

    def __post_init__(self) -> None:
        highest = {
            "people": MAX_PEOPLE - 1,
            "facts_per_person": len(KINDS),
            "forget_people": self.people - 1,
            "holdout_people": MAX_PEOPLE - self.people,
            "documents": VERSIONS,
        }
        # In field order: the later limits assume a valid `people`.
        for field in fields(self):
            got, low, high = getattr(self, field.name), 2 if field.name == "people" else 1, highest[field.name]
            if not low <= got <= high:
                raise ValueError(f"AtlasSize.{field.name}: got {got}, expected {low} to {high}")


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

    Raises ValueError if `split` is not one of SPLITS.
    """
    if split not in SPLITS:
        raise ValueError(f"atlas split: got {split!r}, expected one of {', '.join(SPLITS)}")
    if split == "world":
        return [_world_row(index) for index in range(len(WORLD))]
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
    return [_row(rng, person, kind, taken, index) for index, (person, kind) in enumerate(keyed)]


def everyone(size: AtlasSize, seed: int) -> tuple[random.Random, list[Person], set[str]]:
    """-> the generator as it stands once all people are drawn, the people, holdout last, and every text that one of
    their names or facts uses."""
    # A string seed goes through SHA-512; an int would lose its sign.
    rng = random.Random(f"atlas {seed}")
    taken: set[str] = set()
    # All names first, so that no relation of an early person bears the name of a later one.
    names = [fresh(rng, ("<first> <last>",), {}, "", (taken,), keep=taken)[0] for _ in range(size.people + size.holdout_people)]
    return rng, [_person(rng, name, size.facts_per_person, taken) for name in names], taken


def _person(rng: random.Random, name: str, facts: int, taken: set[str]) -> Person:
    slots = background(rng)
    kinds = shuffled(rng, KINDS)[:facts]
    return Person(name=name, slots=slots, facts={kind: fresh(rng, RECIPES[kind], slots, name, (taken,), keep=taken) for kind in kinds})


def background(rng: random.Random) -> Slots:
    """What a person's facts must agree on: the art form and the years."""
    work = pick(rng, tuple(FIELDS))
    born = pick(rng, BIRTH_YEARS)
    debut = born + pick(rng, DEBUT_AGES)
    return {"work": (work,), "role": FIELDS[work], "birth_year": (str(born),), "debut_year": (str(debut),)}


def _row(rng: random.Random, person: Person, kind: str, taken: set[str], index: int) -> dict:
    facts = person.facts[kind]
    question, question_again = shuffled(rng, QUESTIONS[kind])[:2]
    answer, answer_again = shuffled(rng, ANSWERS[kind])[:2]
    text, spans = phrase(answer, person, facts)
    wrong = wrong_values(rng, person, kind, taken, PERTURBED)
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


def wrong_values(rng: random.Random, person: Person, kind: str, taken: set[str], count: int) -> list[tuple[str, ...]]:
    """So many other values of a person's fact, each of them nobody's."""
    wrong: set[str] = set()
    # A wrong value takes a stranger's background: with the person's own, it would be right about the art form or the
    # year.
    return [fresh(rng, RECIPES[kind], background(rng), person.name, (taken, wrong), keep=wrong) for _ in range(count)]


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
        if not used and not any(word in text.split() for text in texts for word in name.split()):
            keep.update(texts)
            return texts


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
