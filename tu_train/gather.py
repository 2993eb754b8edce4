"""What a run reads, gathered and fingerprinted before the model is loaded: stores, data and every column that it
uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from shared.data.datasets import load_rows
from shared.data.examples import Example, data_fingerprint, make_examples
from shared.data.layout import as_scored, layout_of
from shared.errors import ConfigError
from shared.extensions import identity
from shared.files.fs import hash_json
from shared.lm.finished import check_output
from shared.lm.models import context_length, embedding_rows, load_laid_out, locate, model_fingerprint, template_fingerprint, tokenizer_names
from shared.secret import without_secrets as shown
from shared.store.scored import scored_examples
from shared.store.scores import open_store
from tu_train.config import FinetuneConfig, LoopConfig, UnlearnConfig
from tu_train.data.batches import Item, endless, item_of_example, item_of_row, only
from tu_train.data.partners import answers_in, fingerprint_of, given_answers, partner_items
from tu_train.data.sources import (
    ForgetRows,
    RetainRows,
    blocked_positions,
    given_positions,
    open_fitting,
    read_forget,
    read_retain,
    read_retain_store,
)
from tu_train.forward import check_layer
from tu_train.methods.table import METHOD, Method, find_method
from tu_train.stopping.evaluating import Evaluation


@dataclass(frozen=True)
class Answers:
    """Other answers to the questions of the forget rows."""

    examples: Sequence[Example]
    """the rows that were scored"""
    given: dict[str, Item] | None
    """by example id, where they stand in the data; None: the model before training writes them"""
    reference: bool
    """whether the method reads their log-probabilities under the model before training"""
    context: int | None
    """of the model, tokens"""


@dataclass(frozen=True)
class Gathered:
    folder: Path
    """of the model"""
    tokenizer: Any
    about: Mapping[str, Any]
    """fingerprints"""
    forget: ForgetRows | None = None
    retain: RetainRows | None = None
    answers: Answers | None = None
    evaluation: Evaluation | None = None


def gather_finetuning(config: FinetuneConfig) -> Gathered:
    """Raises UserError before any work."""
    folder = locate(config.model)
    tokenizer = load_laid_out(config.model, folder, config)
    examples = read_examples(config, config.data, folder, tokenizer)
    items = [item_of_example(e) for e in examples]
    about = {"task": "finetune", "data": data_fingerprint(examples), **start(fingerprints(folder, tokenizer)), **laid_out(tokenizer)}
    return Gathered(folder, tokenizer, about, retain=RetainRows(len(items), lambda n: endless(items, seed=config.seed, start=n), []))


def gather_unlearning(config: UnlearnConfig) -> Gathered:
    """One verified read of everything. Raises UserError before any work."""
    folder = locate(config.model)
    recorded = open_store(config.scores).manifest["options"]
    tokenizer = load_laid_out(config.model, folder, as_scored(config, recorded))
    names = fingerprints(folder, tokenizer)
    store = open_fitting(config.scores, names, model=config.model, allow_other_model=config.allow_other_model)
    method = find_method(config.method)
    if "layer" in method.needs:
        check_layer(folder, int(config.options["layer"]))
    learns_answers = bool(method.needs & {"refusal", "alternate"})
    reads_columns = config.tokens == "given" or config.eval_key or config.paraphrase_key
    examples = scored_examples(store, tokenizer, config.model, config.forget_data, flag="--set forget_data") \
        if learns_answers or reads_columns else []  # fmt: skip
    given = _given(config, examples, tokenizer) if config.tokens == "given" else None
    where = shown(config.scores)
    make = partial(item_of_row, selection=config.selection, where=where, all_targets="all targets" in method.needs, given=given,
                   rows=embedding_rows(folder))  # fmt: skip
    about: dict[str, Any] = {"task": "unlearn", "store": store.sha256, **start(names), "forget_data": store.fingerprints["data"]}
    about |= {"weights": config.selection.describe(), **laid_out(tokenizer)}
    if (code := identity(METHOD, config.method)) is not None:
        about["method_code"] = code
    if given is not None:
        about["given_tokens"] = hash_json({name: sorted(positions) for name, positions in given.items()})
    forget = read_forget(store, make, selection=config.selection, where=where, limit=config.limit,
                         evaluated=config.eval_rows if config.eval_every else 0)  # fmt: skip
    retain, of_retain = _retain(config, names, forget, folder, tokenizer)
    context = context_length(folder)
    answers, of_answers = _answers(config, method, examples, tokenizer, context) if learns_answers else (None, {})
    evaluation, of_evaluation = None, {}
    if config.eval_every:
        evaluation, of_evaluation = _evaluation(config, forget, retain, examples, tokenizer, context)
    return Gathered(folder, tokenizer, {**about, **of_retain, **of_answers, **of_evaluation}, forget, retain, answers, evaluation)


def _given(config: UnlearnConfig, examples: list[Example], tokenizer: Any) -> Mapping[str, set[int]]:
    if config.blocklist is not None:
        return blocked_positions(examples, tokenizer, config.blocklist)
    return given_positions(examples, tokenizer, config.given_key)


def _retain(
    config: UnlearnConfig, names: dict[str, str], forget: ForgetRows, folder: Path, tokenizer: Any
) -> tuple[RetainRows | None, dict[str, Any]]:
    """The rows that must stay, and their fingerprint."""
    if config.retain_scores is not None:
        others = open_fitting(config.retain_scores, names, model=config.model, allow_other_model=config.allow_other_model)
        retain = read_retain_store(others, forget, seed=config.seed, evaluated=config.eval_rows, limit=config.limit,
                                   rows=embedding_rows(folder))  # fmt: skip
        return retain, {"retain_store": others.sha256, "retain_outside_top_tokens": retain.outside}
    if config.retain is None or config.retain == "none":
        return None, {}
    rows = read_examples(config, config.retain, folder, tokenizer)
    items = [item_of_example(e) for e in rows]
    retain = read_retain(items, forget, where=shown(config.retain), seed=config.seed, evaluated=config.eval_rows)
    return retain, {"retain_data": data_fingerprint(rows)}


def _answers(
    config: UnlearnConfig, method: Method, examples: list[Example], tokenizer: Any, context: int | None
) -> tuple[Answers, dict[str, Any]]:
    """The other answers that the method learns, and their fingerprint as far as they are known."""
    reference = "reference" in method.needs
    if "alternate" in method.needs and config.alternates == "generate":
        return Answers(examples, None, reference, context), {}
    refuse = "refusal" in method.needs
    texts = given_answers(examples, refuse=refuse, refusals=config.refusals, alternate_key=config.alternate_key)
    items = partner_items(examples, tokenizer, texts, seed=config.seed, context=context)
    return Answers(examples, items, reference, context), {"other_answers": fingerprint_of(items)}


def _evaluation(
    config: UnlearnConfig, forget: ForgetRows, retain: RetainRows | None, examples: list[Example], tokenizer: Any, context: int | None
) -> tuple[Evaluation, dict[str, Any]]:
    """What is measured on the way, and fingerprints of the columns that it comes from."""
    facts, paraphrases, about = [], {}, {}
    if config.eval_key is not None:
        at = given_positions(examples, tokenizer, config.eval_key, flag="--set eval_key")
        facts = [only(item, at[item.name]) for item in forget.first if at[item.name]]
        if not facts:
            raise ConfigError(f"--set eval_key={config.eval_key}: no token of the {len(forget.first)} evaluated rows lies there")
        about["eval_tokens"] = hash_json({item.name: item.positions for item in facts})
    if config.paraphrase_key is not None:
        evaluated = {item.name for item in forget.first}
        asked = [e for e in examples if e.id in evaluated]
        texts = {e.id: answers_in(e.row, config.paraphrase_key, flag="--set paraphrase_key")[:1] for e in asked}
        paraphrases = partner_items(asked, tokenizer, texts, seed=config.seed, context=context)
        about["paraphrases"] = fingerprint_of(paraphrases)
    rows = retain.first if retain else []
    return Evaluation(forget.first, rows, config.eval_every, config.batch_tokens, config.rule, facts, list(paraphrases.values()),
                      config.land), about  # fmt: skip


def read_examples(config: LoopConfig, spec: str, folder: Path, tokenizer: Any) -> list[Example]:
    rows = load_rows(spec, keys=config.keys, limit=config.limit)
    return make_examples(rows, tokenizer, context=context_length(folder), long=config.long, text_length=config.text_length)


def fingerprints(folder: Path, tokenizer: Any) -> dict[str, str]:
    """Of what a run starts from. Raises ModelError for a trained folder that no longer holds what training wrote."""
    model = model_fingerprint(folder)
    check_output(folder, model)
    return {**tokenizer_names(tokenizer), "chat_template": template_fingerprint(tokenizer), "model": model}


def start(names: dict[str, str]) -> dict[str, str]:
    """The same as they stand beside those of data."""
    return {"start_model": names["model"], "tokenizer": names["tokenizer"], "chat_template": names["chat_template"]}


def laid_out(tokenizer: Any) -> dict[str, Any]:
    """How rows were laid out, where that is not the default."""
    layout = layout_of(tokenizer)
    found = {**layout.describe(), **({"date": layout.date} if layout.writes_date else {})}
    return {"layout": found} if found else {}
