"""One evaluation, top to bottom: suite -> variants -> log-probabilities -> text -> rows -> metrics -> results folder.

Everything that can be refused is refused before the model is loaded, and nothing is written before all numbers are there.
Cost: one forward pass over the tokens of the forest of all variants, and one greedy answer a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import models
from shared.config import as_dict
from shared.console import progress, say
from shared.engines import Request
from shared.engines.torch import TorchEngine
from shared.errors import ModelError
from shared.examples import Example, data_fingerprint, special_ids
from shared.fs import require_fresh
from tu_eval.config import EvalConfig
from tu_eval.metrics.forget_quality import forget_quality, require_same_rows
from tu_eval.metrics.probability import mean_logprob, probability, probability_with_options
from tu_eval.metrics.rouge import rouge_l_recall
from tu_eval.metrics.truth_ratio import forget_truth_ratio, log_truth_ratio, truth_ratio, utility_truth_ratio
from tu_eval.metrics.utility import model_utility
from tu_eval.results import FORMAT, Results, load_results, require_comparable, write_results
from tu_eval.suites import EvalSet, Suite, find_suite
from tu_eval.variants import Variants, load_variants

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Loaded:
    """A tokenised suite and what identifies it."""

    tokenizer: Any
    context: int | None
    sets: list[tuple[EvalSet, list[Variants]]]
    identity: dict[str, Any]
    """the part of the summary that says what was measured: suite, limit and fingerprints, but for the model's"""


def evaluate(config: EvalConfig) -> Results:
    """Runs a suite and writes the results folder. Raises UserError before any work for everything that cannot fit."""
    suite, out = find_suite(config.suite), Path(config.out)
    require_fresh(out, what="the results of one evaluation")
    retain = load_results(Path(config.retain_results)) if config.retain_results else None
    folder = models.locate(config.model)
    models.choose_device(config.device)
    loaded = _load(config, suite, folder)
    if retain is not None:
        require_comparable(loaded.identity, retain, what="--retain-results")
        mine = [v.answer.id for s, rows in loaded.sets if s.name == "forget" for v in rows]
        require_same_rows(mine, [r["example_id"] for r in retain.rows("forget")], where=str(retain.folder))
    fingerprint = models.model_fingerprint(folder)
    say(f"evaluating {config.model} on {suite.name}: " + ", ".join(f"{s.name} {len(rows)} rows" for s, rows in loaded.sets))
    engine = TorchEngine.load(folder, dtype=config.dtype, device=config.device, batch_tokens=config.batch_tokens)
    rows = _score(engine, loaded)
    if config.generate:
        _generate(engine, loaded, rows, config.max_new_tokens)
    described = engine.describe()
    engine.close()
    metrics, reasons = summarise(suite, rows, retain)
    summary = {
        "format": FORMAT,
        "label": config.label or default_label(config.model),
        "model": config.model,
        "model_fingerprint": fingerprint,
        **loaded.identity,
        "retain_results": _named(retain),
        "settings": {k: v for k, v in as_dict(config).items() if k in ("dtype", "seed", "long", "generate", "max_new_tokens")},
        "engine": described,
        "rows": {s.name: len(kept) for s, kept in loaded.sets},
        "metrics": metrics,
        "reasons": reasons,
        "utility_parts": suite.utility_parts,
    }
    return write_results(out, summary, [row for s, _ in loaded.sets for row in rows[s.name]], config)


def default_label(model: str) -> str:
    """The last part of a path or hub id, without its revision."""
    return Path(model.rstrip("/")).expanduser().resolve().name if Path(model).is_dir() else model.split("/")[-1].split("@")[0]


def _named(retain: Results | None) -> dict[str, str] | None:
    return retain and {k: retain.summary[k] for k in ("label", "model_fingerprint", "rows_sha256")}


def _load(config: EvalConfig, suite: Suite, folder: Path) -> Loaded:
    tokenizer, context = models.load_tokenizer(folder), models.context_length(folder)
    sets = []
    for part in suite.sets:
        variants, skipped = load_variants(part, tokenizer, context=context, long=config.long, limit=config.limit)
        if skipped:
            say(f"{part.name}: {skipped} rows left out, longer than the model's context of {context} tokens (--long skip)")
        sets.append((part, variants))
    identity = {
        "suite": suite.name,
        "limit": config.limit,
        "tokenizer_fingerprint": models.tokenizer_fingerprint(tokenizer),
        "template_fingerprint": models.template_fingerprint(tokenizer),
        "data_fingerprint": data_fingerprint(e for _, rows in sets for v in rows for e in v.examples),
    }
    return Loaded(tokenizer, context, sets, identity)


