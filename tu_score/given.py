"""`tu-score recipe --importance`: importance from a column of the user's own Parquet file, in place of a recipe.

The file has a row for each example of the store, in any order: `example_id`, and a list with a value for each token of
`input_ids` (what stands off target is not read), or with one for each target token. Every length and every value is
compared with the store before anything is written; the parts are then replaced at once (shared.store.rewrite). Memory:
the file, and 8 bytes a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shared.errors import ConfigError, DataError, StoreError, nearest, printable
from shared.files.fs import open_regular
from shared.settings import LARGEST_NUMBER
from shared.store.pages import unpacked_sizes
from shared.store.parts import LARGEST_PART, LARGEST_RATIO, flat, sha256
from shared.store.rewrite import rewrite
from shared.store.scores import Store
from shared.weighting.importance import COLUMN, FILE, NORM
from shared.weighting.norms import NormName, normalise
from tu_score.recipe import put_importance

IDS = "example_id"
BYTES_A_TOKEN, BYTES_A_ROW = 64, 4096
"""of a file: more than the values of any store need"""
ByExample = Mapping[str, np.ndarray]
"""by example id, [values] float64, NaN where null"""


def give_importance(store: Store, where: str, norm: NormName | None = None) -> Store:
    """Replaces importance by the column that `where` names: FILE.parquet, or FILE.parquet:COLUMN (else `importance`).

    `norm`: brings the values of each example to 0–1 first. The manifest records the file's hash and the column as the
    recipe. Raises ConfigError for a file that cannot be read, DataError naming the example that does not fit.
    """
    path, column = _named(where)
    data = _bytes(path, store)
    values = _read(path, data, column, store)
    _check_examples(path, store, values)
    recipe = {FILE: sha256(data), COLUMN: column, **({NORM: norm} if norm else {})}
    label = f"{path}: column {column!r}"
    for table in store.batches([IDS, "is_target"]):  # all of it, before anything is written
        _importance(table, values, label, norm)
    return rewrite(store, lambda table: _put(table, _importance(table, values, label, norm)), recipe=recipe)


def _named(where: str) -> tuple[str, str]:
    path, colon, column = where.rpartition(":")
    if not (colon and path.endswith(".parquet")):
        path, column = where, "importance"
    if not path.endswith(".parquet"):
        raise ConfigError(f"--importance {where}: expected FILE.parquet or FILE.parquet:COLUMN")
    return path, column


def _bytes(path: str, store: Store) -> bytes:
    most = BYTES_A_TOKEN * store.manifest["tokens"] + BYTES_A_ROW * len(store) + LARGEST_PART
    try:
        with open_regular(Path(path)) as handle:
            data = handle.read(most + 1)
    except OSError as error:
        raise ConfigError(f"--importance {path}: cannot be read: {error.strerror or error}") from None
    if len(data) > most:
        raise DataError(f"{path}: has more than {most:,} bytes, which is more than values for the store's tokens; keep two columns")
    return data


def _read(path: str, data: bytes, column: str, store: Store) -> ByExample:
    """The two columns, once they are known to be no more than the store's tokens ask for."""
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            _check_columns(path, file.schema_arrow, column)
            _check_size(path, data, file.metadata, column, store)
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True, read_dictionary=[IDS]) as file:
            table = file.read(columns=[IDS, column], use_threads=False).combine_chunks()
            ids = table[IDS].combine_chunks()
            ids = ids.dictionary_encode() if not pa.types.is_dictionary(ids.type) else ids
            if ids.null_count or len(set(ids.indices.to_pylist())) < len(ids):  # nothing is made of texts that stand there twice
                raise DataError(f"{path}: its {IDS} is null somewhere, or stands there twice; write one row for each example")
            names = ids.dictionary.take(ids.indices).to_pylist()
            lists = [_floats(value) for value in table[column].combine_chunks()]
    except (pa.ArrowException, OSError, ValueError, OverflowError, StoreError) as error:
        why = printable(str(error).splitlines()[0][:200]) if str(error) else type(error).__name__
        raise DataError(f"{path}: not a readable Parquet file: {why}") from None
    return dict(zip(names, lists, strict=True))


