"""Measured pieces -> rows of rows.parquet: every number of a row that needs no other row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from shared.data.datasets import Row
from shared.data.words import TERM
from tu_eval.metrics.fluency import word_match
from tu_eval.metrics.memorization import exact_memorization, extraction_strength
from tu_eval.metrics.probability import mean_logprob, probability, probability_with_options
from tu_eval.metrics.rouge import rouge_l_recall
from tu_eval.metrics.truth_ratio import log_truth_ratio, truth_ratio
from tu_eval.results.folder import ResultRow
from tu_eval.suites.sets import EvalSet
from tu_eval.suites.variants import Variants, answer_length, fact_spans

Rows = list[ResultRow]


def row_of(part: EvalSet, variants: Variants, scores: Mapping[str, ResultRow], tokenizer: Any) -> ResultRow:
    """Without what generation gives."""
    scored, row = scores[variants.answer.id], variants.answer.row
    answer, hits = scored["logprob"], scored["hits"]
    right = mean_logprob(scores[variants.right.id]["logprob"])
    wrong = [mean_logprob(scores[e.id]["logprob"]) for e in variants.wrong]
    ratio = log_truth_ratio(right, wrong) if wrong else None
    at = dict(zip(variants.answer.targets, answer, strict=True))
    known = hits and hits[: answer_length(variants.answer, tokenizer)]
    return {
        "set": part.name,
        "example_id": variants.answer.id,
        "question": row.question,
        "answer": row.answer,
        "generation": None,
        "nll_sum": -math.fsum(answer),
        "target_tokens": len(answer),
        "probability": probability(answer),
        "probability_options": probability_with_options(right, wrong) if part.options else None,
        "log_truth_ratio": ratio,
        "truth_ratio": None if ratio is None else truth_ratio(ratio),
        "rouge_l_recall": None,
        "word_match": None,
        "fact_probability": probability([at[i] for i in variants.fact_tokens]) if variants.fact_tokens else None,
        "exact_memorization": exact_memorization(known) if known else None,
        "extraction_strength": extraction_strength(known) if known else None,
    }


def add_generations(rows: Rows, generations: Mapping[str, str]) -> None:
    """Fills `generation` and `rouge_l_recall`."""
    texts = [generations[row["example_id"]].strip() for row in rows]
    for row, text, recall in zip(rows, texts, rouge_l_recall([r["answer"] for r in rows], texts), strict=True):
        row.update(generation=text, rouge_l_recall=recall)


def add_word_match(part: EvalSet, kept: Sequence[Variants], rows: Rows) -> None:
    """Fills `word_match` of rows with answers: 1 where every marked fact stands in the answer as whole words in a row,
    or the whole gold answer where the row marks none; else 0."""
    for variants, row in zip(kept, rows, strict=True):
        row["word_match"] = float(word_match(row["generation"], _phrases(variants.answer.row, part.facts)))


def _phrases(row: Row, facts: bool) -> list[str]:
    """What an answer must hold; a word that is marked in part is taken whole."""
    words = [match.span() for match in TERM.finditer(row.answer)]
    touched = [[(a, b) for a, b in words if a < end and start < b] for start, end in (fact_spans(row) if facts else [])]
    return [row.answer[some[0][0] : some[-1][1]] for some in touched if some] or [row.answer]
