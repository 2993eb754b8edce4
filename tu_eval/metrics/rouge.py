"""ROUGE-L: the longest common subsequence of two texts' words, over the words of the gold text (recall), or as F1. Source: Lin 2004, by
the package rouge-score; with its Porter stemmer where TOFU's numbers are wanted, without it where MUSE's are."""

from __future__ import annotations

from collections.abc import Sequence


def rouge_l_recall(answers: Sequence[str], generations: Sequence[str]) -> list[float]:
    """[rows] of 0 to 1: longest common subsequence of stemmed words / words of the answer. An answer without a word scores 0."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return [scorer.score(answer, generation)["rougeL"].recall for answer, generation in zip(answers, generations, strict=True)]


def rouge_l_f1(golds: Sequence[str], generations: Sequence[str]) -> list[float]:
    """[rows] of 0 to 1: harmonic mean of (common words / words of the gold text) and (common words / words generated), unstemmed, as in
    MUSE (arXiv 2407.06460); 0 where either has no word."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    return [scorer.score(gold, generation)["rougeL"].fmeasure for gold, generation in zip(golds, generations, strict=True)]
