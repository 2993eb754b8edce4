"""One evaluation on LUME (arXiv 2502.15097), top to bottom: rows -> answers, log-probabilities -> numbers of rows ->
metrics -> results folder.

    sc      ROUGE-L recall between the greedy continuation of a text and the true one
    qa      1 where the greedy answer is the gold one but for case and blanks around it, else 0

How they become one score: tu_eval/measure/lume_score.py. Cost: one greedy answer a row, one forward pass over all rows
and over the texts of membership inference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shared.console import say
from shared.data.layout import say_layout
from shared.files.outputs import claims
from shared.lm import models
from tu_eval.measure.config import EvalConfig
from tu_eval.measure.finish import Measured, finish, identity_of, infer_membership, open_subjects
from tu_eval.measure.lume_score import NO_MIA, read_mmlu, summarise
from tu_eval.measure.membership import separations
from tu_eval.measure.model_folder import find_model
from tu_eval.measure.pieces import Decoding, Sides, Subject, generate, score, stop_ids
from tu_eval.measure.retain import load_texts_retain
from tu_eval.measure.rows import Rows
from tu_eval.measure.summary import leakage
from tu_eval.metrics.probability import probability
from tu_eval.metrics.rouge import rouge_l_recall
from tu_eval.results.columns import LUME_KINDS
from tu_eval.results.folder import ResultRow
from tu_eval.results.results import Results
from tu_eval.suites.lume_data import FILES, LumePart, load_parts, load_texts

SETTINGS = ("completion_tokens", "template", "mia_data", "mmlu")


@claims("the results of one evaluation")
def evaluate(config: EvalConfig) -> Results:
    """Runs the suite and writes the results folder. Raises UserError before any work for everything that cannot fit."""
    folder = find_model(config.model)
    device = models.choose_device(config.device)
    tokenizer, context = models.load_laid_out(config.model, folder, config), models.context_length(folder)
    fitting: Any = {"context": context, "long": config.long, "limit": config.limit}
    parts = load_parts(tokenizer, **fitting)
    sides: Sides = {side: load_texts(config.mia_data, side, tokenizer, **fitting) if config.mia_data else [] for side in FILES}
    asked = [e for part in parts for e in part.examples]
    stop = stop_ids(tokenizer, asked) if config.generate else []
    models.require_rows(f"--model {config.model}", folder, ((e.id, e.input_ids) for e in asked))
    mmlu = read_mmlu(config.mmlu, models.model_fingerprint(folder)) if config.mmlu else None
    texts = [e for side in sides.values() for e in side]
    identity = {"suite": config.suite, **identity_of(config, tokenizer, asked, texts)}
    retain = load_texts_retain(config.retain_results, identity) if config.retain_results else None
    subject, reference = open_subjects(config, folder, device.type, identity, ["completion_tokens"], sides)
    say_layout(tokenizer, config.model)
    say(f"evaluating {config.model} on lume: " + ", ".join(f"{p.set} {p.task} {p.form} {len(p.examples)}" for p in parts) + " rows")
    scores, engine = score(subject, [*asked, *texts], sides)
    decoding = Decoding(tokenizer, context, stop, config.completion_tokens)
    rows: dict[str, Rows] = {}
    for part in parts:
        rows.setdefault(part.set, []).extend(_rows(part, subject, decoding, scores))
    membership = infer_membership(sides, scores, tokenizer, subject, reference)
    measured = Measured(rows, membership, separations(membership, seed=config.seed), engine)
    leaks, why = leakage(measured.attacks, retain, None if config.mia_data else NO_MIA)
    metrics, reasons = summarise(rows, leaks, mmlu, generated=config.generate)
    metrics, reasons = {**metrics, **leaks}, {**reasons, **why}
    return finish(config, subject, identity, measured, metrics, reasons, retain=retain, utility_parts=[], settings=SETTINGS)


def _rows(part: LumePart, subject: Subject, decoding: Decoding, scores: Mapping[str, ResultRow]) -> Rows:
    """Of rows.parquet; without generation there is the likelihood alone."""
    texts: list[str | None] = [None] * len(part.examples)
    numbers: list[float | None] = [None] * len(part.examples)
    if subject.config.generate:
        written = generate(subject, f"{part.set}-{part.task}-{part.form}", part.examples, decoding)
        made = [written[e.id].strip() for e in part.examples]
        golds = [e.row.answer for e in part.examples]
        texts = [*made]
        numbers = [*rouge_l_recall(golds, made)] if part.form == "sc" else [*exact_match(golds, made)]
    return [
        {
            "set": part.set,
            "example_id": e.id,
            "question": e.row.question,
            "answer": e.row.answer,
            "generation": text,
            "nll_sum": -sum(scores[e.id]["logprob"]),
            "target_tokens": len(scores[e.id]["logprob"]),
            "probability": probability(scores[e.id]["logprob"]),
            **{kind: number if kind == part.kind else None for kind in LUME_KINDS},
        }
        for e, text, number in zip(part.examples, texts, numbers, strict=True)
    ]


def exact_match(golds: Sequence[str], answers: Sequence[str]) -> list[float]:
    """1 where the two are the same but for case and blanks around them, as the shared task compares them; else 0."""
    return [float(gold.strip().lower() == answer.strip().lower()) for gold, answer in zip(golds, answers, strict=True)]
