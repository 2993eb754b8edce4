"""Names, numbers and dates in a text, by plain rules over its characters; no model, no list of names. docs/spans.md
states the rules.

One pass of two regular expressions: cost linear in the text. English is assumed for months, function words and linking
words.
"""

from __future__ import annotations

import re

MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
MONTH = rf"(?:{MONTHS}|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?"
DAY = r"\d{1,2}(?:st|nd|rd|th)?"
YEAR = r"\d{4}"
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
"""letters of scripts without blanks between words, and of Korean: a number may stand right beside them"""
ALONE, ENDS = rf"(?<![^\W{UNSPACED}])", rf"(?![^\W{UNSPACED}])"
DATE = "|".join(
    (
        r"\d{4}年(?:\d{1,2}月(?:\d{1,2}[日号])?)?|\d{1,2}月\d{1,2}[日号]",  # 1987年3月12日, 3月12日
        rf"{DAY}\s(?:of\s)?{MONTH}(?:,?\s{YEAR})?(?!\w)",  # 12 March 1987, 3rd of May
        rf"{MONTH}\s{DAY}(?:,\s?{YEAR}|\s{YEAR})?(?!\w)",  # March 12, 1987
        rf"{MONTH},?\s{YEAR}(?!\w)",  # March 1987
    )
)
NUMBER = rf"[$€£]?\d+(?:[.,:/–-]\d+)*(?:st|nd|rd|th|s|%)?{ENDS}"  # 1987, 03/12/1987, 10:30, 1,200.5, 42nd, 1990s, $5, 30%
LETTERS = rf"[^\W\d_{UNSPACED}]+"
WORD = rf"(?:(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr)\.(?=\s)|(?:[^\W\d_]\.)+|{LETTERS}(?:['’-]{LETTERS}|\d+)*|[{UNSPACED}]+)"
QUOTED = "|".join(f"(?<={a})[^{a}{b}\n]{{1,60}}(?={b})" for a, b in ("「」", "『』", "《》", "〈〉"))
PIECES = re.compile(rf"(?P<quoted>{QUOTED})|(?P<date>{ALONE}(?:{DATE}))|(?P<number>{ALONE}{NUMBER})|(?P<word>{ALONE}{WORD})")

LINKS = "of the de del della der da di do dos du la le van von den ten bin ibn al el"
"""words that may stand between two capitalised words of one name, at most two in a row"""
FUNCTION_WORDS = """a an the this that these those i you he she it we they me him her us them my your his its our their who whom whose
    what which when where why how is are was were be been am do does did has have had can could will would shall should may might must
    and or but nor so yet if because although though while as since until unless after before during in on at by for from to of
    with without within about into over under between among against through across upon per not no yes there here some any each
    every all both many much most more few other another such one only also then than too very please can't don't doesn't didn't
    isn't aren't wasn't weren't won't i'm i've i'd i'll it's he's she's that's what's who's where's there's let's name tell give
    describe explain list regarding concerning despite besides according like"""
"""words that are capitalised only because a sentence begins with them"""
LINKING, BEGINNING = frozenset(LINKS.split()), frozenset(FUNCTION_WORDS.split())

SENTENCE_ENDS, BETWEEN_SENTENCES = ".!?:;\n", " \t\"'“”‘’([)]"
GAP = re.compile(r"[^\S\n]+")


def entity_spans(text: str) -> list[tuple[int, int]]:
    """[start, end) character offsets of every entity, in order; none overlap."""
    spans: list[tuple[int, int]] = []
    run: list[re.Match[str]] = []
    links: list[re.Match[str]] = []
    end = 0

    def close() -> None:
        if run:
            spans.append((run[0].start(), run[-1].start() + len(_without_possessive(run[-1].group()))))
        run.clear()
        links.clear()

    for piece in PIECES.finditer(text):
        if not GAP.fullmatch(text, end, piece.start()):
            close()
        end = piece.end()
        word = piece.group()
        if piece.lastgroup != "word":
            close()
            spans.append(piece.span())
        elif word[0].isupper() and not _only_begins(text, piece):
            run.append(piece)
            links.clear()
            if _without_possessive(word) != word:
                close()  # Basil's Kuwait: two names
        elif run and word in LINKING and len(links) < 2:
            links.append(piece)
        else:
            close()
    close()
    return sorted(spans)


def _only_begins(text: str, piece: re.Match[str]) -> bool:
    """Is this word capitalised only because of where it stands?"""
    word = piece.group().lower().replace("’", "'")
    if word == "i" or word.startswith("i'"):
        return True
    return word in BEGINNING and _begins_a_sentence(text, piece.start())


def _begins_a_sentence(text: str, at: int) -> bool:
    while at and text[at - 1] in BETWEEN_SENTENCES:
        at -= 1
    return at == 0 or text[at - 1] in SENTENCE_ENDS


def _without_possessive(word: str) -> str:
    return re.sub(r"['’]s$", "", word)
