"""What kind of word a target token belongs to, by plain rules over the text of the answer; English is assumed for
function words.

    end          a special token: the end of the turn or text
    number       a word with a digit
    function     a word of FUNCTION_WORDS, however it is written
    name         any other word with a capital first letter (also one that only begins a sentence)
    other        any other word
    punctuation  a token without a letter or digit

A token counts to the first word that it holds a part of; one without a text, which goes on with a letter, to that of
the token before. Cost linear in the text.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared.data.words import NONE, words_of

CLASSES = ("name", "number", "function", "other", "punctuation", "end")
_FUNCTION = """
a an the this that these those i you he she it we they me him her us them my your his its our their who whom whose what which when
where why how is are was were be been being am do does did has have had having can could will would shall should may might must and
or but nor so yet if because although though while as since until unless after before during in on at by for from to of with without
within about into over under between among against through across upon per not no yes there here some any each every all both many
much most more few other another such one only also then than too very"""
FUNCTION_WORDS = frozenset(_FUNCTION.split())


def classes_of(pieces: Sequence[str], special: Sequence[bool]) -> list[str]:
    """Texts of the target tokens of one answer in order, and which of them are special tokens -> an entry of CLASSES
    each."""
    index, words = words_of(["" if ends else piece for piece, ends in zip(pieces, special, strict=True)])
    kinds = [class_of_word(word) for word in words]
    out: list[str] = []
    for k, piece, ends in zip(index, pieces, special, strict=True):
        if ends:
            out.append("end")
        elif not piece and out:
            out.append(out[-1])
        else:
            out.append("punctuation" if k == NONE else kinds[k])
    return out


def class_of_word(word: str) -> str:
    if any(c.isdigit() for c in word):
        return "number"
    if word.lower() in FUNCTION_WORDS:
        return "function"
    return "name" if word[0].isupper() else "other"
