"""One forget corpus of a run: its score store, or its data where no store is needed, and every column of its data that
the run reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from shared.console import say
from shared.data.datasets import DataOptions, Row, load_rows
from shared.data.examples import Example, examples_of
from shared.errors import ConfigError
from shared.files.fs import hash_json
from shared.lm.models import context_length, embedding_rows
from shared.secret import without_secrets as shown
from shared.store.auto_keep import Settled, settled
from shared.store.scored import scored_examples
from tu_train.config import UnlearnConfig
from tu_train.data.batches import Item, item_of_row, only
from tu_train.data.filed import NamedItems, filed_by_name
from tu_train.data.partners import answers_in, fingerprint_of, given_answers, partner_items
from tu_train.data.sources import ForgetRows, RetainRows, blocked_positions, given_positions, open_fitting, read_forget, secret_positions
from tu_train.data.unscored import RowsInParts, Unscored
from tu_train.forward import check_layer
from tu_train.methods.table import Method, find_method


@dataclass(frozen=True)
class Answers:
    """Other answers to the questions of the forget rows."""

    examples: Sequence[Example]
    """the rows that were scored"""
    given: NamedItems | None
    """by example id, where they stand in the data; None: the model before training writes them"""
    reference: bool
    """whether the method reads their log-probabilities under the model before training"""
    context: int | None
    """of the model, tokens"""


@dataclass(frozen=True)
class Corpus:
    config: UnlearnConfig
    """the run's, with the values of this corpus"""
    forget: ForgetRows
    about: dict[str, Any]
    """fingerprints"""
    found: str | None = None
    """what keep=auto came to, as a line for the user"""
    retain: RetainRows | None = None
    answers: Answers | None = None
    facts: Sequence[Item] = ()
    """the evaluated forget rows once more, with the tokens that carry the fact"""
    paraphrases: Sequence[Item] = ()
    """the questions of the evaluated forget rows with another wording of their answers"""


def gather_corpus(config: UnlearnConfig, folder: Path, tokenizer: Any, names: dict[str, str]) -> Corpus:
    """One verified read of its store, and of its data where that is needed (or of the data alone); the retain rows come
    later (`retain`).

    `config`: filled, with the values of this corpus; `names`: fingerprints of model, tokenizer and template."""
    method, where = find_method(config.method), str(config.scores or config.forget)
    if "layer" in method.needs:
        check_layer(folder, int(config.options["layer"]))  # type: ignore[arg-type]
    learns_answers = bool(method.needs & {"refusal", "alternate"})
    reads_columns = bool(config.tokens == "given" or config.eval_key or config.paraphrase_key)
    read = _scored if config.scores is not None else _unscored
    origin = read(config, folder, tokenizer, names, columns=learns_answers or reads_columns)
    store, examples, settlement = origin.rows, origin.examples, origin.settlement
    given = _given(config, examples, tokenizer) if config.tokens == "given" else None
    selection = settlement.selection
    make = partial(item_of_row, selection=selection, where=shown(where), all_targets="all targets" in method.needs, given=given,
                   rows=embedding_rows(folder))  # fmt: skip
    about: dict[str, Any] = {**origin.about, "weights": selection.describe()}
    if selection.at_least_a_word:
        about["threshold"] = selection.threshold
    if given is not None:
        about["given_tokens"] = hash_json({name: sorted(positions) for name, positions in given.items()})
        targets, rows = sum(len(example.targets) for example in examples), sum(map(bool, given.values()))
        say(f"{config.secrets or config.blocklist or config.given_key}: names {sum(map(len, given.values())):,} of {targets:,} target "
            f"tokens, in {rows:,} of {len(examples):,} rows")  # fmt: skip
    forget = read_forget(store, make, selection=selection, where=shown(where), limit=config.limit if config.scores is not None else None,
                         evaluated=config.eval_rows if config.eval_every else 0)  # fmt: skip
    corpus, context = Corpus(config, forget, about, settlement.found), context_length(folder)
    if learns_answers:
        corpus = _with_answers(corpus, method, examples, tokenizer, context)
    return _with_evaluation(corpus, examples, tokenizer, context) if config.eval_every else corpus


