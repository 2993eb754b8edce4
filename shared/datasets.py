"""Data specs -> rows.

tofu:forget01            TOFU: the folder in TU_TOFU_DIR, else the hub set locuslab/TOFU
atlas:forget             the embedded generator (shared/atlas.py): full, forget, retain, holdout, world;
                         sizes may follow, the same for every command: atlas:forget:people=12,facts_per_person=4,seed=1
path/to/file.jsonl       JSONL, JSON or Parquet, a path or an fsspec URL, with --question-key/--answer-key or --text-key
hub:org/name:config:split  any hub set (config may be empty)
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from shared import atlas
from shared.errors import DataError, nearest
from shared.storage import is_url, open_place

TOFU_HUB = "locuslab/TOFU"
TOFU_SPLITS = (
    *("full", "forget01", "forget05", "forget10", "retain90", "retain95", "retain99", "real_authors", "world_facts"),
    *("forget01_perturbed", "forget05_perturbed", "forget10_perturbed", "retain_perturbed"),
    *("real_authors_perturbed", "world_facts_perturbed", "holdout01", "holdout05", "holdout10"),
)
KINDS = ("tofu:", "atlas:", "hub:")
SUFFIXES = (".jsonl", ".json", ".parquet")
LOCAL = "; a local copy does as well: name its .jsonl, .json or .parquet file as data"


@dataclass(frozen=True)
class Row:
    """One row of text. Raw text has question None and its text in `answer`."""

    id: str
    question: str | None
    answer: str
    extra: dict[str, Any] = field(default_factory=dict, compare=False)
    """the row's other columns: paraphrased_answer, perturbed_answer, fact_spans (character offsets in answer), ..."""


@dataclass(frozen=True)
class Keys:
    """Which columns of a file or hub set hold what."""

    question: str = "question"
    answer: str = "answer"
    text: str | None = None


def load_rows(spec: str, *, keys: Keys = Keys(), limit: int | None = None) -> list[Row]:
    """Rows of a data spec, the first `limit` of them. Raises DataError naming the spec, split, row, line or key that is wrong."""
    if limit is not None and limit < 1:
        raise DataError(f"--limit {limit}: expected at least 1")
    if spec.startswith("tofu:"):
        name, records = "tofu/" + spec[5:], _tofu(spec[5:])
    elif spec.startswith("atlas:"):
        split, _, size = spec[6:].partition(":")
        name, records = f"atlas/{split}", _atlas(split, size)
    elif spec.startswith("hub:"):
        name, records = _hub(spec)
    else:
        name, records = file_records(spec)
    rows = []
    for index, record in enumerate(islice(records, limit)):
        rows.append(_row(f"{name}/{record.get('row', index) if spec.startswith('atlas:') else index}", record, keys))
    if not rows:
        raise DataError(f"data {spec}: no rows")
    return rows


def _row(name: str, record: Any, keys: Keys) -> Row:
    if not isinstance(record, dict):
        raise DataError(f"{name}: expected an object with named values, got {type(record).__name__}")
    wanted = [keys.text] if keys.text else [keys.question, keys.answer]
    for key in wanted:
        if key not in record:
            flag = "--text-key" if keys.text else "--question-key, --answer-key or --text-key"
            raise DataError(f"{name}: no key {key!r}{nearest(key, record)}; see {flag}")
        if not isinstance(record[key], str) or not record[key].strip():
            raise DataError(f"{name}: its {key} is empty or not text; remove the row or fill it")
    extra = {k: v for k, v in record.items() if k not in wanted}
    return Row(name, None, record[keys.text], extra) if keys.text else Row(name, record[keys.question], record[keys.answer], extra)


def _tofu(split: str) -> Iterator[dict]:
    if split not in TOFU_SPLITS:
        raise DataError(f"data tofu:{split}: no such split{nearest(split, TOFU_SPLITS)}")
    folder = os.environ.get("TU_TOFU_DIR")
    if not folder:
        return hub_records(TOFU_HUB, split, "train", f"tofu:{split}", "; or set TU_TOFU_DIR to a folder with TOFU's JSON files")
    path = Path(folder) / f"{split}.json"
    if not path.exists():
        raise DataError(f"data tofu:{split}: {path} does not exist; TU_TOFU_DIR should be the folder with TOFU's JSON files")
    return _json_lines(path)


