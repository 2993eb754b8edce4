"""What a run reads, gathered and fingerprinted before the model is loaded: stores, data and every column that it
uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shared.data.datasets import iter_rows
from shared.data.examples import DataHash, each_example
from shared.data.layout import as_scored, layout_of
from shared.extensions import identity
from shared.files.fs import hash_json
from shared.lm.finished import check_output
from shared.lm.models import context_length, embedding_rows, load_laid_out, locate, model_fingerprint, template_fingerprint, tokenizer_names
from shared.secret import without_secrets as shown
from shared.store.scores import open_store
from tu_train.config import FinetuneConfig, LoopConfig, UnlearnConfig
from tu_train.corpus import Corpus, gather_corpus
from tu_train.data.batches import Item, endless, item_of_example
from tu_train.data.filed import filed
from tu_train.data.sources import RetainRows, open_fitting, read_retain, read_retain_store
from tu_train.methods.table import METHOD
from tu_train.stopping.evaluating import Evaluation


@dataclass(frozen=True)
class Gathered:
    folder: Path
    """of the model"""
    tokenizer: Any
    about: Mapping[str, Any]
    """fingerprints"""
    corpora: tuple[Corpus, ...] = ()
    """forget corpora with the rows that must stay; none: fine-tuning"""
    learned: RetainRows | None = None
    """fine-tuning: the rows"""
    evaluation: Evaluation | None = None


def gather_finetuning(config: FinetuneConfig) -> Gathered:
    """Raises UserError before any work."""
    folder = locate(config.model)
    tokenizer = load_laid_out(config.model, folder, config)
    found = DataHash()
    items = filed(read_items(config, config.data, folder, tokenizer, found), out=config.out)
    about = {"task": "finetune", "data": found.hexdigest(), **start(fingerprints(folder, tokenizer)), **laid_out(tokenizer)}
    return Gathered(folder, tokenizer, about, learned=RetainRows(len(items), lambda n: endless(items, seed=config.order_seed, start=n), []))


def gather_unlearning(config: UnlearnConfig) -> Gathered:
    """One verified read of everything. `config`: filled. Raises UserError before any work."""
    folder, configs = locate(config.model), config.corpora
    layout = config if config.scores is None else as_scored(config, open_store(str(configs[0].scores)).manifest["options"])
    tokenizer = load_laid_out(config.model, folder, layout)
    names = fingerprints(folder, tokenizer)
    corpora = _with_retain([gather_corpus(each, folder, tokenizer, names) for each in configs], names, folder, tokenizer)
    about: dict[str, Any] = {"task": "unlearn", **start(names), **joined([corpus.about for corpus in corpora])}
    about |= {"weights": "; ".join(dict.fromkeys(corpus.about["weights"] for corpus in corpora)), **laid_out(tokenizer)}
    if (code := identity(METHOD, config.method)) is not None:
        about["method_code"] = code
    return Gathered(folder, tokenizer, about, tuple(corpora), evaluation=_evaluation(config, corpora) if config.eval_every else None)


def joined(abouts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fingerprints of all forget corpora: those of one as they are; of several, what is the same for all of them as it
    is, of other hashes their hash, of other numbers their mean, and the stores, where there are any, one by one."""
    if len(abouts) == 1:
        return dict(abouts[0])
    out: dict[str, Any] = {"stores": tuple(about["store"] for about in abouts)} if "store" in abouts[0] else {}
    for name in dict.fromkeys(name for about in abouts for name in about):
        values = [about.get(name) for about in abouts]
        if all(value == values[0] for value in values):
            out[name] = values[0]
        elif len(numbers := [value for value in values if isinstance(value, float)]) == len(values):
            out[name] = sum(numbers) / len(numbers)
        else:
            out[name] = hash_json(values)
    return out


def _with_retain(corpora: Sequence[Corpus], names: dict[str, str], folder: Path, tokenizer: Any) -> list[Corpus]:
    """With the rows that must stay, and their fingerprint. Data that several corpora name is read once."""
    seen = frozenset().union(*(corpus.forget.seen for corpus in corpora))
    read: dict[tuple[Any, Any], tuple[RetainRows | None, dict[str, Any]]] = {}
    out = []
    for corpus in corpora:
        key = (corpus.config.retain, corpus.config.retain_scores)
        if key not in read:
            read[key] = _retain(corpus.config, names, seen, folder, tokenizer)
        retain, about = read[key]
        out.append(replace(corpus, retain=retain, about={**corpus.about, **about}))
    return out


def _retain(
    config: UnlearnConfig, names: dict[str, str], seen: Set[bytes], folder: Path, tokenizer: Any
) -> tuple[RetainRows | None, dict[str, Any]]:
    if config.retain_scores is not None:
        others = open_fitting(str(config.retain_scores), names, model=config.model, allow_other_model=config.allow_other_model)
        retain = read_retain_store(others, seen, seed=config.order_seed, evaluated=config.eval_rows, limit=config.limit,
                                   rows=embedding_rows(folder))  # fmt: skip
        return retain, {"retain_store": others.sha256, "retain_outside_top_tokens": retain.outside}
    if config.retain is None or config.retain == "none":
        return None, {}
    spec = str(config.retain)
    found = DataHash()
    items = read_items(config, spec, folder, tokenizer, found)
    retain = read_retain(items, seen, where=shown(spec), seed=config.order_seed, evaluated=config.eval_rows, out=config.out)
    return retain, {"retain_data": found.hexdigest()}


def _evaluation(config: UnlearnConfig, corpora: Sequence[Corpus]) -> Evaluation:
    """What is measured on the way, over all corpora; retain rows that several of them share count once."""
    forget, facts, paraphrases = (
        [item for corpus in corpora for item in items(corpus)]
        for items in (lambda c: c.forget.first, lambda c: c.facts, lambda c: c.paraphrases)
    )
    retain = {id(corpus.retain): corpus.retain.first for corpus in corpora if corpus.retain}
    return Evaluation(forget, [item for items in retain.values() for item in items], config.eval_every, config.batch_tokens, config.rule,
                      facts, paraphrases, config.land)  # fmt: skip


def read_items(config: LoopConfig, spec: str, folder: Path, tokenizer: Any, found: DataHash) -> Iterator[Item]:
    """The data's examples as they are tokenised, one after another; all of them are added to `found`."""
    rows = iter_rows(spec, keys=config.keys, limit=config.limit)
    for example in each_example(rows, tokenizer, config, context=context_length(folder)):
        found.add(example.id, example.input_ids, example.is_target)
        yield item_of_example(example)


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
