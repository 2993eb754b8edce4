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
    ends = np.cumsum([len(p) for p in pieces]).tolist()
    return words_in("".join(pieces), [(end - len(p), end) for p, end in zip(pieces, ends, strict=True)])


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


def gather(values: np.ndarray, word: np.ndarray, copied: np.ndarray, starts: np.ndarray, *, phrase: bool) -> np.ndarray:
    """A signal, token by token, as one of words or phrases: [N] at the target tokens of E examples -> [N], at least 0.

    `word`: index within the example, NaN between words; `copied`: not 0 for the words that count nothing; `starts` [E +
    1]. A word has the sum of its tokens, never less than 0: the later tokens of a name are certain once its first is
    given. With `phrase` it has the mean of that over itself and its two neighbours, 0 beyond the ends. A token between
    two words has the smaller of both.
    """
    count, owner = len(values), np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    has = ~np.isnan(word)
    at = np.flatnonzero(has)
    if not len(at):
        return np.zeros(count)
    new = np.ones(len(at), dtype=bool)
    new[1:] = (np.diff(word[at]) != 0) | (np.diff(owner[at]) != 0)
    which, home = np.cumsum(new) - 1, owner[at[new]]  # word of each token that has one; example of each word
    total = np.maximum(np.bincount(which, values[at]), 0) * (copied[at[new]] == 0)
    if phrase:
        same = home[1:] == home[:-1]
        near = total.copy()
        near[1:] += np.where(same, total[:-1], 0)
        near[:-1] += np.where(same, total[1:], 0)
        total = near / 3
    out = np.zeros(count)
    out[at] = total[which]
    before, after = np.cumsum(has) - 1, np.cumsum(has)  # places in `at` of the nearest tokens of words
    gaps = np.flatnonzero(~has & (before >= 0) & (after < len(at)))
    left, right = at[before[gaps]], at[after[gaps]]
    inside = (owner[left] == owner[gaps]) & (owner[right] == owner[gaps])
    out[gaps[inside]] = np.minimum(out[left], out[right])[inside]
    return out


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
