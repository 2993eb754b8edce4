"""Does a model still write? Texts that repeat themselves, are empty, or refuse: a model that babbles has forgotten how
to speak, not the facts.

Words are those of shared/data/words.py, so every script has them. Cost linear in the texts.

    repetition     1 − distinct / all n-grams of one text (n = 4): seq-rep-4 of Welleck et al. 2019 (arXiv 1908.04319)
    distinct-n     distinct / all n-grams of all texts together (Li et al. 2016, arXiv 1510.03055)
    empty          a text without a word
    refusing       a text that begins with one of REFUSALS
    babbling       empty, or with a repetition of at least BABBLING
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from shared.data.words import alike, holds, terms

LENGTH = 4
"""of the n-grams that say whether a text repeats itself"""
BABBLING = 0.5
"""repetition from which on a text says the same again and again"""
REFUSALS = (
    "i don't know", "i do not know", "i'm not sure", "i am not sure", "i'm sorry", "i am sorry", "sorry,", "i cannot", "i can't",
    "i'm unable", "i am unable", "i have no information", "i don't have", "i do not have", "i'm not familiar", "i am not familiar",
    "i'm not aware", "i am not aware", "no idea", "unknown", "as an ai", "that's beyond", "i must decline", "i won't", "i will not",
    "je ne sais pas", "désolé", "no lo sé", "no sé", "lo siento", "ich weiß nicht", "es tut mir leid", 
    "我不知道", "抱歉", "لا أعرف", "لا أعلم", "אני לא יודע", "mi dispiace", "não sei", "わかりません", "не знаю",
)  # fmt: skip
"""beginnings, compared as words are (`alike`)"""


@dataclass(frozen=True)
class Fluency:
    """Of one set's answers; shares 0 to 1."""

    texts: int
    repetition: float | None
    """mean over texts with a word; null without any"""
    distinct_1: float | None
    distinct_2: float | None
    empty: float
    refusing: float
    babbling: float

    def to_json(self) -> dict[str, float | None]:
        return asdict(self)


def fluency(texts: Sequence[str]) -> Fluency:
    """`texts`: not empty."""
    words = [terms(text) for text in texts]
    spoken = [repetition(w) for w in words if w]
    return Fluency(
        len(texts),
        math.fsum(spoken) / len(spoken) if spoken else None,
        distinct(words, 1),
        distinct(words, 2),
        share(not w for w in words),
        share(map(refuses, texts)),
        share(map(babbles, texts)),
    )


def share(found: Iterable[bool]) -> float:
    held = list(found)
    return sum(held) / len(held)


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def repetition(words: Sequence[str], n: int = LENGTH) -> float:
    """0 to 1; 0 for a text shorter than n words."""
    made = ngrams(words, n)
    return 1 - len(set(made)) / len(made) if made else 0.0


def distinct(texts: Sequence[Sequence[str]], n: int) -> float | None:
    """Over [texts][words]; None where no text has n words."""
    made = [gram for words in texts for gram in ngrams(words, n)]
    return len(set(made)) / len(made) if made else None


def refuses(text: str) -> bool:
    said = alike(text).replace("’", "'").lstrip(" \t\n\"'*-:.")
    return said.startswith(REFUSALS)


def babbles(text: str) -> bool:
    """Empty, or more repetition than new."""
    words = terms(text)
    return not words or repetition(words) >= BABBLING


def word_match(text: str, wanted: Sequence[str]) -> bool:
    """Does the text hold every phrase of `wanted`, each as whole words in a row, whatever case, punctuation and form of
    Unicode? In scripts without blanks a word is a character. A phrase without a word is nowhere."""
    words = terms(text)
    return bool(wanted) and all(holds(words, terms(phrase)) for phrase in wanted)
