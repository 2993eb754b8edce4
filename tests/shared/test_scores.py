"""The store itself, without a model: writing, reading, rewriting, locking, formats, places."""

import pyarrow as pa
import pytest

from shared.errors import StoreError
from shared.parts import OPTIONAL, SCHEMA, TOKEN_COLUMNS
from shared.scores import Store, Writer, claim, open_store, rewrite, schema


def example(name: str, length: int = 6) -> dict:
    row: dict = {column: [None] * length for column in TOKEN_COLUMNS}
    row.update(example_id=name, spans=[{"start": 0, "end": 1}], input_ids=list(range(length)), tokens=list("abcdefghijkl"[:length]))
    row.update(is_target=[False] + [True] * (length - 1), importance=[None] + [k / length for k in range(1, length)])
    row.update(logprob=[None] + [-float(len(name) + k) for k in range(1, length)])
    return row


def columns_of(rows: list[dict]) -> dict[str, list]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def write(where, parts=((4, 6), (3,), (5, 2)), **plan) -> Store:
    """A store of a row for each length."""
    with claim(where):
        writer = Writer(where, {"fingerprints": {"data": "by hand"}, **plan})
        for index, lengths in enumerate(parts):
            writer.write_part(index, columns_of([example(f"{index}/{k}", n) for k, n in enumerate(lengths)]))
        writer.finish(recipe=None, created_at="then")
    return open_store(where)


def halve(table: pa.Table) -> pa.Table:
    rows = table.to_pylist()
    for row in rows:
        row["importance"] = [None if v is None else v / 2 for v in row["importance"]]
    return pa.Table.from_pylist(rows, schema=table.schema)


@pytest.fixture
def store(tmp_path) -> Store:
    return write(tmp_path / "store")


# --- schema


def test_optional_columns_stand_behind_the_others_in_one_order():
    assert schema() == SCHEMA and schema([]).names == SCHEMA.names
    both = schema(["top_ids", "tempered_entropy"])
    assert both.names == [*SCHEMA.names, "tempered_entropy", "top_ids"] and both == schema(["tempered_entropy", "top_ids"])
    assert schema(OPTIONAL).field("span_deltas").type == pa.list_(pa.list_(pa.float32()))
    with pytest.raises(StoreError, match="'topmost', which this version does not know"):
        schema(["topmost"])


def test_optional_columns_are_stored_and_a_part_without_them_is_refused(tmp_path):
    writer = Writer(tmp_path, {"optional": ["span_deltas"]})
    rows = [{**example("a", 3), "span_deltas": [[None, 1.0, None], []]}]
    writer.write_part(0, columns_of(rows))
    with pytest.raises(KeyError, match="span_deltas"):
        writer.write_part(1, columns_of([example("b", 3)]))
    writer.finish()
    store = open_store(tmp_path)
    assert store.optional == ["span_deltas"]
    assert [r["span_deltas"] for r in store.rows()] == [[[None, 1.0, None], []]]


# --- rewriting


def test_rewrite_changes_parts_and_manifest_and_leaves_nothing_beside(store):
    before, names = list(store.rows()), store.place.names()
    new = rewrite(store, halve, recipe={"alpha": 0.5})
    assert store.place.names() == names
    assert new.manifest["recipe"] == {"alpha": 0.5} and new.manifest["created_at"] == "then"
    assert [r["importance"][-1] for r in new.rows()] == [r["importance"][-1] / 2 for r in before]
    assert list(new.rows(["example_id", "logprob"])) == [{k: r[k] for k in ("example_id", "logprob")} for r in before]
    with pytest.raises(StoreError, match="rewritten while it was read"):
        list(store.rows())