def _floats(value: pa.Scalar) -> np.ndarray:
    """[values] float64; a null list has none."""
    inner = value.values  # type: ignore[attr-defined]
    return np.zeros(0) if inner is None else inner.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _check_columns(path: str, columns: pa.Schema, column: str) -> None:
    for name in (IDS, column):
        if columns.names.count(name) != 1:
            raise DataError(f"{path}: no column {name!r}{nearest(name, columns.names)}; expected {IDS} and FILE.parquet:COLUMN")
    kind, ids = columns.field(column).type, columns.field(IDS).type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not listed or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise DataError(f"{path}: its column {column!r} holds {str(kind)[:60]}, expected lists of numbers")
    ids = ids.value_type if pa.types.is_dictionary(ids) else ids
    if not (pa.types.is_string(ids) or pa.types.is_large_string(ids)):
        raise DataError(f"{path}: its column {IDS} holds {str(ids)[:60]}, expected text")


def _check_size(path: str, data: bytes, about: pq.FileMetaData, column: str, store: Store) -> None:
    """A few bytes can unpack to gigabytes."""
    tokens, unpacked = store.manifest["tokens"], 0
    if about.num_rows != len(store):
        raise DataError(f"{path}: has {about.num_rows} rows, the store {store.folder} has {len(store)} examples; write one for each")
    for chunk in (about.row_group(g).column(c) for g in range(about.num_row_groups) for c in range(about.num_columns)):
        values = chunk.path_in_schema.startswith(f"{column}.")
        if values and chunk.num_values > tokens + len(store):  # an empty list counts as one
            raise DataError(f"{path}: its column {column!r} holds more values than the store's {tokens} tokens")
        if values or chunk.path_in_schema == IDS:
            unpacked += max(chunk.total_uncompressed_size, sum(unpacked_sizes(data, chunk)))
    if unpacked > LARGEST_RATIO * len(data) + LARGEST_PART:
        raise DataError(f"{path}: its {len(data)} bytes unpack to {unpacked}, more than any column of importance")


def _check_examples(path: str, store: Store, values: ByExample) -> None:
    """As many rows as examples, and no id twice: what is not missing is known."""
    for name in (str(row) for table in store.batches([IDS]) for row in table[IDS].to_pylist()):
        if name not in values:
            raise DataError(f"{path}: no row for the example {printable(name)}; {IDS} must be that of the store's rows")


def _importance(table: pa.Table, values: ByExample, label: str, norm: NormName | None) -> np.ndarray:
    """Of one part: values at its target tokens, [N] float64. Raises DataError for an example that does not fit."""
    out = []
    targets, starts = flat(table, "is_target")
    for name, start, end in zip(table[IDS].to_pylist(), starts, starts[1:], strict=False):
        given, at = values[name], np.flatnonzero(targets[start:end])
        if len(given) not in (end - start, len(at)):
            raise DataError(f"{label}: {printable(name)} has {len(given)} values, expected {end - start}, one a token, or {len(at)}, "
                            "one a target token")  # fmt: skip
        own = given[at] if len(given) == end - start else given
        wrong = np.flatnonzero(~(np.abs(own) <= LARGEST_NUMBER))
        if len(wrong):
            raise DataError(f"{label}: {printable(name)} has null, NaN or infinity at token {at[wrong[0]]}, which is a target; "
                            "expected a number")  # fmt: skip
        own = normalise(own, np.array([0, len(own)]), norm) if norm else own
        if len(own) and not (own.min() >= 0 and own.max() <= 1):
            raise DataError(f"{label}: {printable(name)} has values from {own.min():g} to {own.max():g}, expected 0 to 1; "
                            "--recipe norm=minmax (or rank, zscore, max) brings each example there")  # fmt: skip
        out.append(own)
    return np.concatenate(out) if out else np.zeros(0)


def _put(table: pa.Table, values: np.ndarray) -> pa.Table:
    at, _ = flat(table, "is_target")
    return put_importance(table, at.astype(bool), values)
