"""The people of the atlas (atlas.py) in prose like that of people and chat models, for what learns which tokens tell a
fact: atlas:forget:prose=1.

Splits and keys are those of atlas.py and, for documents, of atlas_documents.py; there are more kinds of fact. An answer
is a bare fact, a sentence, a few sentences, a short life, a list, a letter or an interview. Facts stand in main
clauses, subordinate clauses, appositions and lists, some more than once, others of the same person beside the one that
is asked for, amid sentences full of content words that tell no fact. fact_spans holds every place of every fact, in the
order of the text, without the article before it; a date is written in one of several forms. A wrong answer is the
paraphrased one with another value of the fact asked for, in all its places.

Algorithm: a template of sentences is put together in which marks stand for facts; filling the marks gives the text and
its spans, so that spans are exact by construction. Each row and each document has a generator of its own; as in
atlas.py, only Random.random() is used. Cost: that of the world and about half a millisecond a row.
"""

from __future__ import annotations

import functools
import random
import re
from dataclasses import dataclass
from typing import Any

from shared.data.atlas import (
    ARTICLE,
    DEFAULT_SIZE,
    PERTURBED,
    AtlasSize,
    Person,
    book_of,
    everyone,
    people_of,
    phrase,
    pick,
    shuffled,
    wrong_values,
)  # fmt: skip
from shared.data.atlas_documents import AGAIN, DOCUMENTS, PARAGRAPH
from shared.data.atlas_words import WORDS, Book, toml_of

Facts = dict[str, tuple[str, ...]]  # kind -> its texts

SHAPES = ("bare",) * 4 + ("sentence",) * 10 + ("short",) * 18 + ("life",) * 7 + ("points",) * 5 + ("letter",) * 3 + ("interview",) * 3
"""what an answer looks like; one of these is drawn"""
DATES = ("birthdate", "debut_date")
QUOTED = ("work", "early_works", "titles", "nickname", "motto")
QUOTES = ('"', '"', '"', "'", "*", "_", "")
MARK = re.compile("\x02(\\w+)\\.(\\d)\\.(\\d)\x03")  # kind, number of the fact, form of a date
AN = "\x04"  # the article before a fact
BLANK = re.compile(r"<([Pp]\w*?|\w+?)(_bare|_\d)?>")
PLACE = re.compile(r"\{(\w+)\}")
MONTHS = WORDS["month"]


@functools.cache
def parts() -> dict[str, Any]:
    """The texts of atlas_prose.toml."""
    return toml_of("atlas_prose.toml")


def rows(split: str, size: AtlasSize = DEFAULT_SIZE, seed: int = 0) -> list[dict]:
    """The rows of one of full, forget, retain and holdout, or of one of DOCUMENTS, in order. `size` must ask for
    prose."""
    if not size.prose:
        raise ValueError("AtlasSize.prose: got 0, expected 1; atlas.rows writes the plain rows")
    _, people, taken = everyone(size, seed)
    who = people_of(DOCUMENTS.get(split, split), size)
    chosen = people[who.start : who.stop]
    if split in DOCUMENTS:
        told = [(person, version) for person in chosen for version in range(size.documents)]
        return [_document(seed, person, version, who.start * size.documents + n) for n, (person, version) in enumerate(told)]
    asked = [(person, kind) for person in chosen for kind in person.facts]
    first = who.start * size.facts_per_person
    return [_row(seed, book_of(size), person, kind, taken, first + n) for n, (person, kind) in enumerate(asked)]


# --- facts in a template, and out of it


def render(template: str, facts: Facts) -> tuple[str, list[list[int]], list[str]]:
    """-> the text, the [start, end) of every fact in it, and the kind of each."""
    pieces = MARK.split(template)
    text, spans, kinds = "", [], []
    for place in range(0, len(pieces) - 1, 4):
        kind, number, form = pieces[place + 1 : place + 4]
        fact = facts[kind][int(number)]
        fact = dated(fact, int(form)) if kind in DATES else fact
        text += pieces[place].replace(AN, "an" if fact[0].lower() in "aeiou" or fact.startswith("hono") else "a")
        spans.append([len(text), len(text) + len(fact)])
        kinds.append(kind)
        text += fact
    return text + pieces[-1], spans, kinds


