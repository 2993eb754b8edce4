"""`tu-score run`: plan, score part by part, check, finish. A killed run goes on where it was.

The plan (data cut into parts, options, fingerprints) is fixed before the first forward pass, so that a part's bytes
depend on nothing but its own rows: a resumed store equals an undisturbed one.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shared.budget import within_budget
from shared.config import as_dict, as_toml
from shared.console import progress, readable_bytes, say
from shared.data.datasets import load_rows
from shared.data.examples import Example, data_fingerprint, examples_of
from shared.data.layout import dated, layout_of, say_layout
from shared.engines.interface import Engine
from shared.errors import ModelError, StoreError
from shared.extensions import identity
from shared.files.remote import Unreachable
from shared.files.storage import Place, open_place
from shared.lm.models import (
    context_length,
    load_laid_out,
    load_tokenizer,
    locate,
    model_fingerprint,
    require_rows,
    template_fingerprint,
    tokenizer_names,
    vocabulary_fingerprint,
)
from shared.secret import without_secrets, without_secrets_in
from shared.store.files import PLAN
from shared.store.parts import schema
from shared.store.scores import open_store
from shared.store.writer import Writer, claim
from shared.weighting.importance import CODE, FILE, Recipe
from tu_score.check import self_check
from tu_score.config import SPAN_PLAN, ScoreConfig
from tu_score.recipe import Seen, apply_recipe, survey, with_importance, without_importance
from tu_score.signals import add_importance, add_words, nullable, optional_columns
from tu_score.spans import Masking, plan_masking
from tu_score.workers import Pool, open_scorer, score_parts

BASE = "_base"
ELSEWHERE = ("out", "model", "base_model", "workers")
"""fields that change no value of the store, or that its fingerprints stand for"""
AS_BEFORE = {"text_overlap": 0, "text_copies": "none"}
"""how versions scored raw text that knew neither setting"""


def run_score(config: ScoreConfig) -> Path | str:
    """Scores a data set; returns the folder (or URL) of the finished store. Raises UserError for everything a user can
    mend."""
    config = settled(config)
    return _score(config, *prepare(config))


def settled(config: ScoreConfig) -> ScoreConfig:
    """A store that an earlier version began goes on with the defaults of that version."""
    if not config.left_open:
        return config
    was_default = "spans" in config.left_open and config.spans == "none"
    try:
        begun = json.loads(open_place(config.out).read(PLAN))["options"]
        spans, lacking = begun["spans"], {name: value for name, value in AS_BEFORE.items() if name in config.left_open - begun.keys()}
    except Unreachable:
        raise
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError, RecursionError, StoreError):
        return config  # nothing there, or what the writer refuses with a message of its own
    if lacking:
        say(f"{without_secrets(config.out)}: was begun by an earlier version; this run goes on with "
            + " and ".join(f"{name}={value}" for name, value in lacking.items()))  # fmt: skip
        config = replace(config, spans=config.spans, **lacking)
    if was_default and spans == "question":
        say(f"{without_secrets(config.out)}: was begun with --spans question; this run goes on with it")
        config = replace(config, spans="question")
    return config


def _options(config: ScoreConfig) -> dict[str, Any]:
    """What the plan says of the settings. Those of earlier versions, which did not know them, go without saying."""
    known = {k: v for k, v in as_dict(config).items() if k not in ELSEWHERE and not (k in AS_BEFORE and v == AS_BEFORE[k])}
    return without_secrets_in(known)


def prepare(config: ScoreConfig) -> tuple[Path, Any, list[Example]]:
    """The model's folder, its tokenizer, and what is to be scored."""
    folder = locate(config.model)
    tokenizer = load_laid_out(config.model, folder, config)
    context = context_length(folder)
    rows = load_rows(config.data, keys=config.keys, limit=config.limit)
    examples = examples_of(rows, tokenizer, config, context=context)
    _say_long(len({r.id for r in rows}) - len({e.row.id for e in examples}), examples, context, config)
    if config.base_model is not None:
        _check_base(config.base_model, tokenizer, examples)
    return folder, tokenizer, examples


def _score(config: ScoreConfig, folder: Path, tokenizer: Any, examples: list[Example]) -> Path | str:
    """Scores these very examples, whatever the model's own template would make of the rows."""
    masking = plan_masking(config, tokenizer, examples, context_length(folder))  # also refuses rows that cannot be masked, before any work
    with claim(config.out) as place:
        where = _score_into(place, config, folder, tokenizer, examples, masking)
    store = open_store(where)
    if config.recipe.waits and not config.lacking and store.manifest["recipe"] is None:
        apply_recipe(store, config.recipe)  # what needs all parts waits for the last; null in the manifest: it has not come yet
    return where