def atlas_world(text: str) -> tuple[atlas.AtlasSize, int]:
    """`people=12,facts_per_person=4,seed=1` -> size and seed; empty text gives the defaults."""
    known = [f.name for f in fields(atlas.AtlasSize)] + ["seed"]
    values = {}
    for item in filter(None, text.split(",")):
        name, _, value = item.partition("=")
        if name not in known:
            raise DataError(f"data atlas: unknown size {name!r}{nearest(name, known)}")
        if not value.isdigit():
            raise DataError(f"data atlas: {name} is {value!r}, expected a whole number")
        values[name] = int(value)
    seed = values.pop("seed", 0)
    return atlas.AtlasSize(**values), seed


def _atlas(split: str, world: str) -> list[dict]:
    if split not in atlas.SPLITS:
        raise DataError(f"data atlas:{split}: no such split{nearest(split, atlas.SPLITS)}")
    try:
        return atlas.rows(split, *atlas_world(world))
    except ValueError as error:
        raise DataError(f"data atlas:{split}: {error}") from None


def _hub(spec: str) -> tuple[str, Iterator[dict]]:
    parts = spec.split(":")
    if len(parts) != 4 or parts[1].count("/") != 1 or not parts[3]:
        raise DataError(f"data {spec}: expected hub:org/name:config:split (config may be empty)")
    _, repo, config, split = parts
    return f"{repo.replace('/', '--')}/{split}", hub_records(repo, config or None, split, spec, LOCAL)


def hub_records(repo: str, config: str | None, split: str, spec: str, hint: str) -> Iterator[dict]:
    """Records of a split as they are. Raises DataError naming `spec` and ending in `hint`, what else the user can do."""
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        rows: Any = datasets.load_dataset(repo, config, split=split)
        return iter(rows)
    except (OSError, ValueError, DatasetsError) as error:  # offline, no such set or split, a set of another form
        raise DataError(f"data {spec}: cannot be had from the hub: {str(error).splitlines()[0][:200]}{hint}") from None


def file_records(spec: str) -> tuple[str, Iterator[dict]]:
    """-> what its rows are called, and its records as they are. Raises DataError naming the file, where reading fails also later."""
    path = Path(spec) if is_url(spec) else Path(spec).expanduser()
    if not is_url(spec) and not path.exists():
        if ":" in spec or not path.suffix:
            kind = spec.split(":")[0] + ":"
            raise DataError(f"data {spec}: unknown data spec{nearest(kind, KINDS)}; or a .jsonl, .json or .parquet path")
        raise DataError(f"data {spec}: no such file")
    if path.suffix not in SUFFIXES:
        raise DataError(f"data {spec}: expected a file that ends in {', '.join(SUFFIXES)}")
    where = spec if is_url(spec) else path
    return f"{path.stem}/rows", _parquet(where) if path.suffix == ".parquet" else _json_lines(where)


def _open(where: Path | str) -> BinaryIO:
    """A file to read, or what a URL holds, as a whole."""
    if isinstance(where, Path):
        return open(where, "rb")
    folder, _, name = where.rpartition("/")
    try:
        return io.BytesIO(open_place(folder).read(name))
    except FileNotFoundError:
        raise DataError(f"data {where}: no such file") from None


def _parquet(path: Path | str) -> Iterator[dict]:
    import pyarrow
    import pyarrow.parquet

    try:
        with _open(path) as handle, pyarrow.parquet.ParquetFile(handle, page_checksum_verification=True) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"data {path}: not a readable Parquet file: {str(error).splitlines()[0][:200]}") from None


def _json_lines(path: Path | str) -> Iterator[dict]:
    """JSON lines, or one JSON list of objects."""
    try:
        yield from _json_records(path)
    except UnicodeDecodeError as error:
        raise DataError(f"data {path}: not UTF-8 text: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise DataError(f"data {path}: cannot be read: {error.strerror}") from None


def _json_records(path: Path | str) -> Iterator[dict]:
    with io.TextIOWrapper(_open(path), encoding="utf-8-sig") as handle:  # some editors begin a file with a byte-order mark
        head = handle.read(1)
        handle.seek(0)
        if head == "[":
            try:
                yield from json.load(handle)
            except json.JSONDecodeError as error:
                raise DataError(f"data {path}: not valid JSON: {error}") from None
            return
        for number, line in enumerate(handle, 1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"data {path}: line {number} is not JSON: {error.msg} at column {error.colno}") from None
