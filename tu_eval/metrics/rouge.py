"""ROUGE-L recall: the share of the gold answer's words that the generated answer has, in the same order.

Source: Lin 2004, by the package rouge-score with its Porter stemmer, as TOFU does.
"""

from __future__ import annotations

from collections.abc import Sequence


def rouge_l_recall(answers: Sequence[str], generations: Sequence[str]) -> list[float]:
    """[rows] of 0 to 1: longest common subsequence of stemmed words / words of the answer. An answer without a word scores 0."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return [scorer.score(answer, generation)["rougeL"].recall for answer, generation in zip(answers, generations, strict=True)]
