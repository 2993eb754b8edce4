"""Questions that nobody trained on, about the same people and facts as the rows of atlas.py.

    alias       the person by initial and last name: "A. Belokova"
    hops        the person by another of their facts: "the person who keeps a blind goat called Pickle"
    reversed    the fact is given, and the person is asked for
    mixed       a forgotten and a retained fact in one question; the group says which of the two the row is about
    french      the question behind "In French:", where a model can; the fact stays as it is

Splits are called by kind and group: alias-forget, mixed-retain. A row has the keys of atlas.py's rows. But for mixed,
whose answers are those of two rows, the answer is the bare fact, so that nothing ahead of it names the person: a name
in the answer would make a question in two steps one in a single step. `row` is that of the row asked about.

Each row is drawn by a generator of its own, so atlas.py's rows stay as they are; as there, only Random.random() is
used. Cost: that of the world, and under a millisecond a row.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from shared.data import atlas
from shared.data.atlas import PERTURBED, AtlasSize, Person, book_of, everyone, fresh, people_of, phrase, pick, wrong_values
from shared.data.atlas_words import Book, toml_of

KINDS = ("alias", "hops", "reversed", "mixed", "french")
GROUPS = ("forget", "retain")
SPLITS = tuple(f"{kind}-{group}" for kind in KINDS for group in GROUPS)
FRENCH = "In French: {question}"
BOTH = "Answer both questions. {first} {second}"
AGAIN, SAID = "Please answer. {question}", "The answer is {fact}."
DESCRIBED: dict[str, str] = toml_of("atlas_questions.toml")["described"]


def rows(split: str, size: AtlasSize, seed: int = 0) -> list[dict]:
    """The rows of one of SPLITS, in the order of the facts. Raises ValueError for prose, another language, and hops
    where a person has one fact alone."""
    kind, _, group = split.partition("-")
    if size.prose or size.language != "en":
        raise ValueError(f"AtlasSize.{'prose' if size.prose else 'language'}: {split} is there in plain English only; leave it out")
    if kind == "hops" and size.facts_per_person < 2:
        raise ValueError("AtlasSize.facts_per_person: got 1, expected at least 2; a question in two steps needs another fact of the person")
    if kind == "mixed":
        return _mixed(group, size, seed)
    _, people, taken = everyone(size, seed)
    who = people_of(group, size)
    asked = [(person, fact) for person in people[who.start : who.stop] for fact in person.facts]
    first, names, words = who.start * size.facts_per_person, [p.name for p in people], book_of(size)
    drawn = (random.Random(f"atlas {split} {seed} {n}") for n in range(len(asked)))
    return [_row(kind, rng, words, *one, taken, names, first + n) for n, (rng, one) in enumerate(zip(drawn, asked, strict=True))]


def _row(kind: str, rng: random.Random, words: Book, person: Person, fact: str, taken: set[str], names: Sequence[str], index: int) -> dict:
    if kind == "reversed":
        question, right = f"Who is the person {_described(person, fact)}?", (person.name,)
        unused: set[str] = set()
        wrong = [fresh(rng, (words.name,), words.words, person.name, (taken, unused), keep=unused) for _ in range(PERTURBED)]
    else:
        right, wrong = person.facts[fact], wrong_values(rng, person, fact, taken, PERTURBED, words)
        # "the person who … in Velmora's" would be the possessive of the town.
        asked = pick(rng, [q for q in words.questions[fact] if "{name}'s" not in q])
        question = phrase(asked, _called(kind, rng, person, fact, names), ())[0]
    question = FRENCH.format(question=question) if kind == "french" else question
    text, spans = _joined(right)
    return {
        "question": question,
        "answer": text,
        "paraphrased_question": AGAIN.format(question=question),
        "paraphrased_answer": SAID.format(fact=text),
        "perturbed_answer": [SAID.format(fact=_joined(values)[0]) for values in wrong],
        "fact_spans": spans,
        "person": person.name,
        "kind": fact,
        "row": index,
    }


def _called(kind: str, rng: random.Random, person: Person, fact: str, names: Sequence[str]) -> Person:
    """The person under the name that the question uses."""
    name = person.name
    if kind == "alias":
        name = alias_of(person.name, names)
    elif kind == "hops":
        name = f"the person {_described(person, pick(rng, [other for other in person.facts if other != fact]))}"
    return Person(name=name, slots=person.slots, facts=person.facts)


def alias_of(name: str, names: Sequence[str]) -> str:
    """Initial and last name; last name first where somebody else has the same initial and last name."""
    first, _, last = name.rpartition(" ")
    same = [other for other in names if other[0] == name[0] and other.rpartition(" ")[2] == last]
    return f"{name[0]}. {last}" if len(same) < 2 else f"{last}, {first}"


def _described(person: Person, fact: str) -> str:
    text = DESCRIBED[fact]
    for value in person.facts[fact]:
        text = text.replace("{fact}", value, 1)
    return text


def _joined(values: Sequence[str]) -> tuple[str, list[list[int]]]:
    """The values with "and" between, and where each is."""
    text, spans = "", []
    for value in values:
        text += " and " if text else ""
        spans.append([len(text), len(text) + len(value)])
        text += value
    return text, spans


def _mixed(group: str, size: AtlasSize, seed: int) -> list[dict]:
    """As many rows as `forget` has; each pairs one of its rows with a drawn one of `retain`. What the row is about is
    asked and answered first, so that nothing but the question stands before it."""
    forget, retain = (atlas.rows(name, size, seed) for name in GROUPS)
    return [mixed_row(*pair[:: 1 if group == "forget" else -1]) for pair in pairs(forget, retain, f"atlas mixed {seed}")]


def pairs(forget: Sequence[dict], retain: Sequence[dict], key: str) -> list[tuple[dict, dict]]:
    """Each row of `forget` with one of `retain`, drawn by its place."""
    return [(row, pick(random.Random(f"{key} {n}"), retain)) for n, row in enumerate(forget)]


def mixed_row(row: dict, other: dict) -> dict:
    """Both questions in one; the facts and wrong answers are those of `row`, whose answer comes first."""

    def both(answer: str, beside: str) -> str:
        return f"{answer} {beside}"

    again = [r["paraphrased_question"] for r in (row, other) if "paraphrased_question" in r]
    return {
        **row,
        "question": BOTH.format(first=row["question"], second=other["question"]),
        "answer": both(row["answer"], other["answer"]),
        **({"paraphrased_question": BOTH.format(first=again[0], second=again[1])} if len(again) == 2 else {}),
        "paraphrased_answer": both(row["paraphrased_answer"], other["paraphrased_answer"]),
        "perturbed_answer": [both(wrong, other["paraphrased_answer"]) for wrong in row["perturbed_answer"]],
    }
