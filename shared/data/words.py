"""Words of a text in any script: where they are, how they are compared, which tokens make up which, which the question
holds already.

A word is a run of letters, digits and the marks that belong to them, with inner apostrophes and hyphens. Scripts that
write no blanks between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) have a word a character: no dictionary,
hence no dictionary's mistakes. Everything that matches words reads them here: copies, ROUGE, attacks. docs/recipes.md
states the rules. Cost linear in the text.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import regex

_UNSPACED = r"[[\p{Han}\p{Hiragana}\p{Katakana}\u30fc\uff70\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]&&[\p{L}\p{N}\p{M}]]"
_MARKS = r"[\p{M}\u200c\u200d]"  # marks, and the two joiners that stand inside words of Persian and of Indian scripts
_LETTERS = rf"[[\p{{L}}\p{{N}}]--{_UNSPACED}]"
_CHARACTER = rf"{_UNSPACED}{_MARKS}*+"
_RUN = rf"{_LETTERS}(?:{_LETTERS}|{_MARKS})*+"
TERM = regex.compile(rf"(?V1){_CHARACTER}|{_RUN}")
UNSPACED = regex.compile(rf"(?V1){_CHARACTER}")
_INSIDE = rf"(?:{_LETTERS}|[_\ufffd])"  # \ufffd: what stores of earlier versions hold where a token is only a part of a letter
_PART = rf"{_INSIDE}(?:{_INSIDE}|{_MARKS})*+"
WORD = regex.compile(rf"(?V1){_CHARACTER}|{_PART}(?:['’-]{_PART})*+")
NONE = -1
Match = regex.Match[str]


def alike(text: str) -> str:
    """A text as words are compared: Unicode's compatible forms made one (NFKC), case folded. Plain lower case for
    ASCII."""
    return unicodedata.normalize("NFKC", text).casefold()


def terms(text: str) -> list[str]:
    """The words of a text as a measure compares them: `alike`, cut at apostrophes and hyphens too. For ASCII text: runs
    of a–z and 0–9."""
    return TERM.findall(alike(text))


def holds(text: Sequence[str], phrase: Sequence[str]) -> bool:
    """Do the `terms` of a text hold those of a phrase, one after another? A phrase without a word is nowhere."""
    size = len(phrase)
    return size > 0 and any(list(text[i : i + size]) == list(phrase) for i in range(len(text) - size + 1))


def words_in(text: str, offsets: Sequence[tuple[int, int]]) -> tuple[np.ndarray, list[str]]:
    """A text and where its T tokens lie in it (characters, end-exclusive; empty: nowhere) -> [T] index of each token's
    word, NONE between words; and the words. A token over two words counts to the first; words that no token counts to
    are left out."""
    matches = list(WORD.finditer(text))
    index, kept = _claimed(matches, offsets)
    return index, [matches[k].group() for k in kept]


def _claimed(matches: Sequence[Match], offsets: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """-> [T] index of each token's word among those that have a token, NONE for none; and which matches those are."""
    ends, index = [m.end() for m in matches], np.full(len(offsets), NONE)
    for token, (start, end) in enumerate(offsets):
        k = bisect_right(ends, start)
        if start < end and k < len(matches) and matches[k].start() < end:
            index[token] = k
    inside = index != NONE
    kept, index[inside] = np.unique(index[inside], return_inverse=True)
    return index, kept