@dataclass(frozen=True)
class Origin:
    """Where forget rows come from."""

    rows: RowsInParts
    examples: list[Example]
    """the same with their texts, where columns of the data are read"""
    settlement: Settled
    about: dict[str, Any]
    """its fingerprints"""


def _scored(config: UnlearnConfig, _: Path, tokenizer: Any, names: dict[str, str], *, columns: bool) -> Origin:
    """A score store, verified; its data is read again where `columns` of it are wanted."""
    store = open_fitting(str(config.scores), names, model=config.model, allow_other_model=config.allow_other_model)
    forget_data = None if config.forget_data is None else str(config.forget_data)
    examples = scored_examples(store, tokenizer, config.model, forget_data, flag="--set forget_data") if columns else []
    about = {"store": store.sha256, "forget_data": store.fingerprints["data"]}
    return Origin(store, examples, settled(config.selection, store), about)


def _unscored(config: UnlearnConfig, folder: Path, tokenizer: Any, _: dict[str, str], *, columns: bool) -> Origin:
    """A data set; `columns` of it are at hand. A limit is one of its rows, as of a store that is made with it."""
    rows, examples = rows_and_examples(config, str(config.forget), folder, tokenizer)
    read = Unscored(rows, examples)
    return Origin(read, examples if columns else [], Settled(config.selection), {"forget_data": read.sha256})


def rows_and_examples(config: DataOptions, spec: str, folder: Path, tokenizer: Any) -> tuple[list[Row], list[Example]]:
    """The rows of a data set, and what a model reads of them."""
    rows = load_rows(spec, keys=config.keys, limit=config.limit)
    return rows, examples_of(rows, tokenizer, config, context=context_length(folder))


def _given(config: UnlearnConfig, examples: list[Example], tokenizer: Any) -> Mapping[str, set[int]]:
    """By example id, the tokens that a list of secrets or a blocklist names, or a column of the data."""
    if config.secrets is not None:
        return secret_positions(examples, tokenizer, config.secrets)
    if config.blocklist is not None:
        return blocked_positions(examples, tokenizer, config.blocklist)
    return given_positions(examples, tokenizer, config.given_key)


def _with_answers(corpus: Corpus, method: Method, examples: list[Example], tokenizer: Any, context: int | None) -> Corpus:
    """With the other answers that the method learns, and their fingerprint as far as they are known."""
    reference, config = "reference" in method.needs, corpus.config
    if "alternate" in method.needs and config.alternates == "generate":
        return replace(corpus, answers=Answers(examples, None, reference, context))
    refuse = "refusal" in method.needs
    texts = given_answers(examples, refuse=refuse, refusals=config.refusals, alternate_key=config.alternate_key)
    items = filed_by_name(partner_items(examples, tokenizer, texts, seed=config.seed, context=context), out=config.out)
    about = {**corpus.about, "other_answers": fingerprint_of(items)}
    return replace(corpus, answers=Answers(examples, items, reference, context), about=about)


def _with_evaluation(corpus: Corpus, examples: list[Example], tokenizer: Any, context: int | None) -> Corpus:
    """With what columns of the data say of the evaluated rows, and the fingerprints of those columns."""
    config, first, about = corpus.config, corpus.forget.first, dict(corpus.about)
    facts, paraphrases = [], {}
    if config.eval_key is not None:
        at = given_positions(examples, tokenizer, config.eval_key, flag="--set eval_key")
        facts = [only(item, at[item.name]) for item in first if at[item.name]]
        if not facts:
            raise ConfigError(f"--set eval_key={config.eval_key}: no token of the {len(first)} evaluated rows lies there")
        about["eval_tokens"] = hash_json({item.name: item.positions for item in facts})
    if config.paraphrase_key is not None:
        evaluated = {item.name for item in first}
        asked = [e for e in examples if e.id in evaluated]
        texts = {e.id: answers_in(e.row, config.paraphrase_key, flag="--set paraphrase_key")[:1] for e in asked}
        paraphrases = {i.name: i for i in partner_items(asked, tokenizer, texts, seed=config.seed, context=context)}
        about["paraphrases"] = fingerprint_of(paraphrases)
    return replace(corpus, about=about, facts=facts, paraphrases=list(paraphrases.values()))
