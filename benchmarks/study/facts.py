"""The facts of a TOFU row, from the benchmark's own material: no model and no annotator has a say.

Each row comes with its answer in another wording and with five more that keep that wording and tell wrong facts. So a
word of the answer carries the fact where the right wording holds it and the wrong ones do not. Words of the question
are no secret.
"""

from __future__ import annotations

from shared.data.datasets import Row
from shared.data.words import WORD, plain, vocabulary

BY_CHANCE = 1
"""a wrong answer of the five may hold the word all the same"""


def fact_spans(row: Row) -> list[list[int]]:
    """[start, end) character offsets, in the answer, of the words that carry the fact; none where the paraphrase shares
    no such word."""
    wrong = [vocabulary(text) for text in row.extra["perturbed_answer"]]
    right = vocabulary(row.extra["paraphrased_answer"]) - vocabulary(row.question or "")
    telling = {word for word in right if sum(word in other for other in wrong) <= BY_CHANCE}
    return [[m.start(), m.end()] for m in WORD.finditer(row.answer) if plain(m.group()) in telling]