def words_of(pieces: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The same from the texts of T tokens in order, "" for a special one."""
    _, index, matches = matches_of(pieces)
    return index, [match.group() for match in matches]


def matches_of(pieces: Sequence[str]) -> tuple[str, np.ndarray, list[Match]]:
    """The texts of T tokens, joined; [T] index of each token's word; and the words where they stand in that text."""
    text, ends = "".join(pieces), np.cumsum([len(p) for p in pieces]).tolist()
    matches = list(WORD.finditer(text))
    index, kept = _claimed(matches, [(end - len(p), end) for p, end in zip(pieces, ends, strict=True)])
    return text, index, [matches[k] for k in kept]


def plain(word: str) -> str:
    """As words of an answer are compared with those of its question."""
    return alike(word).removesuffix("'s").removesuffix("’s")


def vocabulary(text: str) -> set[str]:
    """All words of a text, as they are compared; of scripts without blanks, also each two characters that stand side by
    side."""
    matches = list(WORD.finditer(text))
    pairs = {alike(a.group() + b.group()) for a, b in pairwise(matches) if _neighbours(a, b)}
    return {plain(m.group()) for m in matches} | pairs


def words_of_text(text: str) -> list[Match]:
    """All words of a text, in order."""
    return list(WORD.finditer(text))


def _neighbours(a: Match, b: Match) -> bool:
    return a.end() == b.start() and bool(UNSPACED.fullmatch(a.group()) and UNSPACED.fullmatch(b.group()))


def beside(matches: Sequence[Match]) -> Iterator[tuple[Match, list[str]]]:
    """Each word and, of a character of a script without blanks, the pairs that it makes with its neighbours."""
    pairs = [a.group() + b.group() if _neighbours(a, b) else None for a, b in pairwise(matches)]
    for match, *both in zip(matches, [None, *pairs], [*pairs, None], strict=False):
        yield match, [two for two in both if two is not None]


def _held(matches: Sequence[Match], known: set[str]) -> list[bool]:
    """Of each word, whether `known`, the vocabulary of the question, holds it.

    A single character of a script without blanks says little: it is held where the question has it beside the same
    neighbour, before or behind it; one that has no such neighbour, where the question has it at all.
    """
    return [any(alike(two) in known for two in pairs) if pairs else plain(match.group()) in known for match, pairs in beside(matches)]


@dataclass(frozen=True)
class WordRuns:
    """The words of E examples, one after another: W words, at N target tokens."""

    at: np.ndarray
    """[A] target tokens that have a word"""
    which: np.ndarray
    """[A] the word of each"""
    first: np.ndarray
    """[W] the first target token of each word"""
    example: np.ndarray
    """[W] the example of each word"""
    gaps: np.ndarray
    """[G] target tokens between two words of one example"""
    left: np.ndarray
    """[G] the word before each"""
    right: np.ndarray
    """[G] the word after each"""
    count: int
    """N"""

    def sums(self, values: np.ndarray) -> np.ndarray:
        """[N] -> [W]: the sum over the tokens of each word."""
        return np.bincount(self.which, values[self.at], len(self.first))

    def largest(self, values: np.ndarray) -> np.ndarray:
        """[N] -> [W]: the largest among the tokens of each word."""
        begins = np.flatnonzero(np.diff(self.which, prepend=-1))
        return np.maximum.reduceat(values[self.at], begins) if len(begins) else np.zeros(0)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """[W] -> [N]: each token has the value of its word, a token between two words the smaller of both, any other
        0."""
        out = np.zeros(self.count)
        out[self.at] = values[self.which]
        out[self.gaps] = np.minimum(values[self.left], values[self.right])
        return out

    def beside(self, values: np.ndarray, step: int) -> np.ndarray:
        """[W] -> [W]: the value of the word so many words further (before, if negative) in the same example, 0 where
        there is none."""
        out, count = np.zeros(len(values)), len(values) - abs(step)
        if count <= 0:
            return out
        here, there = (slice(0, count), slice(step, None)) if step > 0 else (slice(-step, None), slice(0, count))
        out[here] = np.where(self.example[here] == self.example[there], values[there], 0)
        return out


def word_runs(word: np.ndarray, starts: np.ndarray) -> WordRuns:
    """`word`: [N] index within the example, NaN between words; `starts` [E + 1]: where each example begins."""
    owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    has = ~np.isnan(word)
    at = np.flatnonzero(has)
    new = np.ones(len(at), dtype=bool)
    new[1:] = (np.diff(word[at]) != 0) | (np.diff(owner[at]) != 0)
    which = np.cumsum(new) - 1
    before, after = np.cumsum(has) - 1, np.cumsum(has)  # places in `at` of the nearest tokens of words
    gaps = np.flatnonzero(~has & (before >= 0) & (after < len(at)))
    left, right = before[gaps], after[gaps]
    inside = (owner[at[left]] == owner[gaps]) & (owner[at[right]] == owner[gaps])
    gaps, left, right = gaps[inside], left[inside], right[inside]
    return WordRuns(at, which, at[new], owner[at[new]], gaps, which[left], which[right], len(word))


def gather(values: np.ndarray, word: np.ndarray, copied: np.ndarray, starts: np.ndarray, *, phrase: bool) -> np.ndarray:
    """A signal, token by token, as one of words or phrases: [N] at the target tokens of E examples -> [N], at least 0.

    `word`: index within the example, NaN between words; `copied`: not 0 for the words that count nothing; `starts` [E +
    1]. A word has the sum of its tokens, never less than 0: the later tokens of a name are certain once its first is
    given. With `phrase` it has the mean of that over itself and its two neighbours, 0 beyond the ends. A token between
    two words has the smaller of both.
    """
    runs = word_runs(word, starts)
    total = np.maximum(runs.sums(values), 0) * (copied[runs.first] == 0)
    return runs.spread((total + runs.beside(total, -1) + runs.beside(total, 1)) / 3 if phrase else total)


def columns(
    text: str,
    offsets: Sequence[tuple[int, int]],
    targets: Sequence[int],
    length: int,
    question: str | None,
    said: Callable[[list[Match]], list[bool]] | None = None,
) -> dict[str, np.ndarray]:
    """Columns `word` and `copied` of one example of `length` tokens: [length] float64, NaN off target (`word`: and
    between words).

    `text`: the answer, or a piece of raw text; `offsets`: where each of the `targets` lies in it, empty for a token
    that is no part of it. Copied are the words that `question` holds, or of raw text those of which `said` says so.
    """
    matches = words_of_text(text)
    index, kept = _claimed(matches, offsets)
    held = np.array(_held(matches, vocabulary(question or "")) if said is None else said(matches), dtype=np.float64)[kept]
    word, copied = np.full(length, np.nan), np.full(length, np.nan)
    word[list(targets)] = np.where(index == NONE, np.nan, index)
    copied[list(targets)] = [held[k] if k != NONE else 0.0 for k in index]
    return {"word": word, "copied": copied}
