"""One evaluation, top to bottom: suite -> variants -> pieces (log-probabilities, answers, gradients) -> rows -> metrics -> results folder.

Everything that can be refused is refused before the model is loaded. Each finished piece is kept in the store (tu_eval/store.py), so
an evaluation that was interrupted, started again, goes on at the piece it was at; the results folder appears when all numbers are there.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import models
from shared.config import as_dict
from shared.console import say
from shared.engines import choose_engine, vllm_setup
from shared.errors import ConfigError, DataError
from shared.examples import Example, data_fingerprint
from shared.fs import require_fresh
from tu_eval.config import EvalConfig
from tu_eval.measure import Loaded, Subject, generate, gradient_norms, losses, score
from tu_eval.membership import membership_rows, separations
from tu_eval.results import FORMAT, Results, write_results
from tu_eval.retain import load_retain
from tu_eval.rows import Rows, add_generations, row_of
from tu_eval.store import Row, Store, remove_stores
from tu_eval.suites import Suite, find_suite
from tu_eval.summary import summarise
from tu_eval.variants import load_holdout, load_variants


@dataclass(frozen=True)
class Measured:
    """All numbers of the rows, by set; membership scores; and the engine that made them."""

    rows: dict[str, Rows]
    membership: Rows
    engine: dict[str, Any]


def evaluate(config: EvalConfig) -> Results:
    """Runs a suite and writes the results folder. Raises UserError before any work for everything that cannot fit."""
    suite, out = find_suite(config.suite), Path(config.out)
    require_fresh(out, what="the results of one evaluation")
    folder = models.locate(config.model)
    device = models.choose_device(config.device)
    engine = choose_engine(config.engine, config.device)
    loaded = _load(config, suite, folder)
    retain = None
    if config.retain_results:
        forget = [(e.id, e.row.answer) for e in loaded.attacked["forget"]]
        holdout = (loaded.identity["holdout_fingerprint"], len(loaded.holdout))
        retain = load_retain(config.retain_results, loaded.identity, forget, holdout)
    model = models.model_fingerprint(folder)
    root = Path(config.store) if config.store else out.with_name(f"{out.name}.unfinished")
    content = {**loaded.identity, **_settings(config, device.type, engine)}
    subject = Subject(folder, config, Store(root, {**content, "model_fingerprint": model}))
    reference = _reference(config, loaded, root, content)
    say(f"evaluating {config.model} on {suite.name}: " + ", ".join(f"{s.name} {len(rows)} rows" for s, rows in loaded.sets))
    measured = _measure(config, loaded, subject, reference)
    attacks = separations(measured.membership, seed=config.seed)
    metrics, reasons = summarise(suite, measured.rows, attacks, retain, loaded.no_holdout)
    summary = {
        "format": FORMAT,
        "label": config.label or default_label(config.model),
        "model": config.model,
        "model_fingerprint": model,
        **loaded.identity,
        "retain_results": retain and retain.about,
        "settings": {k: v for k, v in as_dict(config).items() if k in ("dtype", "seed", "long", "generate", "max_new_tokens")},
        "engine": measured.engine,
        "rows": {s.name: len(kept) for s, kept in loaded.sets},
        "metrics": metrics,
        "reasons": reasons,
        "utility_parts": suite.utility_parts,
        "membership": {
            "holdout_fingerprint": loaded.identity["holdout_fingerprint"],
            "holdout_rows": len(loaded.holdout),
            "attacks": attacks,
        }
        if measured.membership
        else None,
    }
    results = write_results(out, summary, [row for s, _ in loaded.sets for row in measured.rows[s.name]], measured.membership, config)
    if not config.store:
        remove_stores(root)
    return results


def default_label(model: str) -> str:
    """The last part of a path or hub id, without its revision."""
    return Path(model.rstrip("/")).expanduser().resolve().name if Path(model).is_dir() else model.split("/")[-1].split("@")[0]


def _settings(config: EvalConfig, device: str, engine: str) -> dict[str, Any]:
    """What numbers depend on beside model and data; memory settings are not part of it."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    if engine == "vllm":
        versions["vllm"] = vllm_setup.version()
    return {"engine": engine, "dtype": config.dtype, "device": device, "max_new_tokens": config.max_new_tokens, "versions": versions}


def _load(config: EvalConfig, suite: Suite, folder: Path) -> Loaded:
    tokenizer, context = models.load_tokenizer(folder), models.context_length(folder)
    sets = []
    for part in suite.sets:
        variants, skipped = load_variants(part, tokenizer, context=context, long=config.long, limit=config.limit)
        if skipped:
            say(f"{part.name}: {skipped} rows left out, longer than the model's context of {context} tokens (--long skip)")
        sets.append((part, variants))
    holdout, no_holdout = _holdout(config, suite, tokenizer, context)
    identity = {
        "suite": suite.name,
        "limit": config.limit,
        "tokenizer_fingerprint": models.tokenizer_fingerprint(tokenizer),
        "template_fingerprint": models.template_fingerprint(tokenizer),
        "data_fingerprint": data_fingerprint(e for _, rows in sets for v in rows for e in v.examples),
        "holdout_fingerprint": data_fingerprint(holdout) if holdout else None,
    }
    return Loaded(tokenizer, context, sets, holdout, no_holdout, identity)


def _holdout(config: EvalConfig, suite: Suite, tokenizer: Any, context: int | None) -> tuple[list[Example], str | None]:
    """A holdout that was asked for must be there; without the suite's own, the rest is measured and the results say why it is not all."""
    if config.holdout is not None:
        return load_holdout(config.holdout, tokenizer, context=context, limit=config.limit), None
    try:
        return load_holdout(suite.holdout, tokenizer, context=context, limit=config.limit), None
    except DataError as error:
        reason = f"needs rows that no model saw, and the suite's are not there ({error}); name some with --set holdout=DATA"
        say(f"no membership inference: {reason}")
        return [], reason


def _reference(config: EvalConfig, loaded: Loaded, root: Path, content: dict[str, Any]) -> Subject | None:
    """The reference model as a subject of its own: what is measured on it is kept under its own content."""
    if config.reference_model is None or not loaded.holdout:
        return None
    folder = models.locate(config.reference_model)
    tokenizer = models.load_tokenizer(folder)
    if models.tokenizer_fingerprint(tokenizer) != loaded.identity["tokenizer_fingerprint"]:
        raise ConfigError(f"reference_model {config.reference_model}: has another tokenizer than {config.model}, so losses do not compare")
    return Subject(folder, config, Store(root, {**content, "model_fingerprint": models.model_fingerprint(folder)}))


def _measure(config: EvalConfig, loaded: Loaded, subject: Subject, reference: Subject | None) -> Measured:
    scores, engine = score(subject, loaded)
    rows = {part.name: [row_of(part, v, scores, loaded.tokenizer) for v in kept] for part, kept in loaded.sets}
    if config.generate:
        for part, kept in loaded.sets:
            add_generations(rows[part.name], generate(subject, loaded, part, kept))
    norms = None
    if config.gradients and loaded.holdout:
        norms = {**gradient_norms(subject, loaded, "forget"), **gradient_norms(subject, loaded, "holdout")}
    subject.close()
    references = None
    if reference is not None:
        references = losses(reference, loaded)
        reference.close()
    membership: list[Row] = []
    if loaded.holdout:
        membership = membership_rows(loaded.attacked, scores, loaded.tokenizer, references=references, norms=norms)
    return Measured(rows, membership, engine)
