"""Words of an answer: which target tokens make up a word, and which words the question holds already.

A word is a run of letters and digits, with inner apostrophes and hyphens; a token over two words counts to the first. Compared with the
question, case and a possessive `'s` do not count. Written for languages that put blanks between words; elsewhere a run may be a clause.
Cost linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

WORD = re.compile(r"[\w\ufffd]+(?:['’-][\w\ufffd]+)*")
"""the replacement character stands for a token that is only a part of a letter"""
NONE = -1


def words_of(pieces: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Texts of T tokens in order, "" for a special one -> [T] index of each token's word, NONE between words; and the words."""
    ends = np.cumsum([len(p) for p in pieces])
    index, words, token = np.full(len(pieces), NONE), [], 0
    for match in WORD.finditer("".join(pieces)):
        while ends[token] <= match.start():
            token += 1
        inside, claimed = token, False
        while inside < len(pieces) and ends[inside] - len(pieces[inside]) < match.end():
            if index[inside] == NONE and pieces[inside]:  # no word has claimed it yet
                index[inside], claimed = len(words), True
            inside += 1
        if claimed:
            words.append(match.group())
    return index, words


def plain(word: str) -> str:
    """As words are compared."""
    return word.casefold().removesuffix("'s").removesuffix("’s")


def vocabulary(text: str) -> set[str]:
    """All words of a text, as they are compared."""
    return {plain(match.group()) for match in WORD.finditer(text)}


def gather(values: np.ndarray, word: np.ndarray, copied: np.ndarray, starts: np.ndarray, *, phrase: bool) -> np.ndarray:
    """A signal, token by token, as one of words or phrases: [N] at the target tokens of E examples -> [N], at least 0.

    `word`: index within the example, NaN between words; `copied`: not 0 for the words that count nothing; `starts` [E + 1].
    A word has the sum of its tokens, never less than 0: the later tokens of a name are certain once its first is given. With `phrase` it
    has the mean of that over itself and its two neighbours, 0 beyond the ends. A token between two words has the smaller of both.
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


def columns(pieces: Sequence[str], targets: Sequence[int], special: Callable[[int], bool], question: str | None) -> dict[str, np.ndarray]:
    """Columns `word` and `copied` of one example: [T] float64, NaN off target (`word`: and between words)."""
    index, words = words_of(["" if special(i) else pieces[i] for i in targets])
    known = vocabulary(question) if question is not None else set()
    held = np.array([plain(w) in known for w in words], dtype=np.float64)
    word, copied = np.full(len(pieces), np.nan), np.full(len(pieces), np.nan)
    word[list(targets)] = np.where(index == NONE, np.nan, index)
    copied[list(targets)] = [held[k] if k != NONE else 0.0 for k in index]
    return {"word": word, "copied": copied}