def _score(engine: TorchEngine, loaded: Loaded) -> dict[str, Rows]:
    """Rows of each set with every number that needs no generation. All variants of all sets go to the engine in one call."""
    examples = [e for _, rows in loaded.sets for v in rows for e in v.examples]
    with progress("scoring answers", sum(len(e.input_ids) for e in examples), "tokens") as bar:
        scores = engine.score([Request(e.input_ids, e.targets) for e in examples], bar.advance)
    logprobs = {e.id: [float(x) for x in s.logprob] for e, s in zip(examples, scores, strict=True)}
    for name, values in logprobs.items():
        if any(math.isnan(x) for x in values):
            raise ModelError(f"the model gives no number for {name} (NaN): its weights are damaged, or --dtype is too narrow")
    return {part.name: [_row(part, v, logprobs) for v in rows] for part, rows in loaded.sets}


def _row(part: EvalSet, variants: Variants, logprobs: dict[str, list[float]]) -> dict[str, Any]:
    answer, row = logprobs[variants.answer.id], variants.answer.row
    right, wrong = mean_logprob(logprobs[variants.right.id]), [mean_logprob(logprobs[e.id]) for e in variants.wrong]
    ratio = log_truth_ratio(right, wrong)
    at = dict(zip(variants.answer.targets, answer, strict=True))
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
        "truth_ratio": truth_ratio(ratio),
        "rouge_l_recall": None,
        "fact_probability": probability([at[i] for i in variants.fact_tokens]) if variants.fact_tokens else None,
    }


def _generate(engine: TorchEngine, loaded: Loaded, rows: dict[str, Rows], max_new_tokens: int) -> None:
    """Fills `generation` and `rouge_l_recall` with greedy answers."""
    flat = [row for part, _ in loaded.sets for row in rows[part.name]]
    examples = [v.answer for _, kept in loaded.sets for v in kept]
    stop = stop_ids(loaded.tokenizer, examples)
    prompts = [e.input_ids[: e.prompt_length] for e in examples]
    # A model with learned positions cannot write past its context: rows with less room left get what there is.
    room = [max_new_tokens if loaded.context is None else min(max_new_tokens, loaded.context - len(p)) for p in prompts]
    with progress("writing answers", len(prompts), "rows") as bar:
        for length in sorted(set(room), reverse=True):
            chosen = [i for i, r in enumerate(room) if r == length]
            texts = engine.generate([prompts[i] for i in chosen], max_new_tokens=length, stop_ids=stop, advance=bar.advance)
            for i, ids in zip(chosen, texts, strict=True):
                flat[i]["generation"] = loaded.tokenizer.decode(ids, skip_special_tokens=True).strip()
    if short := sum(r < max_new_tokens for r in room):
        say(f"{short} answers were held to fewer than {max_new_tokens} tokens by the model's context of {loaded.context}")
    for row, recall in zip(flat, rouge_l_recall([r["answer"] for r in flat], [r["generation"] for r in flat]), strict=True):
        row["rouge_l_recall"] = recall


def stop_ids(tokenizer: Any, examples: Sequence[Example]) -> list[int]:
    """The tokens that end an answer: those that end the examples' targets, and the end of sequence. Raises ModelError if there are none."""
    special = special_ids(tokenizer)
    ends = {e.input_ids[-1] for e in examples if e.input_ids[-1] in special}  # a truncated example ends in a word
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    if not ends:
        raise ModelError("the tokenizer has no end-of-sequence token, so answers would never end; use --set generate=false")
    return sorted(ends)


def summarise(suite: Suite, rows: dict[str, Rows], retain: Results | None) -> tuple[dict[str, float | None], dict[str, str]]:
    """-> metrics (null where there is none), and for each null the reason."""
    metrics: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for part in suite.sets:
        kept = rows[part.name]
        ratios = [r["log_truth_ratio"] for r in kept]
        metrics[f"{part.name}_probability"] = _mean(kept, "probability_options" if part.options else "probability")
        if part.facts:
            metrics[f"{part.name}_fact_probability"] = _mean(kept, "fact_probability")
        metrics[f"{part.name}_rouge"] = _mean(kept, "rouge_l_recall")
        metrics[f"{part.name}_truth_ratio"] = forget_truth_ratio(ratios) if part.name == "forget" else utility_truth_ratio(ratios)
    parts = {name: value for name in suite.utility_parts if (value := metrics[name]) is not None}
    if len(parts) == len(suite.utility_parts):
        metrics["model_utility"] = model_utility(parts)
    else:
        metrics["model_utility"] = None
        reasons["model_utility"] = "needs ROUGE, and generation was off (generate=false)"
        reasons.update({f"{part.name}_rouge": "generation was off (generate=false)" for part in suite.sets})
    metrics["forget_quality"] = None
    if retain is None:
        reasons["forget_quality"] = "needs retain results (--retain-results DIR)"
    else:
        theirs = [r["log_truth_ratio"] for r in retain.rows("forget")]
        metrics["forget_quality"] = forget_quality([r["log_truth_ratio"] for r in rows["forget"]], theirs)
    return metrics, reasons


def _mean(rows: Rows, column: str) -> float | None:
    values = [r[column] for r in rows if r[column] is not None]
    return math.fsum(values) / len(values) if values else None