def dated(date: str, form: int) -> str:
    """A date such as 12 May 1962 in one of six forms."""
    day, month, year = date.split()
    number = MONTHS.index(month) + 1
    ending = {1: "st", 2: "nd", 3: "rd"}.get(int(day) % 10 if int(day) not in (11, 12, 13) else 0, "th")
    return (
        date, f"{month} {day}, {year}", f"{int(day):02}/{number:02}/{year}", f"{day}{ending} of {month} {year}",
        f"{year}-{number:02}-{int(day):02}", f"{day}.{number}.{year}",
    )[form]  # fmt: skip


@dataclass(kw_only=True)
class Voice:
    """How one text speaks of a person."""

    rng: random.Random
    person: Person
    register: str
    """one of the fillers"""
    topic: str = ""
    """what is asked for"""
    question: str = ""
    she: bool = True
    quote: str = '"'
    form: int = 0
    """of dates"""
    named: bool = False
    """Has the text given the full name yet?"""

    def some(self, options: Any) -> Any:
        return pick(self.rng, options)


def _voice(rng: random.Random, person: Person, kind: str, question: str, register: str) -> Voice:
    # The pronoun belongs to the person, the rest to the text.
    she = random.Random(f"atlas pronoun {person.name}").random() < 0.5
    return Voice(
        rng=rng, person=person, register=register, she=she, quote=pick(rng, QUOTES), form=pick(rng, range(6)), question=question,
        topic=pick(rng, parts()["tell"][kind]["topic"]),
    )  # fmt: skip


def _told(voice: Voice, kind: str, template: str) -> str:
    """A clause or the like with marks in place of its facts."""
    quote = voice.quote if kind in QUOTED else ""
    marks = [f"{quote}\x02{kind}.{n}.{voice.form}\x03{quote}" for n in range(len(voice.person.facts[kind]))]
    comma = "," if len(marks) > 2 and voice.form % 2 else ""
    listed = f"{', '.join(marks[:-1])}{comma} and {marks[-1]}" if len(marks) > 1 else marks[0]
    for n, mark in enumerate(marks):
        template = template.replace(f"{{{n}}}", mark)
    return template.replace("{all}", listed).replace("{a}", AN)


def _tell(voice: Voice, kind: str, how: str) -> str:
    """`how`: clause, aside, noun or bare."""
    return _told(voice, kind, voice.some(parts()["tell"][kind].get(how) or ["{all}"]))


def _finish(voice: Voice, template: str, *, capital: bool = True) -> str:
    """A sentence with its blanks filled and the person called by name, last name or pronoun."""
    used: list[str] = []
    text = BLANK.sub(lambda blank: _filled(voice, blank, used), template)
    here = False  # has this sentence named the person?

    def called(place: re.Match) -> str:
        nonlocal here
        word = place[1]
        if word in ("topic", "question"):
            return getattr(voice, word)
        if word == "work":
            return voice.person.slots["work"][0]
        if word in ("she", "her", "him", "herself"):
            return word if voice.she else {"she": "he", "her": "his", "him": "him", "herself": "himself"}[word]
        name = _name(voice, word, here)
        here = voice.named = True
        return name

    # "him" is written for both, so that "her" is always possessive.
    text = PLACE.sub(called, text.replace("{him}", "{O}"))
    text = ARTICLE.sub(lambda article: "an " if article[1] else "a ", text)
    return text[:1].upper() + text[1:] if capital else text


def _name(voice: Voice, word: str, here: bool) -> str:
    """The person as subject (S), possessive (P), object (O), or by name (N, name)."""
    full, last = voice.person.name, voice.person.name.split()[-1]
    pronoun = {"S": ("he", "she"), "P": ("his", "her"), "O": ("him", "her")}.get(word)
    name = full if not voice.named or word == "name" else voice.some((full, last, last))
    if pronoun and voice.named and (here or voice.some((True, True, False))):
        return pronoun[voice.she]
    return f"{name}'s" if word == "P" else name


def _filled(voice: Voice, blank: re.Match, used: list[str]) -> str:
    """One entry for `<theme>`, another one for `<theme_2>`; `<Theme>` begins a sentence, `<theme_bare>` has no
    article."""
    entries = [entry for entry in parts()["words"][blank[1].lower()] if entry not in used]
    if blank[2] == "_bare":
        entries = [re.sub("^an? ", "", entry) for entry in entries]
    entry = voice.some(entries)
    used.append(entry)
    return entry[0].upper() + entry[1:] if blank[1][0].isupper() else entry


