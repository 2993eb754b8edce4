"""Where the words and phrases of a blocklist stand in a text.

Both are compared as words are everywhere (`alike`: Unicode's compatible forms made one, case folded), and any blank
stands for any run of blanks. A phrase is found as whole words: no letter or digit goes on before or behind it. Chinese,
Japanese, Thai, Lao, Khmer and Burmese write no blanks, so a phrase of theirs is found anywhere; Korean particles follow
a noun without a blank, so behind Hangul anything may follow. Cost: linear in the text for each phrase.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import regex

from shared.data.words import UNSPACED, alike
from shared.errors import ConfigError
from shared.files.fs import open_regular

CLUSTER = regex.compile(r"\s+|\X")
"""a run of blanks, or what a reader takes for one character"""
LETTER = regex.compile(r"[\p{L}\p{N}\p{M}_]")
HANGUL = regex.compile(r"\p{Hangul}")
LARGEST = 1_000_000
"""bytes of a file of phrases"""
Characters = tuple[int, int]
"""a span of a text: [start, end)"""


def folded(text: str) -> tuple[str, list[Characters]]:
    """The text as it is compared, and for each of its characters where that one stands in `text`."""
    out, at = [], []
    for match in CLUSTER.finditer(text):
        piece = " " if match.group().isspace() else alike(match.group())
        out.append(piece)
        at += [match.span()] * len(piece)
    return "".join(out), at


def find_phrases(text: str, phrases: Sequence[str]) -> list[list[Characters]]:
    """For each phrase, where it stands in `text`: nowhere, once or more often, in order."""
    whole, at = folded(text)
    return [_find(whole, at, folded(phrase.strip())[0]) for phrase in phrases]


def _find(whole: str, at: Sequence[Characters], phrase: str) -> list[Characters]:
    out, start = [], whole.find(phrase) if phrase else -1
    while start >= 0:
        end = start + len(phrase)
        cut = any(0 < k < len(at) and at[k - 1] == at[k] for k in (start, end))  # within one character of the text
        if not cut and not _goes_on(whole, start) and (HANGUL.match(whole[end - 1]) or not _goes_on(whole, end)):
            out.append((at[start][0], at[end - 1][1]))
        start = whole.find(phrase, start + 1)
    return out


def _goes_on(whole: str, at: int) -> bool:
    """Does a word of a script with blanks go on from the character before `at` to the one there?"""
    beside = whole[max(at - 1, 0) : at + 1]
    return 0 < at < len(whole) and all(LETTER.match(c) and not UNSPACED.match(c) for c in beside)


def read_phrases(path: str, *, flag: str) -> list[str]:
    """The lines of a file, one word or phrase each; blank ones are left out, and what is written twice counts once.
    Raises ConfigError naming `flag`."""
    lines = list(dict.fromkeys(line.strip() for line in lines_of(path, flag=f"{flag}=", what="word or phrase") if line.strip()))
    if not lines:
        raise ConfigError(f"{flag}={path}: holds no line; expected one word or phrase a line")
    return lines


def lines_of(path: str, *, flag: str, what: str) -> list[str]:
    """All lines of a file with one `what` a line. Raises ConfigError, which begins with `flag`."""
    where = f"{flag}{path}"
    try:
        with open_regular(Path(path)) as handle:
            data = handle.read(LARGEST + 1)
        text = data[:LARGEST].decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: cannot be read: {error}") from None
    if len(data) > LARGEST:
        raise ConfigError(f"{where}: has more than {LARGEST:,} bytes, expected one {what} a line")
    return text.splitlines()
