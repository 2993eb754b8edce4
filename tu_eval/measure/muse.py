"""One evaluation on MUSE (Shi et al. 2024, arXiv 2407.06460), top to bottom: splits -> answers, log-probabilities ->
rows -> metrics.

    verbmem     ROUGE-L F1 between the greedy continuation of a forgotten text and the true one
    knowmem     ROUGE-L F1 between the greedy answer after solved examples and the gold one, on forget and retain
                questions
    privleak    Min-K% on forgotten texts and on texts that no model saw, against the retain model

Cost: one greedy answer a row, one forward pass over the texts of privleak. There is no forget quality and no model
utility: MUSE has no wrong answers, so no truth ratios; what is kept is knowmem on the retain questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared.console import say
from shared.data.layout import LayoutOptions, say_layout
from shared.errors import ConfigError, nearest
from shared.files.outputs import claims
from shared.lm import models
from tu_eval.measure.config import EvalConfig
from tu_eval.measure.finish import Measured, finish, identity_of, infer_membership, open_subjects
from tu_eval.measure.membership import separations
from tu_eval.measure.model_folder import find_model
from tu_eval.measure.pieces import Decoding, Subject, generate, score, stop_ids
from tu_eval.measure.retain import load_texts_retain
from tu_eval.measure.rows import Rows
from tu_eval.measure.summary import Metrics, Reasons, leakage, mean
from tu_eval.metrics.rouge import rouge_l_f1
from tu_eval.results.results import Results
from tu_eval.suites.muse_data import Part, load_parts, load_texts
from tu_eval.suites.suites import KNOWN, MUSE

LENGTHS = {"verbmem": "verbmem_tokens", "knowmem": "knowmem_tokens"}
"""kind -> field of the configuration: tokens an answer may take"""
STOPS = ("\n\n", "\nQuestion", "Question:")
"""what ends an answer to a question: the model goes on with one of its own"""


@claims("the results of one evaluation")
def evaluate(config: EvalConfig) -> Results:
    """Runs the suite and writes the results folder. Raises UserError before any work for everything that cannot fit."""
    assert config.suite is not None, "this suite was asked for by its name"
    corpus = config.suite.partition(":")[2]
    if corpus not in MUSE:
        raise ConfigError(f"--suite {config.suite}: no such suite{nearest(config.suite, KNOWN)}")
    folder = find_model(config.model)
    device = models.choose_device(config.device)
    plain = LayoutOptions(template="plain", beginning_token=config.beginning_token)  # chat templates play no part in the results
    tokenizer, context = models.load_laid_out(config.model, folder, plain), models.context_length(folder)
    stop = stop_ids(tokenizer, []) if config.generate else []
    fitting: Any = {"context": context, "long": config.long, "limit": config.limit}
    parts = load_parts(corpus, tokenizer, verbmem_tokens=config.verbmem_tokens, **fitting)
    sides = {side: load_texts(corpus, side, tokenizer, **fitting) for side in ("forget", "holdout")}
    asked = [e for part in parts for e in part.examples]
    models.require_rows(f"--model {config.model}", folder, ((e.id, e.input_ids) for e in asked))
    identity = {"suite": config.suite, **identity_of(config, tokenizer, [*asked, *sides["forget"]], sides["holdout"])}
    retain = load_texts_retain(config.retain_results, identity) if config.retain_results else None
    subject, reference = open_subjects(config, folder, device.type, identity, list(LENGTHS.values()), sides)
    counts = [f"{p.kind} {p.set} {len(p.examples)}" for p in parts] + [f"privleak {k} {len(v)}" for k, v in sides.items()]
    say_layout(tokenizer, config.model)
    say(f"evaluating {config.model} on {config.suite}: {', '.join(counts)} rows")
    scores, engine = score(subject, [e for side in sides.values() for e in side], sides)
    rows: dict[str, Rows] = {}
    for part in parts:
        decoding = Decoding(tokenizer, context, stop, getattr(config, LENGTHS[part.kind]))
        rows.setdefault(part.set, []).extend(_rows(part, subject, decoding))
    membership = infer_membership(sides, scores, tokenizer, subject, reference)
    measured = Measured(rows, membership, separations(membership, seed=config.seed), engine)
    metrics, reasons = _memory(parts, rows, config.generate)
    leaks, more = leakage(measured.attacks, retain, None)
    metrics, reasons = {**metrics, **leaks}, {**reasons, **more}
    return finish(
        config, subject, identity, measured, metrics, reasons, retain=retain, utility_parts=[], settings=list(LENGTHS.values())
    )  # fmt: skip


def _rows(part: Part, subject: Subject, decoding: Decoding) -> Rows:
    """Of rows.parquet; without generation there are no numbers."""
    texts: list[str | None] = [None] * len(part.examples)
    numbers: list[float | None] = [None] * len(part.examples)
    if subject.config.generate:
        written = generate(subject, f"{part.kind}-{part.set}", part.examples, decoding)
        made = [written[e.id] if part.kind == "verbmem" else first_answer(written[e.id]) for e in part.examples]
        texts = [text.strip() for text in made]
        numbers = [*rouge_l_f1([e.row.answer for e in part.examples], made)]
    return [
        {
            "set": part.set,
            "example_id": e.id,
            "question": e.row.question,
            "answer": e.row.answer,
            "generation": text,
            **{kind: number if kind == part.kind else None for kind in LENGTHS},
        }
        for e, text, number in zip(part.examples, texts, numbers, strict=True)
    ]


def first_answer(text: str) -> str:
    """What stands before the first of STOPS."""
    return text[: min((at for stop in STOPS if (at := text.find(stop)) >= 0), default=len(text))]


def _memory(parts: Sequence[Part], rows: dict[str, Rows], generated: bool) -> tuple[Metrics, Reasons]:
    names = [f"{part.set}_{part.kind}" for part in parts]
    metrics: Metrics = {f"{part.set}_{part.kind}": mean(rows[part.set], part.kind) for part in parts}
    return metrics, {} if generated else dict.fromkeys(names, "generation was off (generate=false)")