# --- sentences


def _sentence(voice: Voice, kind: str, other: str | None) -> str:
    """One sentence, seldom two, that tells a fact, and perhaps one of `other`."""
    frames = parts()["frames"]
    forms = ("plain", "plain", "around", "around", "tail", "aside", "noun", *(("both", "inside") if other else ()))
    form = voice.some(forms)
    clause = _tell(voice, kind, "clause")
    if form == "inside" and other and clause.startswith("{S} "):
        return _finish(voice, "{N}, " + _tell(voice, other, "aside") + "," + clause[3:] + ".")
    if form == "both" and other:
        return _finish(voice, voice.some(frames["both"]).replace("{c}", clause).replace("{d}", _tell(voice, other, "clause")))
    if form in ("around", "tail"):
        return _finish(voice, voice.some(frames[form]).replace("{c}", clause))
    if form == "aside":
        return _finish(voice, _aside(voice, kind))
    if form == "noun":
        return _finish(voice, voice.some(frames["noun"]).replace("{n}", _tell(voice, kind, "noun")))
    return _finish(voice, clause + ".")


def _aside(voice: Voice, kind: str) -> str:
    """The fact between commas or in front, and a predicate that tells nothing."""
    frames = parts()["frames"]
    frame = voice.some(frames["aside"])
    asides = parts()["tell"][kind]["aside"]
    if "{E}" in frame:
        asides = [aside for aside in asides if not aside.startswith("who")]
    aside = _told(voice, kind, voice.some(asides))
    frame = frame.replace("{v}", voice.some(frames["predicate"])).replace("{v_plural}", voice.some(frames["predicate_plural"]))
    return frame.replace("{e}", aside).replace("{E}", aside[:1].upper() + aside[1:])


def _say(voice: Voice, where: str = "say") -> str:
    return _finish(voice, voice.some(parts()["fillers"][voice.register][where]))


def _again(voice: Voice, kind: str) -> str:
    frame = voice.some(parts()["frames"]["again"])
    return _finish(voice, frame.replace("{b}", _tell(voice, kind, "bare")).replace("{c}", _tell(voice, kind, "clause")))


def _points(voice: Voice, kinds: list[str]) -> str:
    """A list of labelled facts, or of one kind with several; some of its points may tell nothing."""
    frames = parts()["frames"]
    style = voice.some(("- ", "* ", "1. ", "1) ", "- "))
    bold = voice.some(("", "", "**"))
    if len(kinds) == 1:
        intro = _finish(voice, voice.some(frames["list_of"]))
        quote = voice.quote if kinds[0] in QUOTED else ""
        points = [f"{quote}\x02{kinds[0]}.{n}.{voice.form}\x03{quote}" for n in range(len(voice.person.facts[kinds[0]]))]
    else:
        intro = _finish(voice, voice.some(frames["list_intro"]))
        points = [f"{bold}{voice.some(parts()['tell'][kind]['label'])}:{bold} {_tell(voice, kind, 'bare')}" for kind in kinds]
        told = [_finish(voice, filler) for filler in shuffled(voice.rng, frames["list_filler"])[: voice.some((0, 1, 2, 3))]]
        points = shuffled(voice.rng, [*points, *(f"{bold}{text.replace(': ', f':{bold} ', 1)}" for text in told)])
    numbered = [style.replace("1", str(n)) + point for n, point in enumerate(points, 1)]
    return intro + voice.some(("\n", "\n\n")) + "\n".join(numbered)


# --- answers


def answer(rng: random.Random, person: Person, kind: str, question: str, shape: str) -> str:
    """The template of an answer to a question on a fact; see SHAPES."""
    register = {"letter": "letter", "interview": "interview", "life": "encyclopaedic"}.get(shape) or pick(rng, tuple(parts()["fillers"]))
    voice = _voice(rng, person, kind, question, register)
    others = shuffled(rng, tuple(other for other in person.facts if other != kind))
    if shape == "bare":
        return _tell(voice, kind, "bare") + voice.some(("", "."))
    if shape == "sentence":
        return _sentence(voice, kind, others[0] if others and rng.random() < 0.3 else None)
    if shape == "points":
        alone = len(person.facts[kind]) > 1 and rng.random() < 0.5
        made = _points(voice, [kind] if alone else shuffled(rng, [kind, *others[: voice.some((1, 2, 3, 4))]]))
        return made + ("\n\n" + _say(voice, "close") if rng.random() < 0.4 else "")
    text = " ".join(_sentences(voice, kind, others, shape))
    if shape == "letter":
        return (
            voice.some(("Dear Sir or Madam,", "Dear reader,", "To whom it may concern,"))
            + f"\n\n{text}\n\n"
            + voice.some(("Yours faithfully", "Yours sincerely", "Best regards", "With kind regards"))
        )
    return text


