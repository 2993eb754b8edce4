"""`tu-score run`: plan, score part by part, check, finish. A killed run goes on where it was.

The plan (data cut into parts, options, fingerprints) is fixed before the first forward pass, so that a part's bytes
depend on nothing but its own rows: a resumed store equals an undisturbed one.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shared.config import as_dict, as_toml
from shared.console import progress, readable_bytes, say
from shared.data.examples import DataHash, data_fingerprint
from shared.data.layout import dated, layout_of, say_layout
from shared.engines.interface import Engine
from shared.errors import StoreError
from shared.extensions import identity
from shared.files.fs import json_text
from shared.files.storage import Place, open_place
from shared.lm.models import context_length, load_laid_out, locate, model_fingerprint, template_fingerprint, tokenizer_names
from shared.secret import without_secrets, without_secrets_in
from shared.store.files import PLAN
from shared.store.scores import Store, open_store
from shared.store.writer import Writer, claim
from shared.weighting.importance import AUTO, CODE, FILE, Recipe
from tu_score.check import self_check
from tu_score.config import SPAN_PLAN, ScoreConfig
from tu_score.count import BaseLimits, Counts, counted, require_some
from tu_score.part import BaseSignals, PartScorer
from tu_score.recipe import Seen, apply_recipe, survey, with_importance, without_importance
from tu_score.replace import choose_replacement
from tu_score.source import Cut, Source
from tu_score.spans import plan_masking
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
    ready = prepare(config)
    return _score(config, ready, counted(ready.source, ready.cut, ready.base))


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


def _score(config: ScoreConfig, ready: Prepared, counts: Counts | None) -> Path | str:
    """Scores these very rows, whatever the model's own template would make of them."""
    with claim(config.out) as place:
        where = _score_into(place, config, ready, counts)
    store = open_store(where)
    if config.recipe.waits and not config.lacking and store.manifest["recipe"] is None:
        apply_recipe(store, config.recipe)  # what needs all parts waits for the last; null in the manifest: it has not come yet
    return where


def _plan(config: ScoreConfig, ready: Prepared, engine: Engine | Pool) -> dict[str, Any]:
    """What is fixed before the first part."""
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
        "engine": engine.describe(),
        "replacement": choose_replacement(config.replacement, tokenizer, seed=config.seed).describe(),
        "vocabulary_size": layout_of(tokenizer).rows or len(tokenizer),
        "optional": config.optional,
        "row_ranges": [list(rows) for rows in ready.cut.ranges],
    }


def _score_into(place: Place, config: ScoreConfig, ready: Prepared, counts: Counts | None) -> Path | str:
    name = without_secrets(str(place.where))
    with ExitStack() as at_end:
        scorer = PartScorer(config, ready.source, ready.base if counts is None else None)
        engine = _opened(at_end, config, ready.folder, scorer)
        writer = Writer(place.where, _plan(config, ready, engine))
        if writer.finished:
            require_same_data(writer, ready.source)
            _tidy(writer)
            say(f"{name}: this store is finished, and its parts are whole; nothing to do")
            return place.where
        if writer.damage is not None:
            say(f"{name}: {writer.damage}; what is lost is scored again")
        place.write("_config.toml", as_toml(config).encode())
        base = None
        if config.base_model is not None:
            at_end.close()  # one model in memory at a time
            base = _base_store(config, ready, counts)
            engine = _opened(at_end, config, ready.folder, scorer)
        say_layout(ready.source.tokenizer, config.model)
        say(f"{_amount(counts, ready.cut)}, {len(ready.cut.ranges)} parts, {about(engine)}")
        _require_no_others(writer, len(ready.cut.ranges))
        _score_parts(ready, counts, writer, engine, scorer, base)
        require_some(sum(entry["rows"] for entry in writer.parts.values()))
        check = self_check(ready.source, ready.cut, writer, engine, config)
    if config.lacking:
        say(f"no importance was written: the recipe reads {', '.join(config.lacking)}, and --spans {config.spans} gives none of it")
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    writer.finish(**whole(writer), self_check=check, recipe=_applied(writer, config), created_at=now)
    _tidy(writer)
    return place.where


def _amount(counts: Counts | None, cut: Cut) -> str:
    if counts is None:
        return f"{cut.rows:,} rows, {readable_bytes(cut.bytes)} of text"
    return f"{sum(counts.examples)} rows, {sum(counts.tokens):,} tokens, {sum(counts.variants)} masked variants"


