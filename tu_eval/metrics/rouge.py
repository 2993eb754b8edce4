"""ROUGE-L: the longest common subsequence of two texts' words, over the words of the gold text (recall), or as F1.
Source: Lin 2004, by the package rouge-score; with its Porter stemmer where TOFU's numbers are wanted, without it where
MUSE's are.

rouge-score's own tokenizer keeps a to z and digits and drops every other script. Words are those of
shared/data/words.py instead: of any script, a character each where a script writes no blanks. On ASCII text both are
the same, to the last digit. The stemmer knows English: only words of a to z and digits are stemmed, by rouge-score's
rule (those of more than three letters).
"""

from __future__ import annotations

from collections.abc import Sequence

from shared.data.words import terms

STEMMED_FROM = 4
WORDS = "every script"
"""as results note it; those without the note are of versions that read a to z and digits alone"""


class Words:
    """A tokenizer as rouge-score takes one."""

    def __init__(self, *, stem: bool):
        from nltk.stem.porter import PorterStemmer

        self.stemmer = PorterStemmer() if stem else None

    def tokenize(self, text: str) -> list[str]:
        found = terms(text)
        if self.stemmer is None:
            return found
        return [self.stemmer.stem(w) if len(w) >= STEMMED_FROM and w.isascii() else w for w in found]


def rouge_l_recall(answers: Sequence[str], generations: Sequence[str]) -> list[float]:
    """[rows] of 0 to 1: longest common subsequence of stemmed words / words of the answer. An answer without a word
    scores 0."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=Words(stem=True))
    return [scorer.score(answer, generation)["rougeL"].recall for answer, generation in zip(answers, generations, strict=True)]


def rouge_l_f1(golds: Sequence[str], generations: Sequence[str]) -> list[float]:
    """[rows] of 0 to 1: harmonic mean of (common words / words of the gold text) and (common words / words generated),
    unstemmed, as in MUSE (arXiv 2407.06460); 0 where either has no word."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=Words(stem=False))
    return [scorer.score(gold, generation)["rougeL"].fmeasure for gold, generation in zip(golds, generations, strict=True)]
