"""Wrong answers of the same kind, taken from other rows.

Two questions ask for the same kind of thing where they begin and end alike: "Where was Mira Oslind born?" and "Where
was Joren Kapple born?" differ in the name alone. The answer of the one is a wrong answer to the other; where it says
the other's name, the name asked for is put in its place. First come rows that differ in a name, or whose answer could
be made to speak of the right one, then those whose questions share most, then answers of a like length; what is equal
by all of that is ordered by a hash of the two questions, so the same rows give the same wrong answers on every machine.
Words are those of every script (shared/data/words.py). Cost: every pair of rows is compared once, O(n²).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shared.data.words import Match, plain, terms, words_of_text
from shared.files.fs import hash_json

LEAST_ALIKE = 1 / 3
"""share of a question's words that two questions must have in common, at their beginning and end, to be of one kind for
their names' sake"""


@dataclass(frozen=True)
class AskedRow:
    """A question, cut into words, with its answer."""

    question: str
    answer: str
    matches: list[Match]
    words: list[str]
    """as they are compared"""


def asked(question: str, answer: str) -> AskedRow:
    matches = words_of_text(question)
    return AskedRow(question, answer, matches, [plain(m.group()) for m in matches])


def wrong_answers(rows: Sequence[AskedRow], at: int, count: int) -> list[str]:
    """Of row `at`, at most `count`, no two with the same words and none with those of the right one; the likeliest kind
    first."""
    own = rows[at]
    found = sorted(_candidates(rows, own))
    out, known = [], {tuple(terms(own.answer))}
    for *_, text in found:
        said = tuple(terms(text))
        if len(out) < count and said and said not in known:
            known.add(said)
            out.append(text)
    return out


def _candidates(rows: Sequence[AskedRow], own: AskedRow) -> Iterator[tuple[bool, float, float, int, str, str]]:
    """(other kind, −shared frame, −shared words, difference in length, hash, answer) of every row that asks something
    else."""
    length, held = len(terms(own.answer)), set(own.words)
    for other in rows:
        if other.words == own.words:
            continue  # the same question: its answer may be right
        mine, theirs = differing(own, other)
        frame = 1 - max(len(mine), len(theirs)) / max(len(own.words), len(other.words))
        text = spoken_of(other.answer, mine, theirs)
        named = bool(mine and theirs) and _names(mine) and _names(theirs)
        kind = frame >= LEAST_ALIKE and (named or text != other.answer)
        common = len(held & set(other.words)) / len(held | set(other.words))
        order = hash_json([own.question, other.question])
        yield (not kind, -frame, -common, abs(len(terms(text)) - length), order, text)


def differing(one: AskedRow, two: AskedRow) -> tuple[list[Match], list[Match]]:
    """The words of each between the beginning and the end that both share."""
    a, b = one.words, two.words
    most, first = min(len(a), len(b)), 0
    while first < most and a[first] == b[first]:
        first += 1
    last = 0
    while last < most - first and a[-1 - last] == b[-1 - last]:
        last += 1
    return one.matches[first : len(a) - last], two.matches[first : len(b) - last]


def spoken_of(answer: str, mine: Sequence[Match], theirs: Sequence[Match]) -> str:
    """The answer with what is asked for here in place of what is asked for there; as it is where it does not say
    that."""
    if not mine or not theirs:
        return answer
    out = _replaced(answer, [plain(m.group()) for m in theirs], _surface(mine))
    if len(mine) == len(theirs) and _names(mine) and _names(theirs):  # a first or last name alone
        for a, b in zip(mine, theirs, strict=True):
            out = _replaced(out, [plain(b.group())], _surface([a])) if plain(a.group()) != plain(b.group()) else out
    return out


def _replaced(text: str, phrase: Sequence[str], by: str) -> str:
    matches, size = words_of_text(text), len(phrase)
    words = [plain(m.group()) for m in matches]
    out, behind, at = [], 0, 0
    while at + size <= len(words):
        if words[at : at + size] != list(phrase):
            at += 1
            continue
        last = matches[at + size - 1]
        out += [text[behind : matches[at].start()], by, _possessive(last.group())]
        behind, at = last.end(), at + size
    return "".join([*out, text[behind:]])


def _surface(matches: Sequence[Match]) -> str:
    """As the question has it, without a possessive."""
    text = matches[0].string[matches[0].start() : matches[-1].end()]
    return text.removesuffix(_possessive(text))


def _possessive(word: str) -> str:
    return word[-2:] if word.casefold().endswith(("'s", "’s")) else ""


def _names(matches: Sequence[Match]) -> bool:
    """Words with a capital letter, or numbers."""
    return all(m.group()[0].isupper() or m.group()[0].isdigit() for m in matches)
