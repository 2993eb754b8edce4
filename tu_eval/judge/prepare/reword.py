"""A question in other words, by rules for English: "Where was Mira Oslind born?" becomes "Could you tell me where Mira
Oslind was born?".

The question word stays in front, the auxiliary goes behind the subject. Where the subject ends is told by capital
letters (a name) or by a participle at the end of the question; a question without an auxiliary ("Who wrote it?") is
kept whole. Only questions that begin with an English question word are reworded; any other is None, and a model behind
the judge's endpoint does it better.
"""

from __future__ import annotations

import re

OPENINGS = ("Could you tell me", "I would like to know", "Please say", "I want to find out")
"""chosen by the length of the question, so that not all begin alike"""
AUXILIARY = "is|was|are|were|am|does|did|do|has|have|had|can|could|will|would|should|may|might|must"
QUESTION = re.compile(
    rf"(?P<word>(?:(?:in|at|on|for|from|to|with|by|of|under|since)\s+)?(?:who|whom|whose|what|which|where|when|why|how)\b(?:\s+(?!(?:{AUXILIARY})\b)\S+)*?)"
    rf"\s+(?P<auxiliary>{AUXILIARY})\s+(?P<rest>.+)",
    re.IGNORECASE | re.DOTALL,
)
PLAIN = re.compile(r"(?:who|what|which|whose|how\s+(?:many|much))\b.+", re.IGNORECASE | re.DOTALL)
IRREGULAR = "called|known|made|held|kept|won|built|born|found|sold|told|set|put|taught|named"
PARTICIPLE = re.compile(rf"\S+(?:ed|wn|rn|ght|ven|ken|tten|sen|zen)|{IRREGULAR}", re.IGNORECASE)
PREPOSITIONS = {"in", "at", "on", "for", "from", "to", "with", "by", "of", "as", "about"}
DO = {"does", "did", "do"}


def reword(question: str) -> str | None:
    """None where no rule fits."""
    text = " ".join(question.split()).rstrip("?").rstrip()
    found = QUESTION.fullmatch(text)
    if found is not None:
        rest = _moved(found["rest"].split(" "), found["auxiliary"])
        told = f"{_small(found['word'])} {rest}" if rest else None
    else:
        told = _small(text) if PLAIN.fullmatch(text) else None
    if told is None:
        return None
    opening = OPENINGS[len(text) % len(OPENINGS)]
    return f"{opening} {told}{'?' if opening is OPENINGS[0] else '.'}"


def _moved(words: list[str], auxiliary: str) -> str | None:
    """The words with the auxiliary behind the subject; `does` goes into its verb."""
    at, small = _subject(words), auxiliary.lower()
    if at == len(words) and small in DO:
        return None  # a verb must follow
    if small == "does":
        return " ".join([*words[:at], _third_person(words[at]), *words[at + 1 :]])
    return " ".join([*words[:at], small, *words[at:]])


def _third_person(verb: str) -> str:
    """lives, watches, studies, has."""
    if verb == "have":
        return "has"
    if verb.endswith(("s", "sh", "ch", "x", "z", "o")):
        return f"{verb}es"
    return f"{verb[:-1]}ies" if verb.endswith("y") and verb[-2:-1] not in "aeiou" else f"{verb}s"


def _subject(words: list[str]) -> int:
    """How many words the subject has."""
    end = len(words)
    while end > 1 and words[end - 1].lower() in PREPOSITIONS:
        end -= 1
    if end > 1 and PARTICIPLE.fullmatch(words[end - 1]):
        return end - 1
    run = 0
    while run < len(words) and words[run][:1].isupper():
        run += 1
    if run and not words[run - 1].endswith(("'s", "’s", ",")):
        return run
    return 1 if words[0].lower() in ("he", "she", "it", "they", "you", "we", "i") else len(words)


def _small(text: str) -> str:
    return text[:1].lower() + text[1:]
