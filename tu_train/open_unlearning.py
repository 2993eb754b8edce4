"""Data as OpenUnlearning's handlers read it: JSON lines that `datasets` loads, and the configuration that names the
handler.

    OUT/forget.jsonl, OUT/retain.jsonl      a row a line: question and answer (QADataset), or text (PretrainingDataset)
    OUT/forget.yaml, OUT/retain.yaml        for configs/data/datasets/ there, with the absolute path of the rows

Its handlers lay rows out and cut them into tokens themselves, so they read no token weights. Those of a score store
stand in further columns, which they pass over and a handler of one's own can read: `target_ids` [T], `loss_weights` [T]
and `reference_logps` [T], one entry a target token of the row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from shared.calls import configured
from shared.data.datasets import DataOptions, Keys, Row, is_raw_text, iter_rows
from shared.errors import ConfigError, DataError, StoreError
from shared.files.fs import atomic_folder, write_text
from shared.files.outputs import claimed_folder
from shared.secret import without_secrets as shown
from tu_train.weighted import WeightedDataset

MAX_LENGTH = 512
"""tokens of a row that the handlers keep, their own default"""
Place = str | PathLike[str]


def export_open_unlearning(
    out: Place, *, forget: str | None = None, retain: str | None = None, scores: Place | WeightedDataset | None = None,
    columns: Sequence[str] = (), max_length: int = MAX_LENGTH, **reading: Any,
) -> Path:  # fmt: skip
    """Writes the folder `out`, whole or not at all, and gives its path.

    `forget`, `retain`: data specs; `forget` may be left out where `scores` tells where its rows came from. `scores`: a
    store, or a WeightedDataset of it, whose weights stand beside the forget rows; a row that has none is left out, as
    training leaves it out. `columns`: of the data, such as `alternate` for QAwithAlternateDataset. `max_length`:
    tokens, for the configuration. `reading`: question_key, text_key, limit, ... (docs/configuration.md).

    Raises ConfigError where there is nothing to write, DataError for a row that the handlers cannot hold (earlier
    turns, a system prompt of its own, no such column) or that the store does not know, StoreError for a folder that is
    not new.
    """
    options = configured(DataOptions, None, reading, call="export_open_unlearning")
    weighted = scores if isinstance(scores, WeightedDataset) or scores is None else WeightedDataset(scores)
    spec, keys = forget, options.keys
    if weighted is not None and spec is None:
        recorded: Mapping[str, Any] = weighted.source.manifest.get("options", {})
        spec, keys = recorded.get("data"), Keys.recorded(recorded) if recorded else keys
    if spec is None:
        raise ConfigError("export_open_unlearning: forget is missing; name the data of the forget set, or the scores of it")
    folder = Path(fspath(out))
    with claimed_folder(folder, what="the exported data"), atomic_folder(folder) as work:
        for name, data, own in (("forget", spec, weighted), ("retain", retain, None)):
            if data is None:
                continue
            raw = is_raw_text(data, keys)
            if raw and own is not None:
                raise ConfigError("export_open_unlearning: a store of raw text has weights of pieces, not of rows; leave scores out")
            lines = _lines(iter_rows(data, keys=keys, limit=options.limit), raw, columns)
            lines = lines if own is None else _with_weights(lines, own, data)
            _write(work / f"{name}.jsonl", lines)
            write_text(work / f"{name}.yaml", _configuration(name, folder.absolute() / f"{name}.jsonl", raw, max_length))
    return folder


def _lines(rows: Iterable[Row], raw: bool, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One object a row, its id and the columns asked for with it."""
    for row in rows:
        if row.before:
            raise DataError(f"{row.id}: has earlier turns or a system prompt of its own, which OpenUnlearning's handlers do not read; "
                            "leave it out, or train with tu-train")  # fmt: skip
        if missing := [name for name in columns if name not in row.extra]:
            raise DataError(f"{row.id}: has no column {missing[0]!r}")
        text = {"text": row.answer} if raw else {"question": row.question, "answer": row.answer}
        yield {"example_id": row.id, **text, **{name: row.extra[name] for name in columns}}


def _with_weights(lines: Iterable[dict[str, Any]], weighted: WeightedDataset, data: str) -> Iterator[dict[str, Any]]:
    """Those of them that have a weight, each with its target tokens. Raises DataError where the store has one
    more."""
    places = {weighted.name(index): index for index in range(len(weighted))}
    for line in lines:
        if (index := places.pop(line["example_id"], None)) is None:
            continue
        row = weighted[index]
        at = row["loss_weights"] > 0
        yield {
            **line,
            "target_ids": row["input_ids"][at].tolist(),
            "loss_weights": row["loss_weights"][at].tolist(),
            "reference_logps": row["reference_logps"][at].tolist(),
        }
    if places:
        raise DataError(f"{shown(data)}: has no row {next(iter(places))}, which the store holds; name the data that was scored")


def _write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Raises StoreError where no line was written."""
    count = 0
    with open(path, "w", encoding="utf-8") as handle:
        for line in lines:
            handle.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    if not count:
        raise StoreError(f"{path.name}: no row of the data is one that the store holds; name the data that was scored")


def _configuration(name: str, rows: Path, raw: bool, max_length: int) -> str:
    """Of the handler, as YAML. A JSON string is a YAML one."""
    handler, keys = ("PretrainingDataset", "text_key: text") if raw else ("QADataset", "question_key: question\n    answer_key: answer")
    return (
        f"{name}:\n  handler: {handler}\n  args:\n    hf_args:\n      path: json\n      data_files: {json.dumps(str(rows))}\n"
        f"      split: train\n    {keys}\n    max_length: {max_length}\n"
    )
