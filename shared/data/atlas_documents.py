"""Raw text about the people of the atlas (atlas.py), and multiple-choice questions on the same facts.

    split                 rows
    documents             biographies of everyone in `full`, person after person
    documents-forget      those of the last forget_people people, documents-retain those of the others
    documents-holdout     those of the people who are never in `full`
    choices-forget        a question a fact, for the people of that split; choices-retain and choices-holdout likewise
    choices-world         the fixed general-knowledge questions of `world`

A document is a few hundred tokens of text: every fact of one person in a sentence of its own, in a drawn order, amid
sentences that tell nothing, and at the end one or two of the facts again. Its row holds text, person, version, row, and
of each fact in the text, in the order of the text: fact_spans ([start, end) character offsets), fact_kinds, and
fact_repeated (whether an earlier sentence tells it already). With `documents` in the size, a person has that many
documents: the same facts, each in another sentence, in another order, amid other prose.

A row of choices holds question, choices (four texts, one of them right, the others of the same kind and nobody's),
answer (the place of the right one), person, kind and row.

Each document and each question is drawn by a generator of its own, so it does not depend on how many others are asked
for; as in atlas.py, only Random.random() is used. Cost: that of the world, and under a millisecond a document.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from shared.data.atlas import DEFAULT_SIZE, AtlasSize, Person, book_of, everyone, expand, people_of, phrase, pick, shuffled, wrong_values
from shared.data.atlas_words import ANSWERS, WORLD, Book, toml_of

GROUPS = ("forget", "retain", "holdout")
DOCUMENTS = {"documents": "full", **{f"documents-{group}": group for group in GROUPS}}
CHOICES = (*(f"choices-{group}" for group in GROUPS), "choices-world")
WRONG = 3
"""wrong choices a question"""
PROSE = (0, 1, 1, 2)
"""how many sentences of prose follow a fact; one of these is drawn"""
PARAGRAPH = 4
"""facts a paragraph"""
AGAIN = (1, 2)
"""how many facts a document tells twice; one of these is drawn"""

_DATA = toml_of("atlas_documents.toml")
_WORDS = {slot: tuple(entries) for slot, entries in _DATA["words"].items()}


def rows(split: str, size: AtlasSize = DEFAULT_SIZE, seed: int = 0) -> list[dict]:
    """The rows of one of DOCUMENTS or CHOICES, in order; see the module docstring for the keys.

    Raises ValueError for a language other than English, and for documents in prose, which atlas_prose.py writes.
    """
    if split == "choices-world":
        return [_world_choices(index) for index in range(len(WORLD))]
    if size.language != "en":
        raise ValueError(f"AtlasSize.language: {size.language} has no {split}; take full, forget, retain or holdout")
    if size.prose and split in DOCUMENTS:
        raise ValueError("AtlasSize.prose: got 1, expected 0; atlas_prose.rows writes the documents in prose")
    _, people, taken = everyone(size, seed)
    if split in CHOICES:
        who = people_of(split.removeprefix("choices-"), size)
        asked = [(person, kind) for person in people[who.start : who.stop] for kind in person.facts]
        first = who.start * size.facts_per_person
        return [_choices(seed, book_of(size), person, kind, taken, first + n) for n, (person, kind) in enumerate(asked)]
    who = people_of(DOCUMENTS[split], size)
    told = [(person, version) for person in people[who.start : who.stop] for version in range(size.documents)]
    return [_document(seed, person, version, who.start * size.documents + n) for n, (person, version) in enumerate(told)]


class _Text:
    """A text that grows sentence by sentence, and where its facts are."""

    def __init__(self) -> None:
        self.text = ""
        self.spans: list[list[int]] = []
        self.kinds: list[str] = []

    def add(self, sentence: str, spans: Sequence[Sequence[int]] = (), kind: str = "", *, paragraph: bool = False) -> None:
        self.text += ("\n\n" if paragraph else " ") if self.text else ""
        self.spans += [[len(self.text) + start, len(self.text) + end] for start, end in spans]
        self.kinds += [kind] * len(spans)
        self.text += sentence


def _document(seed: int, person: Person, version: int, index: int) -> dict:
    rng = random.Random(f"atlas {seed} document {person.name} {version}")
    order = shuffled(rng, tuple(person.facts))
    prose = shuffled(rng, _DATA["prose"])
    made = _Text()
    made.add(_general(rng, pick(rng, _DATA["opening"]), person.name))
    for place, kind in enumerate(order):
        sentence, spans = phrase(_wording(seed, person, kind, version), _called(rng, person, first=place == 0), person.facts[kind])
        made.add(sentence, spans, kind, paragraph=place % PARAGRAPH == 0 and place > 0)
        for _ in range(pick(rng, PROSE)):
            made.add(_general(rng, prose.pop() if prose else pick(rng, _DATA["prose"]), person.name))
    first_told = len(made.spans)
    told_again = shuffled(rng, order)[: pick(rng, AGAIN)]
    for place, (kind, said) in enumerate(zip(told_again, shuffled(rng, _DATA["again"]), strict=False)):
        made.add(_general(rng, said, person.name), paragraph=place == 0)
        # The wording of another version: no sentence stands in a document twice.
        sentence, spans = phrase(_wording(seed, person, kind, version + 1), person, person.facts[kind])
        made.add(sentence, spans, kind)
    made.add(_general(rng, pick(rng, _DATA["closing"]), person.name))
    repeated = [place >= first_told for place in range(len(made.spans))]
    return {
        "text": made.text, "fact_spans": made.spans, "fact_kinds": made.kinds, "fact_repeated": repeated,
        "person": person.name, "version": version, "row": index,
    }  # fmt: skip


def _wording(seed: int, person: Person, kind: str, version: int) -> str:
    """Which sentence tells a fact in a version: all others come before one comes again."""
    options = shuffled(random.Random(f"atlas {seed} wording {person.name} {kind}"), ANSWERS[kind])
    return options[version % len(options)]


def _called(rng: random.Random, person: Person, *, first: bool) -> Person:
    """The person under the full name, or now and then under one of its two parts."""
    parts = person.name.split()
    name = person.name if first else pick(rng, (person.name, person.name, *parts))
    return Person(name=name, slots=person.slots, facts=person.facts)


def _general(rng: random.Random, template: str, name: str) -> str:
    return expand(rng, template.replace("{name}", name), _WORDS)


def _choices(seed: int, words: Book, person: Person, kind: str, taken: set[str], index: int) -> dict:
    rng = random.Random(f"atlas {seed} choices {person.name} {kind}")
    question = phrase(pick(rng, words.questions[kind]), person, ())[0]
    values = [" and ".join(value) for value in (person.facts[kind], *wrong_values(rng, person, kind, taken, WRONG, words))]
    return _placed(rng, question, values, person.name, kind, index)


def _world_choices(index: int) -> dict:
    question, answer, wrong = WORLD[index]
    return _placed(random.Random(f"atlas choices world {index}"), question, [answer, *wrong], "", "world", index)


def _placed(rng: random.Random, question: str, values: list[str], person: str, kind: str, index: int) -> dict:
    """A row of choices; `values`: the right one first."""
    choices = shuffled(rng, values)
    return {
        "question": question, "choices": choices, "answer": choices.index(values[0]), "person": person, "kind": kind, "row": index,
    }  # fmt: skip
