"""How a text of any length is cut into pieces that a model reads, and what an earlier sentence of it says already.

A piece begins as the whole text does, with the tokens that stand before every text of this model (if there are any),
then reads again the last `overlap` tokens of what came before: context, and no targets. So the tokens of a text are
targets once each, all but the first, which nothing comes before, and those that begin a piece are judged by what they
follow. Costs are linear in the text; docs/raw_text.md has measurements.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import regex

from shared.data.words import Match, alike, beside, plain, words_of_text

OVERLAP = 64
"""tokens that a piece reads again where text is scored and nothing else was asked for"""
SENTENCE_END = regex.compile(r"""(?V1)
    \n                                       # a line end
    | [.!?…]++ [\p{Pe}\p{Pf}"'”’]*+ (?=\s)   # before a blank, with closing quotes and brackets
    | [。！？｡．।॥۔؟]++ [\p{Pe}\p{Pf}"'”’]*+    # East Asian, Indian and Arabic marks, also with no blank behind them
""", flags=regex.VERBOSE)  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """Which tokens of a text a piece reads: the first `lead`, then those from `context` to `end`; targets from `start`
    on. All count from the beginning of the text."""

    lead: int
    context: int
    start: int
    end: int


def cut(count: int, begins: int, length: int, overlap: int) -> Iterator[Piece]:
    """Pieces of at most `length` tokens over a text of `count`, the first `begins` of which stand before every text.

    Of `overlap`, at most half of what a piece has room for is read. A single last token that nothing comes before (no
    overlap, nothing that a text begins with) is left out.
    """
    assert begins < length, "there is room for text"
    overlap = min(overlap, (length - begins) // 2)
    yield Piece(0, 0, 0, min(length, count))
    for start in range(length, count, length - begins - overlap):
        piece = Piece(begins, max(start - overlap, begins), start, min(start + length - begins - overlap, count))
        if piece.lead or piece.context < start or piece.end - start > 1:
            yield piece


class Said:
    """What a text has said before each of its sentences."""

    def __init__(self, text: str) -> None:
        self._sentences = [0, *(end.end() for end in SENTENCE_END.finditer(text))]
        self._first: dict[str, int] = {}
        for word, keys in _keys(words_of_text(text)):
            for key in {*keys, plain(word.group())}:
                self._first.setdefault(key, word.start())

    def before(self, words: list[Match], at: int) -> list[bool]:
        """Of each of `words`, all of a part of the text that begins at character `at`: does an earlier sentence hold
        it? A character of a script without blanks is held with its neighbour, as in a question."""
        out = []
        for word, keys in _keys(words):
            place = at + word.start()
            sentence = self._sentences[bisect_right(self._sentences, place) - 1]
            out.append(any(self._first.get(key, place) < sentence for key in keys))
        return out


def _keys(words: list[Match]) -> Iterator[tuple[Match, list[str]]]:
    """Each word and what it is compared by: itself, or each pair of characters that it is part of."""
    for word, pairs in beside(words):
        yield word, [alike(pair) for pair in pairs] or [plain(word.group())]
