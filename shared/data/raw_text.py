"""How a text of any length is cut into pieces that a model reads, and what an earlier sentence of it says already.

A piece begins as the whole text does, with the tokens that stand before every text of this model (if there are any),
then reads again the last `overlap` tokens of what came before: context, and no targets. So the tokens of a text are
targets once each, all but the first, which nothing comes before, and those that begin a piece are judged by what they
follow. Where nothing stands before the texts of a model and nothing is read again, nothing comes before the first token
of any piece, and none of these is a target. Costs are linear in the text; docs/raw_text.md has measurements.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import regex

from shared.data.words import Match, alike, beside, plain, words_of_text

OVERLAP = 128
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


class EarlierWords:
    """Which words of a text an earlier sentence of it holds."""

    def __init__(self, text: str) -> None:
        words = words_of_text(text)
        self._starts, self._held = [word.start() for word in words], []
        ends = [end.end() for end in SENTENCE_END.finditer(text)]
        said, waiting, sentence = set[str](), set[str](), 0
        for word, pairs in beside(words):
            own_sentence = bisect_right(ends, word.start())
            if own_sentence > sentence:
                said.update(waiting)
                waiting.clear()
                sentence = own_sentence
            own, keys = plain(word.group()), [alike(pair) for pair in pairs]
            # A character of a script without blanks says little: it is held beside a neighbour, as in a question.
            self._held.append(any(key in said for key in keys or [own]))
            waiting |= {own, *keys}

    def before(self, words: Sequence[Match], at: int) -> list[bool]:
        """Of each of `words`, those of a part of the text that begins at its character `at`. A word that the part cuts
        off counts as the whole one."""
        return [self._held[bisect_right(self._starts, at + word.start()) - 1] for word in words]
