"""What a run does, fixed before its first forward pass: the rows cut into parts, the options, the fingerprints.

A part's bytes depend on nothing but that and its own rows, so a resumed store equals an undisturbed one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shared.config import as_dict
from shared.console import say
from shared.data.layout import dated, layout_of
from shared.errors import StoreError
from shared.extensions import identity
from shared.files.storage import open_place
from shared.lm.models import context_length, load_laid_out, locate, model_fingerprint, template_fingerprint, tokenizer_names
from shared.secret import without_secrets, without_secrets_in
from shared.store.files import PLAN
from shared.weighting.importance import AUTO, CODE
from tu_score.config import SPAN_PLAN, ScoreConfig
from tu_score.count import BaseLimits
from tu_score.replace import choose_replacement
from tu_score.source import Cut, Source
from tu_score.spans import plan_masking

ELSEWHERE = ("out", "model", "base_model", "workers", "ray", "shard")
"""fields that change no value of the store, or that its fingerprints stand for"""
AS_BEFORE = {"text_overlap": 0, "text_copies": "none"}
"""how versions scored raw text that knew neither setting"""


def settled(config: ScoreConfig) -> ScoreConfig:
    """A store that an earlier version began goes on with the defaults of that version."""
    if not config.left_open and config.uncertainty != "auto":
        return config
    was_default = "spans" in config.left_open and config.spans == "none"
    try:
        plan = json.loads(open_place(config.out).read(PLAN))
        begun, learned = plan["options"], f"uncertainty{CODE}" in plan["fingerprints"]
        spans, lacking = begun["spans"], {name: value for name, value in AS_BEFORE.items() if name in config.left_open - begun.keys()}
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError, RecursionError, StoreError):
        return config  # nothing there, or what the writer refuses with a message of its own
    if lacking:
        say(f"{without_secrets(config.out)}: was begun by an earlier version; this run goes on with "
            + " and ".join(f"{name}={value}" for name, value in lacking.items()))  # fmt: skip
        config = replace(config, spans=config.spans, **lacking)
    if config.uncertainty == begun.get("uncertainty") == "auto" and not learned and config.recipe.codes():
        earlier = next(name for name in AUTO if name != "base_entropy" or config.base_model is not None)
        say(f"{without_secrets(config.out)}: was begun by an earlier version; this run goes on with uncertainty={earlier}")
        open_now = {"uncertainty", *(["entropy_temperature"] if config.entropy_temperature is None else [])}
        config = replace(config, uncertainty=earlier, entropy_temperature=config.temperature, spans=config.spans)
        object.__setattr__(config, "left_open", config.left_open | open_now)
    if was_default and spans == "question":
        say(f"{without_secrets(config.out)}: was begun with --spans question; this run goes on with it")
        config = replace(config, spans="question")
    return config


def _options(config: ScoreConfig) -> dict[str, Any]:
    """What the plan says of the settings. Those of earlier versions, which did not know them, go without saying."""
    known = {k: v for k, v in as_dict(config).items() if k not in ELSEWHERE and not (k in AS_BEFORE and v == AS_BEFORE[k])}
    as_given = {"uncertainty": "auto", "entropy_temperature": None}
    return without_secrets_in(known | {name: value for name, value in as_given.items() if name in config.left_open})


@dataclass(frozen=True)
class Prepared:
    """What is to be scored, before a model is loaded."""

    folder: Path
    """the model's"""
    source: Source
    cut: Cut
    base: BaseLimits | None


def prepare(config: ScoreConfig) -> Prepared:
    """Raises UserError for settings, a model or rows that do not fit."""
    folder = locate(config.model)
    tokenizer = load_laid_out(config.model, folder, config)
    source = Source(config, tokenizer, context_length(folder))
    plan_masking(config, tokenizer, [], source.context)  # refuses settings
    base = None if config.base_model is None else BaseLimits.of(config.base_model, tokenizer)
    return Prepared(folder, source, source.cut(), base)


def plan_of(config: ScoreConfig, ready: Prepared, engine: dict[str, Any]) -> dict[str, Any]:
    """`engine`: what it says of itself."""
    tokenizer = ready.source.tokenizer
    fingerprints = {
        "model": model_fingerprint(ready.folder),
        **tokenizer_names(tokenizer),
        "chat_template": template_fingerprint(tokenizer),
        "rows": ready.cut.sha256,
        "base_model": model_fingerprint(locate(config.base_model)) if config.base_model else None,
        **config.recipe.codes(),
        **({"spans_code": code} if (code := identity(SPAN_PLAN, config.spans)) else {}),
    }
    return {
        "options": _options(config) | dated(tokenizer),
        "fingerprints": fingerprints,
        "engine": engine,
        "replacement": choose_replacement(config.replacement, tokenizer, seed=config.seed).describe(),
        "vocabulary_size": layout_of(tokenizer).rows or len(tokenizer),
        "optional": config.optional,
        "row_ranges": [list(rows) for rows in ready.cut.ranges],
    }
