"""One evaluation on a suite of questions, top to bottom: suite -> variants -> pieces (log-probabilities, answers,
gradients) -> rows -> metrics -> results folder.

Everything that can be refused is refused before the model is loaded. Each finished piece is kept by content
(tu_eval/measure/kept.py), so an evaluation that was interrupted, started again, goes on at the piece it was at; the
results folder appears when all numbers are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.console import number_of, say
from shared.data.examples import Example
from shared.data.layout import say_layout
from shared.errors import DataError
from shared.extensions import identity as code_of
from shared.files.outputs import claims
from shared.lm import models
from tu_eval.measure import leaks
from tu_eval.measure.config import EvalConfig
from tu_eval.measure.finish import Measured, finish, identity_of, infer_membership, open_subjects
from tu_eval.measure.membership import separations
from tu_eval.measure.model_folder import find_model
from tu_eval.measure.more import add_clusters, add_jailbreak, add_paraphrases, add_surprise, more_means
from tu_eval.measure.own import OwnMetric, add_own, own_means, own_metrics
from tu_eval.measure.pieces import Decoding, Subject, TokenisedSuite, generate, score, stop_ids
from tu_eval.measure.retain import load_retain
from tu_eval.measure.rows import add_generations, add_word_match, row_of
from tu_eval.measure.summary import summarise
from tu_eval.results.results import Results
from tu_eval.suites.own_files import suite_of
from tu_eval.suites.sets import Suite
from tu_eval.suites.suites import SUITE
from tu_eval.suites.variants import load_holdout, load_variants


@claims("the results of one evaluation")
def evaluate(config: EvalConfig) -> Results:
    """Runs a suite and writes the results folder. Raises UserError before any work for everything that cannot fit."""
    own_files = suite_of(config)
    suite = own_files.suite
    folder = find_model(config.model)
    device = models.choose_device(config.device)
    loaded = _load(config, suite, folder)
    own, retain = own_metrics(config.metrics, [part.name for part in suite.sets]), None
    if config.retain_results:
        forget = [(e.id, e.row.answer) for e in loaded.sides["forget"]]
        holdout = (loaded.identity["holdout_fingerprint"], len(loaded.holdout))
        retain = load_retain(config.retain_results, loaded.identity, forget, holdout)
    check = _leak_check(config, loaded) if config.secrets is not None else None
    subject, reference = open_subjects(config, folder, device.type, loaded.identity, ["max_new_tokens"], loaded.sides)
    say_layout(loaded.tokenizer, config.model)
    if own_files.missing:
        say(own_files.missing)
    say(f"evaluating {config.model} on {suite.name}: " + ", ".join(f"{s.name} {number_of(len(rows), 'row')}" for s, rows in loaded.sets))
    measured = _measure(config, loaded, subject, reference, own, check)
    metrics, reasons = summarise(suite, measured.rows, measured.attacks, retain, loaded.no_holdout)
    means, more = own_means(own, measured.rows)
    metrics, reasons = {**metrics, **means, **more_means(measured)}, {**reasons, **more}
    parts, settings = suite.utility_parts, ("max_new_tokens", "template")
    return finish(
        config, subject, loaded.identity, measured, metrics, reasons, retain=retain, utility_parts=parts, settings=settings
    )  # fmt: skip


def fingerprint(config: EvalConfig) -> str:
    """Of the rows that the suite asks now, as the summary of an evaluation has it."""
    return _load(config, suite_of(config).suite, find_model(config.model)).identity["data_fingerprint"]


def _load(config: EvalConfig, suite: Suite, folder: Path) -> TokenisedSuite:
    tokenizer, context = models.load_laid_out(config.model, folder, config), models.context_length(folder)
    sets = []
    for part in suite.sets:
        variants, skipped = load_variants(part, tokenizer, context=context, long=config.long, limit=config.limit)
        if skipped:
            say(f"{part.name}: {number_of(skipped, 'row')} left out, longer than the model's context of {context} tokens (--long skip)")
        sets.append((part, variants))
    holdout, no_holdout = _holdout(config, suite, tokenizer, context)
    _require_own_ids({**{part.name: [v.answer for v in kept] for part, kept in sets}, "holdout": holdout})
    asked = (e for _, rows in sets for v in rows for e in v.examples)
    own = {"suite_code": code} if config.suite and (code := code_of(SUITE, config.suite)) else {}
    identity = {"suite": suite.name, **own, **identity_of(config, tokenizer, asked, holdout)}
    return TokenisedSuite(tokenizer, context, sets, holdout, no_holdout, identity)


def _require_own_ids(by_set: Mapping[str, Sequence[Example]]) -> None:
    """Raises DataError where two sets have different rows of one id: numbers are kept by it, and one would count for
    both."""
    of: dict[str, tuple[str, list[int]]] = {}
    for name, examples in by_set.items():
        for example in examples:
            other, ids = of.setdefault(example.id, (name, example.input_ids))
            if ids != example.input_ids:
                raise DataError(f"sets {other} and {name}: both have a row {example.id}, since their files have one name or rows one id; "
                                "rename one of the files")  # fmt: skip


def _leak_check(config: EvalConfig, loaded: TokenisedSuite) -> leaks.LeakCheck:
    asked = [v.answer.row for part, kept in loaded.sets if part.name == "forget" for v in kept]
    writing = leaks.Writing(config.secret_samples, config.secret_temperature, config.max_new_tokens, config.seed)
    return leaks.prepare(str(config.secrets), asked, loaded.tokenizer, writing, context=loaded.context, long=config.long)


def _holdout(config: EvalConfig, suite: Suite, tokenizer: Any, context: int | None) -> tuple[list[Example], str | None]:
    """A holdout that was asked for must be there; without the suite's own, the rest is measured and the results say why
    it is not all."""
    if config.holdout is not None:
        return load_holdout(config.holdout, tokenizer, context=context, limit=config.limit, text=suite.forget.text), None
    if suite.holdout is None:
        return [], "needs rows that no model saw, and the suite names none; name some with --holdout DATA"
    try:
        return load_holdout(suite.holdout, tokenizer, context=context, limit=config.limit, text=suite.forget.text), None
    except DataError as error:
        reason = f"needs rows that no model saw, and the suite's are not there ({error}); name some with --holdout DATA"
        say(f"no membership inference: {reason}")
        return [], reason


def _measure(config: EvalConfig, loaded: TokenisedSuite, subject: Subject, reference: Subject | None, own: Sequence[OwnMetric],
             check: leaks.LeakCheck | None) -> Measured:  # fmt: skip
    scores, engine = score(subject, loaded.examples, loaded.sides)
    rows = {part.name: [row_of(part, v, scores, loaded.tokenizer) for v in kept] for part, kept in loaded.sets}
    if config.generate:
        asked = [(part, kept) for part, kept in loaded.sets if part.generate]
        stop = stop_ids(loaded.tokenizer, [v.answer for _, kept in asked for v in kept])
        decoding = Decoding(loaded.tokenizer, loaded.context, stop, config.max_new_tokens)
        for part, kept in asked:
            add_generations(rows[part.name], generate(subject, part.name, [v.answer for v in kept], decoding))
            add_word_match(part, kept, rows[part.name])
    for part, kept in loaded.sets:
        add_own(own, rows[part.name], kept, scores)
    more = [*add_clusters(config.cluster, loaded.sets, rows), *(["word_match"] if config.generate else [])]
    if config.more_metrics:
        more += add_paraphrases(loaded.sets, scores, rows)
        more += add_jailbreak(subject, loaded, rows["forget"], config.max_new_tokens)
    more += ["answer_nll"] if config.fluency_model is not None else []
    leaked = None
    if check is not None:
        every = [row for kept in rows.values() for row in kept]
        found = leaks.search(check, "model", leaks.answers_to(check, subject, greedy=every))
        leaked = check.describe(found), found
    membership = infer_membership(loaded.sides, scores, loaded.tokenizer, subject, reference)
    if config.fluency_model is not None:
        add_surprise(config, subject.measurements.identity, rows)
    codes = {m.column: m.code for m in own}
    return Measured(rows, membership, separations(membership, seed=config.seed), engine, codes, leaked, more)
