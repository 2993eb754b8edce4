"""Secrets of a deletion request, and where they stand in a text whatever their case, form of Unicode or blanks.

Compared are: compatible forms taken apart (NFKD) and case folded, twice, as Unicode's caseless match has it; the dotted
and dotless i of Turkish as one letter; without blanks and without what no reader sees (soft hyphens, joiners, marks of
direction, selectors of variants, Arabic tatweel). Other marks count: `José` is not `Jose`. What is found begins and
ends with a whole character of the text, and no word goes on there: `Ann` is not in `Anna`. Scripts without blanks have
no such words; behind Hangul anything may follow; before Arabic and Hebrew the particles that are written onto a word
may stand. Cost: linear in the text for each secret.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import regex

from shared.console import say
from shared.data.datasets import Row, columns_near
from shared.data.phrases import CLUSTER, HANGUL, LETTER, Characters, lines_of
from shared.data.words import UNSPACED
from shared.errors import ConfigError, DataError
from shared.files.fs import hash_json

COLUMN = "column:"
"""before the name of a column of the data, in place of a file"""
NAMED = 10
"""secrets, and rows, that a line names"""
UNSEEN = regex.compile(r"[\s\p{Cf}\p{Default_Ignorable_Code_Point}\u0640]+")
PARTICLES = regex.compile(r"[وف]?(?:[بك]?(?:ال)?|لل?)|[והבכלמש]{1,3}")
MOST_PARTICLES = 4
"""letters that PARTICLES can match"""


def alike(text: str) -> str:
    """A character as secrets are compared; empty for what does not count."""
    text = unicodedata.normalize("NFD", text)
    for _ in range(2):
        text = unicodedata.normalize("NFKD", text).casefold()
    text = UNSEEN.sub("", unicodedata.normalize("NFKD", text)).replace("ı", "i")
    return text.replace("\u0307", "") if text.startswith("i") else text


@dataclass(frozen=True)
class Folded:
    """A text as it is compared."""

    text: str
    at: list[Characters]
    """where each of its characters stands in the text as it was"""
    first: list[str]
    """the first character there"""
    apart: list[bool]
    """whether a blank stood before it"""


def folded(text: str) -> Folded:
    out, at, first, apart, blank = [], [], [], [], False
    for match in CLUSTER.finditer(text):
        piece = alike(match.group())
        blank |= match.group().isspace()
        if not piece:
            continue
        out.append(piece)
        at += [match.span()] * len(piece)
        first += [match.group()[0]] * len(piece)
        apart += [blank, *[False] * (len(piece) - 1)]
        blank = False
    return Folded("".join(out), at, first, apart)


@dataclass(frozen=True)
class Secret:
    name: str
    """where it was read, which may be shown: `line 3`, or a row's id"""
    text: str

    @cached_property
    def key(self) -> str:
        """Equal for secrets that are found in the same places."""
        return folded(self.text).text


def find_secrets(text: str, secrets: Sequence[Secret]) -> list[list[Characters]]:
    """For each secret the [start, end) characters of `text` where it stands, in order."""
    whole = folded(text)
    return [_find(whole, secret.key) for secret in secrets]


def held(text: str, secrets: Sequence[Secret]) -> list[int]:
    """Which of the secrets stand in a text, by index."""
    return [k for k, found in enumerate(find_secrets(text, secrets)) if found]


def _find(whole: Folded, key: str) -> list[Characters]:
    out, start = [], whole.text.find(key) if key else -1
    while start >= 0:
        end = start + len(key)
        if not (_cut(whole, start) or _cut(whole, end)) and _begins(whole, start) and _ends(whole, end):
            out.append((whole.at[start][0], whole.at[end - 1][1]))
        start = whole.text.find(key, start + 1)
    return out


def _cut(whole: Folded, k: int) -> bool:
    """Within one character of the text?"""
    return 0 < k < len(whole.at) and whole.at[k - 1] == whole.at[k]


