"""What an unlearning run reads, gathered and fingerprinted before the model is loaded: store, data and every column
that it uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from shared.data.datasets import load_rows
from shared.data.examples import Example, data_fingerprint, make_examples
from shared.data.layout import as_scored, layout_of
from shared.errors import ConfigError
from shared.files.fs import hash_json
from shared.lm.finished import check_output
from shared.lm.models import context_length, embedding_rows, load_laid_out, locate, model_fingerprint, template_fingerprint, tokenizer_names
from shared.secret import without_secrets as shown
from shared.store.scored import scored_examples
from shared.store.scores import Store, open_store
from tu_train.config import LoopConfig, UnlearnConfig
from tu_train.data.batches import Item, item_of_example, item_of_row, only
from tu_train.data.partners import answers_in, given_answers, partner_items
from tu_train.data.sources import Forget, Make, Retain, given_positions, open_fitting, read_forget, read_retain, read_retain_store
from tu_train.forward import check_layer
from tu_train.methods.table import Method, find_method
from tu_train.stopping.evaluating import Evaluation


@dataclass
class Gathered:
    config: UnlearnConfig
    folder: Path
    """of the model"""
    tokenizer: Any
    method: Method
    store: Store
    examples: list[Example]
    """the rows that were scored, where the run needs more of them than the store holds"""
    make: Make
    forget: Forget
    retain: Retain | None
    partners: dict[str, Item] | None
    """other answers that stand in the data; those that the model writes come later"""
    facts: list[Item]
    paraphrases: list[Item]
    about: dict[str, Any]
    """fingerprints"""

    @property
    def context(self) -> int | None:
        return context_length(self.folder)

    @property
    def writes(self) -> bool:
        """Whether the model writes the other answers."""
        return "alternate" in self.method.needs and self.config.alternates == "generate"

    def items(self, answers: Mapping[str, list[str]]) -> dict[str, Item]:
        return partner_items(self.examples, self.tokenizer, answers, seed=self.config.seed, context=self.context)

    def paired(self, partners: dict[str, Item]) -> Forget:
        """The forget rows once more, with their partners."""
        make: Any = self.make
        return read_forget(self.store, partial(make, partners=partners), self.config)

    @property
    def evaluation(self) -> Evaluation | None:
        c, rows = self.config, self.retain.first if self.retain else []
        if not c.eval_every:
            return None
        return Evaluation(self.forget.first, rows, c.eval_every, c.batch_tokens, c.stop_when, self.facts, self.paraphrases, c.land)


def gather(config: UnlearnConfig) -> Gathered:
    """One verified read of everything. Raises UserError before any work."""
    folder = locate(config.model)
    recorded = open_store(config.scores).manifest["options"]
    tokenizer = load_laid_out(config.model, folder, as_scored(config, recorded))
    names = fingerprints(folder, tokenizer)
    store = open_fitting(config.scores, names, config)
    method = find_method(config.method)
    if "layer" in method.needs:
        check_layer(folder, int(config.options["layer"]))
    wants_partner = bool(method.needs & {"refusal", "alternate"})
    reads_columns = config.tokens == "given" or config.eval_key or config.paraphrase_key
    examples = scored_examples(store, tokenizer, config.model, config.forget_data, flag="--set forget_data") \
        if wants_partner or reads_columns else []  # fmt: skip
    given = given_positions(examples, tokenizer, config.given_key) if config.tokens == "given" else None
    make = partial(
        item_of_row, selection=config.selection, where=shown(config.scores), all_targets="all targets" in method.needs, given=given,
        rows=embedding_rows(folder),
    )  # fmt: skip
    about: dict[str, Any] = {"task": "unlearn", "store": store.sha256, **start(names), "forget_data": store.fingerprints["data"]}
    about["weights"] = config.selection.describe()
    about |= laid_out(tokenizer)
    if given is not None:
        about["given_tokens"] = hash_json({name: sorted(positions) for name, positions in given.items()})
    forget = read_forget(store, make, config)
    retain, found = _retain(config, names, forget, folder, tokenizer)
    all_read = Gathered(config, folder, tokenizer, method, store, examples, make, forget, retain, None, [], [], {**about, **found})
    if wants_partner and not all_read.writes:
        all_read.partners = all_read.items(given_answers(examples, config, refuse="refusal" in method.needs))
        all_read.about["other_answers"] = of_items(all_read.partners)
    if config.eval_every:
        _measured(all_read)
    return all_read


def _retain(
    config: UnlearnConfig, names: dict[str, str], forget: Forget, folder: Path, tokenizer: Any
) -> tuple[Retain | None, dict[str, Any]]:
    """The rows that must stay, and their fingerprint."""
    if config.retain_scores is not None:
        others = open_fitting(config.retain_scores, names, config)
        retain = read_retain_store(others, forget, config, embedding_rows(folder))
        return retain, {"retain_store": others.sha256}
    if config.retain in (None, "none"):
        return None, {}
    rows = read_examples(config, config.retain, folder, tokenizer)
    return read_retain([item_of_example(e) for e in rows], forget, config), {"retain_data": data_fingerprint(rows)}


def _measured(read: Gathered) -> None:
    """The rows that are measured on the way beside those of the store, and fingerprints of the columns that they come
    from."""
    config, forget = read.config, read.forget
    if config.eval_key is not None:
        at = given_positions(read.examples, read.tokenizer, config.eval_key, flag="--set eval_key")
        read.facts = [only(item, at[item.name]) for item in forget.first if at[item.name]]
        if not read.facts:
            raise ConfigError(f"--set eval_key={config.eval_key}: no token of the {len(forget.first)} evaluated rows lies there")
        read.about["eval_tokens"] = hash_json({item.name: item.positions for item in read.facts})
    if config.paraphrase_key is not None:
        evaluated = {item.name for item in forget.first}
        asked = [e for e in read.examples if e.id in evaluated]
        answers = {e.id: answers_in(e.row, config.paraphrase_key, flag="--set paraphrase_key")[:1] for e in asked}
        found = partner_items(asked, read.tokenizer, answers, seed=config.seed, context=read.context)
        read.paraphrases = list(found.values())
        read.about["paraphrases"] = of_items(found)


def of_items(items: Mapping[str, Item]) -> str:
    return hash_json({name: item.ids for name, item in items.items()})


def read_examples(config: LoopConfig, spec: str | None, folder: Path, tokenizer: Any) -> list[Example]:
    if spec is None:
        raise ConfigError("--retain is missing")
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