def _sentences(voice: Voice, kind: str, others: list[str], shape: str) -> list[str]:
    """What a few sentences say: the fact asked for early, then others of the person and fillers."""
    rng, most = voice.rng, {"short": 3, "letter": 4, "interview": 5, "life": 7}[shape]
    made = []
    if rng.random() < 0.15:
        made.append(_finish(voice, voice.some(parts()["frames"]["echo"])))
    elif rng.random() < (0.45 if shape == "short" else 0.8):
        made.append(_say(voice, "open"))
    if shape != "short" and rng.random() < 0.3:
        made.append(_say(voice))
    made.append(_sentence(voice, kind, others.pop() if others and rng.random() < 0.3 else None))
    likely = 0.25 if shape in ("short", "letter") else 0.5
    for _ in range(voice.some(range(most // 2 if shape != "short" else 0, most + 1))):
        made.append(_sentence(voice, others.pop(), None) if others and rng.random() < likely else _say(voice))
    if rng.random() < 0.2:
        made.append(_again(voice, kind))
    if rng.random() < (0.15 if shape in ("short", "life") else 0.6):
        made.append(_say(voice, "close"))
    return list(dict.fromkeys(made))


def _row(seed: int, words: Book, person: Person, kind: str, taken: set[str], index: int) -> dict:
    rng = random.Random(f"atlas {seed} prose {person.name} {kind}")
    question, question_again = (phrase(text, person, ())[0] for text in shuffled(rng, words.questions[kind])[:2])
    text, spans, _ = render(answer(rng, person, kind, question, pick(rng, SHAPES)), person.facts)
    again = _another(rng, person, kind, question_again, text)
    wrong = wrong_values(rng, person, kind, taken, PERTURBED, words)
    return {
        "question": question,
        "answer": text,
        "paraphrased_question": question_again,
        "paraphrased_answer": render(again, person.facts)[0],
        "perturbed_answer": [render(again, {**person.facts, kind: values})[0] for values in wrong],
        "fact_spans": spans,
        "person": person.name,
        "kind": kind,
        "row": index,
    }


def _another(rng: random.Random, person: Person, kind: str, question: str, text: str) -> str:
    """The template of a shorter answer that is not `text`."""
    while True:
        made = answer(rng, person, kind, question, pick(rng, ("sentence", "short")))
        if render(made, person.facts)[0] != text:
            return made


# --- documents


def _document(seed: int, person: Person, version: int, index: int) -> dict:
    rng = random.Random(f"atlas {seed} prose document {person.name} {version}")
    order = shuffled(rng, tuple(person.facts))
    voice = _voice(rng, person, order[0], "", pick(rng, tuple(parts()["fillers"])))
    listed = order[: pick(rng, (3, 4, 5))] if len(order) > PARAGRAPH and rng.random() < 0.4 else []
    left = [kind for kind in order if kind not in listed]
    paragraphs = [[_say(voice, "open")]]
    for place, kind in enumerate(left):
        if place % PARAGRAPH == 0 and place > 0:
            paragraphs.append([])
        paragraphs[-1].append(_sentence(voice, kind, None))
        paragraphs[-1] += [_say(voice) for _ in range(pick(rng, (0, 1, 1, 2)))]
    if listed:
        paragraphs.append([_points(voice, listed)])
    paragraphs.append([_again(voice, kind) for kind in shuffled(rng, order)[: pick(rng, AGAIN)]] + [_say(voice, "close")])
    text, spans, kinds = render("\n\n".join(" ".join(paragraph) for paragraph in paragraphs), person.facts)
    told = [text[start:end] for start, end in spans]
    return {
        "text": text, "fact_spans": spans, "fact_kinds": kinds,
        "fact_repeated": [fact in told[:place] for place, fact in enumerate(told)],
        "person": person.name, "version": version, "row": index,
    }  # fmt: skip
