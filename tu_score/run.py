"""`tu-score run`: plan, score part by part, check, finish. A killed run goes on where it was."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from shared.config import as_dict, as_toml
from shared.console import number_of, overheard, progress, readable_bytes, say
from shared.data.layout import say_layout
from shared.engines.interface import Engine
from shared.errors import StoreError
from shared.files.storage import Place, open_place
from shared.lm.models import locate
from shared.secret import without_secrets
from shared.store.files import MANIFEST
from shared.store.scores import open_store
from shared.store.writer import Writer, claim, refuse_foreign
from tu_score.check import check_of, self_check
from tu_score.config import ScoreConfig, shard_of
from tu_score.count import Counts, counted, require_some, say_all_noticed
from tu_score.finish import applied, require_same_data, whole
from tu_score.part import BaseSignals, PartScorer, codes_of
from tu_score.plan import Prepared, plan_of, prepare, settled
from tu_score.recipe import apply_recipe
from tu_score.shards import place_of, write_shard
from tu_score.source import Cut
from tu_score.workers import Crew, leave, open_scorer, score_parts

BASE = "_base"


def run_score(config: ScoreConfig) -> Path | str:
    """Scores a data set; returns the folder (or URL) of the finished store, of a shard its own. Raises UserError for
    everything a user can mend."""
    with overheard():  # what workers say too is said once
        return _run_score(config)


def _run_score(config: ScoreConfig) -> Path | str:
    config = settled(config)
    ready = prepare(config)
    counts = counted(ready.source, ready.cut, ready.base)
    try:
        with claimed(config) as place:
            if config.shard is not None:
                return _score_shard(place, config, ready, counts)
            _score_into(place, config, ready, counts)
    finally:
        leave()
    return with_waiting_importance(config.out, config)


@contextmanager
def claimed(config: ScoreConfig) -> Iterator[Place]:
    """Where this run writes, for the block nobody else's. Raises StoreError for a place that cannot be written, or that
    holds something else."""
    if config.shard is None:
        with claim(config.out) as place:
            yield place
        return
    refuse_foreign(there := open_place(config.out))
    if there.exists(MANIFEST):
        raise StoreError(f"{without_secrets(config.out)}: holds a finished store, so nothing is scored into it; choose a new --out")
    with claim(place_of(config.out, *shard_of(config.shard))) as place:
        yield place


def wanted_parts(config: ScoreConfig, parts: int) -> range:
    """Those of a store that this run scores."""
    number, of = (1, 1) if config.shard is None else shard_of(config.shard)
    return range(number - 1, parts, of)


def with_waiting_importance(where: Path | str, config: ScoreConfig) -> Path | str:
    """What needs all parts waits for the last; null in the manifest: it has not come yet."""
    store = open_store(where)
    if config.recipe.waits and not config.lacking and store.manifest["recipe"] is None:
        apply_recipe(store, config.recipe)
    return store.folder


def _score_into(place: Place, config: ScoreConfig, ready: Prepared, counts: Counts | None) -> None:
    name = without_secrets(str(place.where))
    with _Run(place, config, ready, counts) as run:
        writer = run.writer
        if writer.finished:
            require_same_data(writer, ready.source)
            _tidy(writer)
            say(f"{name}: this store is finished, and its parts are whole; nothing to do")
            return
        if writer.damage is not None:
            say(f"{name}: {writer.damage}; what is lost is scored again")
        place.write("_config.toml", as_toml(config).encode())
        run.score(wanted_parts(config, len(ready.cut.ranges)))
        require_some(sum(entry["rows"] for entry in writer.parts.values()))
        check = check_of(run.check(), config.out, config.dtype)
    if config.lacking:
        say(f"no importance was written: the recipe reads {', '.join(config.lacking)}, and --spans {config.spans} gives none of it")
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    recipe = applied(writer, config.recipe, later_on=bool(config.lacking) or config.recipe.waits)
    writer.finish(**whole(writer), self_check=check, recipe=recipe, created_at=now)
    _tidy(writer)
    run.say_noticed()


def _score_shard(place: Place, config: ScoreConfig, ready: Prepared, counts: Counts | None) -> Path | str:
    """The parts of one shard, in a folder of their own that `tu-score merge` joins."""
    assert config.shard is not None
    (number, of), wanted = shard_of(config.shard), wanted_parts(config, len(ready.cut.ranges))
    with _Run(place, config, ready, counts) as run:
        place.write("_config.toml", as_toml(config).encode())
        run.score(wanted)
        found = run.check()
        check_of(found, config.out, config.dtype)  # refuses an engine that is not reliable
        write_shard(place, number, of, run.writer, found, config)
        place.clear(BASE)
        run.say_noticed()
    say(f"{without_secrets(str(place.where))}: shard {number} of {of} is done, {number_of(len(wanted), 'part')}; when all are, "
        f"tu-score merge {without_secrets(config.out)} makes the store")  # fmt: skip
    return place.where


class _Run:
    """A model that is open, and the parts that it writes."""

    def __init__(self, place: Place, config: ScoreConfig, ready: Prepared, counts: Counts | None):
        self.place, self.config, self.ready, self.counts = place, config, ready, counts
        self.scorer = PartScorer(config, ready.source, ready.base if counts is None else None, codes_of(config))
        self.at_end = ExitStack()

    def __enter__(self) -> _Run:
        with ExitStack() as undo:
            undo.callback(self.at_end.close)
            self.engine = self._open()
            self.writer = Writer(self.place.where, plan_of(self.config, self.ready, self.engine.describe()))
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.at_end.close()

    def _open(self) -> Engine | Crew:
        engine = open_scorer(self.config, self.ready.folder, self.scorer)
        self.at_end.callback(engine.close)
        return engine

    def score(self, wanted: Sequence[int]) -> None:
        """Writes those of the parts that are not there. Progress is in tokens where they were counted, else in bytes of
        text, a part at a time."""
        ready, writer, counts = self.ready, self.writer, self.counts
        missing, base = [index for index in wanted if index not in writer.parts], None
        _require_no_others(writer, len(ready.cut.ranges))
        if self.config.base_model is not None and missing:
            self.at_end.close()  # one model in memory at a time
            base = _base_parts(self.config, ready, counts, missing)
            self.engine = self._open()
        say_layout(ready.source.tokenizer, self.config.model)
        say(f"{_amount(counts, ready.cut)}, {number_of(len(ready.cut.ranges), 'part')}, {about(self.engine)}")
        amounts, unit = (ready.cut.sizes, "bytes") if counts is None else (counts.work, "tokens")
        tasks = ((index, rows, base_signals(base, index)) for index, rows in ready.source.parts(ready.cut, missing))
        with progress("scoring", sum(amounts[index] for index in wanted), unit) as bar:
            bar.note = _so_far(writer, counts)
            bar.advance(sum(amounts[index] for index in wanted if index in writer.parts))
            advance = bar.advance if counts is not None else lambda tokens: None
            for index, (table, noticed) in score_parts(self.engine, tasks, self.scorer, advance):
                writer.noticed[index] = noticed
                writer.write_part(index, table)
                if counts is None:
                    bar.advance(amounts[index])
                bar.note = _so_far(writer, counts)

    def say_noticed(self) -> None:
        """Of rows that were not counted before."""
        if self.counts is None:
            say_all_noticed(as_dict(self.config), self.writer.parts.values(), self.ready.source.context)

    def check(self) -> list[dict[str, Any]]:
        return self_check(self.ready.source, self.ready.cut, self.writer, self.engine, self.config)


def _amount(counts: Counts | None, cut: Cut) -> str:
    if counts is None:
        return f"{number_of(cut.rows, 'row')}, {readable_bytes(cut.bytes)} of text"
    amounts = {"row": counts.examples, "token": counts.tokens, "masked variant": counts.variants}
    return ", ".join(number_of(sum(held), noun) for noun, held in amounts.items())


def _require_no_others(writer: Writer, parts: int) -> None:
    """Raises StoreError for parts that a record names and the plan does not."""
    if beyond := sorted(set(writer.parts) - set(range(parts))):
        raise StoreError(f"{writer.folder}: holds part {beyond[0]}, and this run has {parts}; delete the folder, or choose a new --out")


def _tidy(writer: Writer) -> None:
    """Removes what only an unfinished run needs; a kill may have come between the manifest and this."""
    writer.place.clear(BASE)
    writer.tidy()


def about(engine: Engine | Crew) -> str:
    about = engine.describe()
    return f"{about['name']} engine, {about['dtype']} on {about['device']}"


def _so_far(writer: Writer, counts: Counts | None) -> str:
    """What is written of what the run holds, for the progress line."""
    size = readable_bytes(sum(entry["bytes"] for entry in writer.parts.values()))
    done = sum(entry["rows"] for entry in writer.parts.values())
    if counts is None:
        return f"({number_of(done, 'row')}, {size} written)"
    variants = sum(counts.variants[index] for index in writer.parts)
    return f"({done:,}/{sum(counts.examples):,} rows, {variants:,}/{sum(counts.variants):,} masked variants, {size} written)"


def base_signals(base: Writer | None, index: int) -> BaseSignals | None:
    """What the base model says of the examples of a part; its parts are cut as these are."""
    if base is None:
        return None
    rows = base.read_part(index, ["example_id", "logprob", "entropy"]).to_pylist()
    return [(row["example_id"], _floats(row["logprob"]), _floats(row["entropy"])) for row in rows]


def _base_parts(config: ScoreConfig, ready: Prepared, counts: Counts | None, wanted: Sequence[int]) -> Writer:
    """Scores the rows of these parts under the base model into a folder inside this one, which is never finished: its
    parts are read and resumed like those of any store."""
    assert config.base_model is not None
    out = f"{config.out if config.shard is None else place_of(config.out, *shard_of(config.shard))}/{BASE}"
    if (inner := Path(out)).is_symlink():
        raise StoreError(f"{inner}: is a link, and nothing is written through links here; delete it, then give the same command again")
    say(f"base model {config.base_model}: scoring")
    plain = replace(
        config,
        model=config.base_model,
        base_model=None,
        out=out,
        spans="none",
        alpha=0.0,
        uncertainty="entropy",
        scope="example",
        span_key=None,
        copy_aware=False,
        keep_spans=False,
        entropy_temperature=None,
        topk=0,
        shard=None,
    )
    inside = replace(ready, folder=locate(config.base_model))
    own = None if counts is None else Counts(counts.examples, counts.tokens, [0] * len(counts.tokens), counts.tokens)
    with claim(out) as place, _Run(place, plain, inside, own) as run:
        run.score(wanted)
        check_of(run.check(), out, plain.dtype)
        return run.writer


def _floats(values: Any) -> np.ndarray:
    return np.array(values, dtype=np.float32)