def _goes_on(whole: Folded, k: int) -> bool:
    """Does a word of a script with blanks go on from the character before `k` to the one there?"""
    if not 0 < k < len(whole.at) or whole.apart[k]:
        return False
    return all(LETTER.match(c) and not UNSPACED.match(c) for c in (whole.first[k - 1], whole.first[k]))


def _begins(whole: Folded, start: int) -> bool:
    back = start
    while _goes_on(whole, back) and start - back <= MOST_PARTICLES:
        back -= 1
    return back == start or (not _goes_on(whole, back) and PARTICLES.fullmatch(whole.text, back, start) is not None)


def _ends(whole: Folded, end: int) -> bool:
    return HANGUL.match(whole.first[end - 1]) is not None or not _goes_on(whole, end)


def read_secrets(named: str, rows: Iterable[Row], *, flag: str = "--secrets") -> list[Secret]:
    """Those of a file, one a line, or of a column of `rows` (`column:NAME`: a text or a list of texts, none where it is
    empty). What is found in the same places counts once.

    Raises ConfigError or DataError naming `flag`.
    """
    if named.startswith(COLUMN):
        found = _of_column(named.removeprefix(COLUMN), rows, flag)
    else:
        lines = enumerate(lines_of(named, flag=f"{flag} ", what="secret"), 1)
        found = [Secret(f"line {number}", line.strip()) for number, line in lines if line.strip()]
    if not found:
        raise ConfigError(f"{flag} {named}: holds no secret; expected one a line, or a column with texts as {COLUMN}NAME")
    if empty := next((secret.name for secret in found if not secret.key), None):
        raise ConfigError(f"{flag} {named}: {empty} holds nothing that could be looked for; remove it")
    first: dict[str, Secret] = {}
    for secret in found:
        first.setdefault(secret.key, secret)
    return list(first.values())


def _of_column(column: str, rows: Iterable[Row], flag: str) -> list[Secret]:
    out, names, last = [], {}, None
    for row in rows:
        if row is last:  # the pieces of one text
            continue
        names |= row.extra
        last = row
        value = row.extra.get(column)
        texts = [value] if isinstance(value, str) else [] if value is None else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{row.id}: its {column} is no text and no list of texts, which {flag} {COLUMN}{column} asks for")
        out += [Secret(row.id if len(texts) == 1 else f"{row.id} ({number})", text) for number, text in enumerate(texts, 1) if text.strip()]
    if column not in names:
        raise DataError(f"{flag} {COLUMN}{column}: no row has a column {column!r}{columns_near(column, names)}")
    return out


def hash_of(secrets: Sequence[Secret]) -> str:
    """Of the list, as they are compared."""
    return hash_json([secret.key for secret in secrets])


class Census:
    """Which secrets the answers of the data hold, and which answers hold none."""

    def __init__(self, secrets: Sequence[Secret], flag: str = "--secrets"):
        self.secrets, self.flag = secrets, flag
        self.rows = [0] * len(secrets)
        """how many rows hold each secret"""
        self.without: list[str] = []
        """the ids of rows that hold none"""
        self.seen = 0

    def find(self, row: Row) -> list[Characters]:
        """Where secrets stand in its answer."""
        found = find_secrets(row.answer, self.secrets)
        self.rows = [n + bool(spans) for n, spans in zip(self.rows, found, strict=True)]
        self.seen += 1
        if not any(found):
            self.without.append(row.id)
        return [span for spans in found for span in spans]

    def say(self, *, refuse: bool = True) -> None:
        """What was not found. `refuse`: raises DataError where no answer holds any secret."""
        lost = [secret.name for secret, rows in zip(self.secrets, self.rows, strict=True) if not rows]
        if refuse and len(lost) == len(self.secrets):
            raise DataError(f"{self.flag}: none of the {len(lost)} secrets stands in any of {self.seen} answers; they are looked for as "
                            "whole words, case, form of Unicode and blanks aside")  # fmt: skip
        if lost:
            say(f"{self.flag}: {len(lost)} of {len(self.secrets)} secrets stand in no answer: {_some(lost)}")
        if self.without:
            say(f"{self.flag}: {len(self.without)} of {self.seen} rows hold no secret in their answer: {_some(self.without)}")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
