"""How the words of an answer are written, from the texts of its tokens: for an importance that is learned
(shared/weighting/learned.py).

    capital    begins with a capital letter                    quoted     a quotation mark, * or _ stands before it
    begins     is the first of the answer or of a sentence     comma      a comma stands before it
    digit      holds a digit                                   repeated   the answer has held it before

and rarity, which needs all answers of a store: −log of the share of the other answers that hold the word, or of
SMALLEST where the share is smaller. It tells the words that stand everywhere ("the", "de", "的") in any language, and
no more than that: a secret may well stand in many answers. Few answers say little about a word, so PRIOR more are
counted, of which PRIOR_SHARE hold it.

Everything is told from characters, by Unicode's properties: scripts without capitals have none, and of those without
blanks a word is a character (shared/data/words.py). Cost linear in the text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import regex

from shared.data.words import NONE, matches_of, plain

WRITTEN = ("capital", "begins", "digit", "quoted", "comma", "repeated")
RARITY = "rarity"
ENDS = regex.compile(r"[.!?:\n\u2026\u061f\u06d4\u0964\u3002\uff01\uff1a\uff1f]")
QUOTES = regex.compile(r"[\"*_\p{Pi}\p{Pf}\u201a\u201e\u300c\u300e]")
COMMAS = regex.compile(r"[,\u060c\u3001\uff0c]")
SMALLEST = 0.12
PRIOR, PRIOR_SHARE = 10, 0.05
"""answers; share of them"""
LARGEST = 1_000_000
"""words that are counted at a time"""


@dataclass
class Documents:
    """In how many answers each word stands.

    Memory grows with the vocabulary up to LARGEST words: then those that stand in less than a hundredth of the answers
    so far are forgotten, which is far below SMALLEST. (Of less than a hundred answers none can be.)
    """

    count: int = 0
    held: Counter[str] = field(default_factory=Counter)
    room: int = LARGEST
    """words that there may be before the next are forgotten"""

    def add(self, pieces: Sequence[str]) -> None:
        """One more answer, the texts of its target tokens."""
        self.count += 1
        self.held.update({plain(match.group()) for match in matches_of(pieces)[2]})
        if len(self.held) > self.room:
            self.held = Counter({word: count for word, count in self.held.items() if count * 100 >= self.count})
            self.room = len(self.held) + LARGEST

    def rarity(self, words: Sequence[str]) -> np.ndarray:
        """Words of an answer that was added, as `plain` has them -> [W] float64."""
        others = np.array([self.held[word] for word in words], dtype=np.float64) - 1
        share = (np.maximum(others, 0) + PRIOR * PRIOR_SHARE) / (self.count - 1 + PRIOR)
        return -np.log(np.clip(share, SMALLEST, 1))


def written(pieces: Sequence[str], documents: Documents | None = None) -> dict[str, np.ndarray]:
    """Texts of the T target tokens of one answer, in order -> each of WRITTEN, [T] float64 of 0 and 1, 0 between words;
    with the `documents` that the answer was added to also RARITY."""
    text, index, matches = matches_of(pieces)
    told = {name: np.zeros(len(matches) + 1) for name in WRITTEN}  # the last entry is for tokens between words
    known: set[str] = set()
    end = 0
    for k, match in enumerate(matches):
        before, bare = text[end : match.start()], match.group().lstrip("_")
        told["capital"][k] = bare[:1].isupper() or bare[:1].istitle()
        told["begins"][k] = k == 0 or ENDS.search(before) is not None
        told["digit"][k] = any(c.isdigit() for c in bare)
        told["quoted"][k] = QUOTES.search(before) is not None or bare != match.group()
        told["comma"][k] = COMMAS.search(before) is not None
        told["repeated"][k] = plain(bare) in known
        known.add(plain(bare))
        end = match.end()
    if documents is not None:
        told[RARITY] = np.append(documents.rarity([plain(match.group()) for match in matches]), 0)
    place = np.where(index == NONE, len(matches), index)
    return {name: values[place] for name, values in told.items()}