def _score_into(place: Place, config: ScoreConfig, folder: Path, tokenizer: Any, examples: list[Example], masking: Masking) -> Path | str:
    parts = within_budget([len(e.input_ids) for e in examples], config.part_tokens)
    fingerprints = {
        "model": model_fingerprint(folder),
        **tokenizer_names(tokenizer),
        "chat_template": template_fingerprint(tokenizer),
        "data": data_fingerprint(examples),
        "base_model": model_fingerprint(locate(config.base_model)) if config.base_model else None,
        **config.recipe.codes(),
        **({"spans_code": code} if (code := identity(SPAN_PLAN, config.spans)) else {}),
    }
    with ExitStack() as at_end:
        engine = _opened(at_end, config, folder, masking)
        plan = {
            "options": _options(config) | dated(tokenizer),
            "fingerprints": fingerprints,
            "engine": engine.describe(),
            **masking.describe(),
            "vocabulary_size": layout_of(tokenizer).rows or len(tokenizer),
            "optional": config.optional,
            "part_rows": [list(p) for p in parts],
        }
        writer = Writer(place.where, plan)
        if writer.finished:
            _tidy(writer)
            say(f"{without_secrets(str(place.where))}: this store is finished, and its parts are whole; nothing to do")
            return place.where
        if writer.damage is not None:
            say(f"{without_secrets(str(place.where))}: {writer.damage}; what is lost is scored again")
        place.write("_config.toml", as_toml(config).encode())
        base = None
        if config.base_model is not None:
            at_end.close()  # one model in memory at a time
            base = _base_signals(config, tokenizer, examples)
            engine = _opened(at_end, config, folder, masking)
        masked = sum(map(len, masking.spans.values()))
        tokens = sum(len(e.input_ids) for e in examples)
        say_layout(tokenizer, config.model)
        say(f"{len(examples)} rows, {tokens:,} tokens, {masked} masked variants, {len(parts)} parts, {about(engine)}")
        _require_no_others(writer, len(parts))
        _score_parts(examples, parts, writer, engine, config, masking, tokenizer, base)
        check = self_check(examples, parts, writer, engine, config, masking)
    if config.lacking:
        say(f"no importance was written: the recipe reads {', '.join(config.lacking)}, and --spans {config.spans} gives none of it")
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    writer.finish(self_check=check, recipe=_applied(writer, config), created_at=now)
    _tidy(writer)
    return place.where


def _applied(writer: Writer, config: ScoreConfig) -> dict[str, Any] | None:
    """The recipe for the manifest. A store that is mended keeps the one that was applied to it since: its other parts
    have it."""
    own = None if config.lacking or config.recipe.waits else config.recipe.written()
    later = writer.kept["recipe"] if writer.kept is not None else None
    if later is None or later == own:
        return own
    if FILE in later:
        return _without_file(writer, config, own)
    recipe, store = Recipe.recorded(later), writer.as_store()
    if recipe.codes() != {name: code for name, code in later.items() if name.endswith(CODE)}:
        raise StoreError(f"{without_secrets(str(store.folder))}: its importance is by {recipe.describe()}, of code that this run does not "
                         "name or that has changed since; what is lost cannot be made like the rest: choose a new --out")  # fmt: skip
    seen = survey(store, recipe)
    for index in sorted(writer.parts):
        writer.write_part(index, with_importance(writer.read_part(index), recipe, seen, store))
    return dict(later)


def _without_file(writer: Writer, config: ScoreConfig, own: dict[str, Any] | None) -> dict[str, Any] | None:
    """A store that is mended cannot have the importance of a file that is not there: all parts get this run's own
    again."""
    say(f"{without_secrets(str(writer.folder))}: its importance came from a file of your own, of which the lost parts cannot be made; "
        "all of it is by this run's recipe again, tu-score recipe --importance puts yours back")  # fmt: skip
    for index in sorted(writer.parts):
        bare = without_importance(writer.read_part(index))  # stays so where there is none, or where it waits for all parts
        writer.write_part(index, bare if own is None else with_importance(bare, config.recipe, Seen(), writer.as_store()))
    return own


def _require_no_others(writer: Writer, parts: int) -> None:
    """Raises StoreError for parts that a record names and the plan does not."""
    if beyond := sorted(set(writer.parts) - set(range(parts))):
        raise StoreError(f"{writer.folder}: holds part {beyond[0]}, and this run has {parts}; delete the folder, or choose a new --out")


def _opened(at_end: ExitStack, config: ScoreConfig, folder: Path, masking: Masking) -> Engine | Pool:
    engine = open_scorer(config, folder, masking)
    at_end.callback(engine.close)
    return engine


def _tidy(writer: Writer) -> None:
    """Removes what only an unfinished run needs; a kill may have come between the manifest and this."""
    writer.place.clear(BASE)
    writer.tidy()


