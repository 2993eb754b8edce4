"""The facts whose depth is measured, as all three models read them, and whether the models go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.console import number_of, say
from shared.data.datasets import Keys, Row, load_rows
from shared.data.examples import Example, answer_span_tokens, make_examples
from shared.errors import ConfigError
from shared.files.fs import read_object
from shared.lm import models
from shared.store.scored import row_spans
from tu_eval.attacks.depth.config import DepthConfig
from tu_eval.suites.suites import find_suite
from tu_eval.suites.variants import answer_length

ROLES = {"model": "model", "full": "full", "retain": "retain_model"}
"""column's name -> field of the configuration"""
SHAPE = ("model_type", "num_hidden_layers", "n_layer", "hidden_size", "n_embd", "vocab_size")
"""entries of config.json in which models must agree for a layer of one to stand in another"""
SPANS = "fact_spans"


@dataclass(frozen=True)
class Fact:
    """What is looked for in one row."""

    example: Example
    tokens: list[int]
    """positions in its `input_ids`, at least one"""


def same_kind(config: DepthConfig, folders: Mapping[str, Path]) -> Any:
    """-> the tokenizer of all. Raises ConfigError for models whose layers could not stand in for one another."""
    shapes = {role: _shape(folder) for role, folder in folders.items()}
    tokenizer = models.load_laid_out(config.full, folders["full"], config)
    own = _reading(tokenizer)
    for role, field in ROLES.items():
        flag = f"--{field.replace('_', '-')} {getattr(config, field)}"
        for name in SHAPE:
            got, expected = shapes[role].get(name), shapes["full"].get(name)
            if got != expected:
                raise ConfigError(
                    f"{flag}: its {name} is {got}, that of --full {config.full} is {expected}; a layer can only be put into a model of the "
                    "same architecture, give the model that this one was unlearned from"
                )
        if _reading(models.load_laid_out(role, folders[role], config)) != own:
            raise ConfigError(
                f"{flag}: has another tokenizer or chat template than --full {config.full}, so that tokens would not be the same"
            )
    return tokenizer


def _reading(tokenizer: Any) -> list[str]:
    return [models.vocabulary_fingerprint(tokenizer), models.template_fingerprint(tokenizer)]


def _shape(folder: Path) -> dict[str, Any]:
    found = read_object(folder / "config.json", hint="the file is damaged, take a good copy of the model")
    return {**found, **(found.get("text_config") or {}), "model_type": found.get("model_type")}


def read_facts(config: DepthConfig, tokenizer: Any, folders: Mapping[str, Path]) -> list[Fact]:
    """Rows of the suite's forget set or of the data; where no fact is marked, all of the answer but its end is the
    fact."""
    contexts = [c for c in map(models.context_length, folders.values()) if c is not None]
    if config.suite is not None:
        part = next(s for s in find_suite(config.suite).sets if s.name == "forget")
        rows, marked = load_rows(part.data, limit=config.limit), part.facts
    else:
        rows = load_rows(config.data or "", keys=Keys(config.question_key, config.answer_key), limit=config.limit)
        marked = any(SPANS in row.extra for row in rows)
    made = make_examples(rows, tokenizer, context=min(contexts, default=None), long=config.long)
    for field, role in ((field, role) for role, field in ROLES.items()):
        models.require_rows(f"--{field.replace('_', '-')} {getattr(config, field)}", folders[role], [(e.id, e.input_ids) for e in made])
    if not marked:
        say("rows mark no fact (fact_spans), so that the whole answer is taken for it")
    facts = [Fact(e, _marked(e, e.row, tokenizer) if marked else e.targets[: answer_length(e, tokenizer)]) for e in made]
    kept = [f for f in facts if f.tokens]
    if len(kept) < len(facts):
        say(f"{number_of(len(facts) - len(kept), 'row')} left out: no token is a part of a marked fact")
    if not kept:
        raise ConfigError(f"{config.suite or config.data}: no row marks a fact that the model reads; look at its fact_spans")
    return kept


def _marked(example: Example, row: Row, tokenizer: Any) -> list[int]:
    return answer_span_tokens(example, tokenizer, row_spans(row, SPANS, missing="add it to every row, or to none"))