def whole(writer: Writer) -> dict[str, Any]:
    """What a manifest says of all parts together: the fingerprint of the data, and the masked variants. One part is in
    memory at a time."""
    data, spans, variants = DataHash(), hashlib.sha256(), 0
    for index in sorted(writer.parts):
        for row in writer.read_part(index, ["example_id", "input_ids", "is_target", "spans"]).to_pylist():
            data.add(row["example_id"], row["input_ids"], row["is_target"])
            spans.update(json_text([row["example_id"], [[s["start"], s["end"]] for s in row["spans"]]]).encode())
            variants += len(row["spans"])
    fingerprints = {**writer.plan["fingerprints"], "data": data.hexdigest()}
    return {"fingerprints": fingerprints, "spans": {"variants": variants, "sha256": spans.hexdigest()}}


def require_same_data(writer: Writer, source: Source) -> None:
    """A store of an earlier version knows its data by their tokens alone. Raises StoreError where they are others."""
    assert writer.kept is not None
    known = writer.kept["fingerprints"]
    if "rows" not in known and known["data"] != data_fingerprint(e for row in source.rows() for e in source.examples([row])):
        raise StoreError(f"{without_secrets(str(writer.folder))}: holds another run: it was scored from other data; choose a new --out")


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


def _opened(at_end: ExitStack, config: ScoreConfig, folder: Path, scorer: PartScorer) -> Engine | Pool:
    engine = open_scorer(config, folder, scorer)
    at_end.callback(engine.close)
    return engine


def _tidy(writer: Writer) -> None:
    """Removes what only an unfinished run needs; a kill may have come between the manifest and this."""
    writer.place.clear(BASE)
    writer.tidy()


def about(engine: Engine | Pool) -> str:
    about = engine.describe()
    return f"{about['name']} engine, {about['dtype']} on {about['device']}"


def _score_parts(
    ready: Prepared, counts: Counts | None, writer: Writer, engine: Engine | Pool, scorer: PartScorer, base: Store | None
) -> None:
    """Progress is in tokens where they were counted, else in bytes of text, a part at a time."""
    missing = [index for index in range(len(ready.cut.ranges)) if index not in writer.parts]
    amounts, unit = (ready.cut.sizes, "bytes") if counts is None else (counts.work, "tokens")
    tasks = ((index, rows, base_signals(base, index)) for index, rows in ready.source.parts(ready.cut, missing))
    with progress("scoring", sum(amounts), unit) as bar:
        bar.note = _so_far(writer, counts)
        bar.advance(sum(amounts[index] for index in writer.parts))
        for index, table in score_parts(engine, tasks, scorer, bar.advance if counts is not None else lambda tokens: None):
            writer.write_part(index, table)
            if counts is None:
                bar.advance(amounts[index])
            bar.note = _so_far(writer, counts)


def _so_far(writer: Writer, counts: Counts | None) -> str:
    """What is written of what the run holds, for the progress line."""
    size = readable_bytes(sum(entry["bytes"] for entry in writer.parts.values()))
    done = sum(entry["rows"] for entry in writer.parts.values())
    if counts is None:
        return f"({done:,} rows, {size} written)"
    variants = sum(counts.variants[index] for index in writer.parts)
    return f"({done:,}/{sum(counts.examples):,} rows, {variants:,}/{sum(counts.variants):,} masked variants, {size} written)"


def base_signals(store: Store | None, index: int) -> BaseSignals | None:
    """What the base model says of the examples of a part; its store is cut as this one is."""
    if store is None:
        return None
    rows = store.part(index, ["example_id", "logprob", "entropy"])
    return [(row["example_id"], _floats(row["logprob"]), _floats(row["entropy"])) for row in rows]


def _base_store(config: ScoreConfig, ready: Prepared, counts: Counts | None) -> Store:
    """Scores the same rows under the base model into a store inside this one; parts and resume are those of any
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
    inside = replace(ready, folder=locate(config.base_model))
    none = None if counts is None else Counts(counts.examples, counts.tokens, [0] * len(counts.tokens), counts.tokens)
    return open_store(_score(plain, inside, none))


def _floats(values: Any) -> np.ndarray:
    return np.array(values, dtype=np.float32)