def _say_long(skipped: int, examples: list[Example], context: int | None, config: ScoreConfig) -> None:
    if skipped:
        say(f"--long skip: {skipped} rows left out, they are longer than the model's context of {context} tokens")
    full = sum(len(e.input_ids) == context for e in examples)
    if config.long == "truncate" and full:
        say(f"--long truncate: {full} examples fill the model's context of {context} tokens, cut there if they were longer")


def about(engine: Engine | Pool) -> str:
    about = engine.describe()
    return f"{about['name']} engine, {about['dtype']} on {about['device']}"


def _score_parts(
    examples, parts, writer: Writer, engine: Engine | Pool, config: ScoreConfig, masking: Masking, tokenizer: Any, base
) -> None:
    groups = {index: examples[start:end] for index, (start, end) in enumerate(parts)}
    missing = {index: group for index, group in groups.items() if index not in writer.parts}
    with progress("scoring", sum(map(masking.work, examples)), "tokens") as bar:
        bar.note = _so_far(writer, examples, masking, groups)
        bar.advance(sum(masking.work(e) for index in writer.parts for e in groups[index]))
        for index, scored in score_parts(engine, missing, config, masking, bar.advance):
            add_words(scored, groups[index], tokenizer, copies=config.text_copies)
            for example, columns in zip(groups[index], scored, strict=True):
                add_base(columns, example, base)
                add_importance(columns, example, config)
            writer.write_part(index, part_table(groups[index], scored, config.optional))
            bar.note = _so_far(writer, examples, masking, groups)


def _so_far(writer: Writer, examples: Sequence[Example], masking: Masking, groups: dict[int, list[Example]]) -> str:
    """What is written of what the run holds, for the progress line."""
    done = [e for index in writer.parts for e in groups[index]]
    variants = [sum(len(masking.spans[e.id]) for e in which) for which in (done, examples)]
    size = readable_bytes(sum(entry["bytes"] for entry in writer.parts.values()))
    return f"({len(done):,}/{len(examples):,} rows, {variants[0]:,}/{variants[1]:,} masked variants, {size} written)"


def add_base(columns: dict[str, Any], example: Example, base: dict[str, tuple[np.ndarray, np.ndarray]] | None) -> None:
    """Adds the base model's two signals, null where there is no base model."""
    columns["base_logprob"], columns["base_entropy"] = base[example.id] if base else (np.full(len(example.input_ids), np.nan),) * 2


def part_table(group: Sequence[Example], scored: list[dict[str, Any]], optional: Sequence[str]) -> pa.Table:
    """A part from the columns of its examples."""
    table: dict[str, list] = {
        "example_id": [e.id for e in group],
        "input_ids": [e.input_ids for e in group],
        "tokens": [c["tokens"] for c in scored],
        "is_target": [e.is_target for e in group],
        "spans": [c["spans"] for c in scored],
    }
    for name in ("logprob", "entropy", "delta", "delta_mean", "masked_entropy", "base_logprob", "base_entropy", "delta_span", "importance"):
        table[name] = [nullable(c[name]) for c in scored]
    return pa.table(table | optional_columns(scored, optional), schema=schema(optional))


def _check_base(name: str, tokenizer: Any, examples: Sequence[Example]) -> None:
    folder = locate(name)
    base = load_tokenizer(folder)
    if vocabulary_fingerprint(base) != vocabulary_fingerprint(tokenizer):
        raise ModelError(
            f"--base-model {name}: its tokenizer differs from the model's, so their tokens cannot be compared; "
            "use the checkpoint before fine-tuning"
        )
    require_rows(f"--base-model {name}", folder, ((e.id, e.input_ids) for e in examples))
    context, longest = context_length(folder), max(len(e.input_ids) for e in examples)
    if context is not None and longest > context:
        raise ModelError(
            f"--base-model {name}: its context holds {context} tokens, the longest example has {longest}; use another base model"
        )


def _base_signals(config: ScoreConfig, tokenizer: Any, examples: list[Example]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Scores the same data under the base model into a store inside this one; parts and resume are those of any
    store."""
    assert config.base_model is not None
    if (inner := Path(config.out, BASE)).is_symlink():
        raise StoreError(f"{inner}: is a link, and nothing is written through links here; delete it, then give the same command again")
    say(f"base model {config.base_model}: scoring")
    plain = replace(
        config,
        model=config.base_model,
        base_model=None,
        out=f"{config.out}/{BASE}",
        spans="none",
        alpha=0.0,
        uncertainty="entropy",
        scope="example",
        span_key=None,
        copy_aware=False,
        keep_spans=False,
        entropy_temperature=None,
        topk=0,
    )
    store = open_store(_score(plain, locate(config.base_model), tokenizer, examples))
    rows = store.rows(("example_id", "logprob", "entropy"))
    return {row["example_id"]: (_floats(row["logprob"]), _floats(row["entropy"])) for row in rows}


def _floats(values: Any) -> np.ndarray:
    return np.array(values, dtype=np.float32)
