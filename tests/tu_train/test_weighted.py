"""Rows of a store as a data set for other trainers: the same tokens, weights and references as in training, verified
and read part by part."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from shared.data.datasets import load_rows
from shared.errors import ConfigError, DataError, StoreError
from shared.store.scores import open_store
from shared.weighting.selection import Selection
from tests.conftest import build_sentencepiece
from tests.tu_train.conftest import FORGET, RETAIN, ROWS, score
from tu_score import open_scores
from tu_train import Pairs, WeightedDataset, collate
from tu_train.data.batches import columns_to_read, forget_items, item_of_row

HARD = Selection(tokens="hard", keep=0.3)


def expected(store, selection):
    """[L] of each entry, token by token."""
    for row in open_store(store).rows(columns_to_read(open_store(store))):
        item = item_of_row(row, selection=selection, where="")
        weight, reference = dict(zip(item.positions, item.weights, strict=True)), dict(zip(item.positions, item.ref_logp, strict=True))
        places = range(len(item.ids))
        yield {
            "input_ids": item.ids,
            "labels": [item.ids[i] if weight.get(i, 0) > 0 else -100 for i in places],
            "loss_weights": [weight.get(i, 0.0) for i in places],
            "reference_logps": [reference.get(i, 0.0) for i in places],
        }


@pytest.fixture(scope="module", params=["byte level", "sentencepiece", "Spanish"])
def any_store(request, target, tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("weighted"), target
    if request.param == "sentencepiece":
        model = shutil.copytree(request.getfixturevalue("tiny_model"), folder / "model")
        build_sentencepiece().save_pretrained(model)
    data = {"data": "atlas:forget:language=es", "limit": 5} if request.param == "Spanish" else {}
    return score(model, folder / "store", **data), model


@pytest.mark.parametrize("choice", [{"tokens": "all"}, {"keep": 0.3}, {"tokens": "soft", "soft": "linear"}], ids=str)
def test_rows_are_those_of_training(any_store, choice):
    store, model = any_store
    rows = WeightedDataset(store, model=model, **choice)
    wanted = list(expected(store, Selection(**choice)))
    assert len(rows) == len(wanted)
    for row, other in zip(rows, wanted, strict=True):
        assert {name: values.dtype for name, values in row.items()} == {
            "input_ids": torch.int64, "labels": torch.int64, "loss_weights": torch.float32, "reference_logps": torch.float32,
        }  # fmt: skip
        for name, values in other.items():
            assert row[name].tolist() == pytest.approx(values, abs=0), name
    assert rows[-1]["input_ids"].tolist() == wanted[-1]["input_ids"]


def test_a_store_that_was_opened_does_as_a_path(scores):
    ours = WeightedDataset(open_scores(scores), keep=0.3)
    assert len(ours) == ROWS and ours[0]["loss_weights"].tolist() == WeightedDataset(scores, keep=0.3)[0]["loss_weights"].tolist()


def test_rows_without_a_weight_are_left_out_and_said(scores, capsys):
    values = np.concatenate([v[~np.isnan(v)] for v in open_scores(scores).importance()])
    threshold = float(np.sort(values)[-3])
    rows = WeightedDataset(scores, threshold=threshold)
    assert 0 < len(rows) < ROWS and f"{ROWS - len(rows)} of {ROWS} forget rows have no token that important" in capsys.readouterr().err
    assert all(row["loss_weights"].sum() > 0 for row in rows)
    names = [row["example_id"] for row in open_store(scores).rows(["example_id", "importance"])
             if max(v for v in row["importance"] if v is not None) >= np.float32(threshold)]  # fmt: skip
    assert [rows.name(i) for i in range(len(rows))] == names


def test_given_tokens(scores):
    first = {row["example_id"]: row["is_target"].index(True) for row in open_store(scores).rows(["example_id", "is_target"])}
    rows = WeightedDataset(scores, tokens="given", given={name: [at] for name, at in first.items()})
    assert [row["loss_weights"].nonzero()[:, 0].tolist() for row in rows] == [[at] for at in first.values()]


def test_the_order_is_that_of_training(scores):
    rows, store = WeightedDataset(scores, keep=0.3), open_store(scores)
    for seed, epoch in ((0, 0), (0, 1), (7, 3)):
        items = forget_items(store, lambda row: item_of_row(row, selection=HARD, where=""), seed=seed, epoch=epoch)
        assert [rows.name(i) for i in rows.order(seed=seed, epoch=epoch)] == [item.name for item in items if item.positions]


def test_parts_are_read_when_asked_for_verified_and_few_are_kept(scores, tmp_path):
    store = shutil.copytree(scores, tmp_path / "store")
    rows = WeightedDataset(store, tokens="all", parts=1)
    read = []
    part, rows.source = rows.source.part, open_store(store)
    object.__setattr__(rows.source, "part", lambda index, columns: read.append(index) or part(index, columns))
    for index in rows.order():
        rows[index]
        assert len(rows._held) == 1
    assert sorted(read) == list(range(len(rows.source.manifest["parts"]))) and len(read) > 1  # each once
    damaged = store / rows.source.manifest["parts"][0]["file"]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    rows._held.clear()
    with pytest.raises(StoreError, match=damaged.name):
        rows[0]
    rows[len(rows) - 1]
    with pytest.raises(StoreError, match=damaged.name):
        WeightedDataset(store)


def test_workers_read_the_same(scores):
    rows = WeightedDataset(scores, keep=0.3)
    rows[0]
    copy = pickle.loads(pickle.dumps(rows))  # noqa: S301
    assert not copy._held and copy[3]["loss_weights"].tolist() == rows[3]["loss_weights"].tolist()
    alone, two = (list(DataLoader(rows, batch_size=4, collate_fn=collate, num_workers=n)) for n in (0, 2))
    assert all(torch.equal(a[name], b[name]) for a, b in zip(alone, two, strict=True) for name in a)


def test_rows_of_data_are_laid_out_as_the_store(target, tmp_path):
    store = score(target, tmp_path / "store", template="plain", system="Be brief.")
    forget = WeightedDataset(store, model=target, tokens="all")
    retain = WeightedDataset.of_data(FORGET, model=target, like=forget)
    assert [row["input_ids"].tolist() for row in retain] == [row["input_ids"].tolist() for row in forget]
    assert [row["labels"].tolist() for row in retain] == [row["labels"].tolist() for row in forget]
    assert all(row["reference_logps"].eq(0).all() and row["loss_weights"].max() == 1 for row in retain)
    assert WeightedDataset.of_data(FORGET, model=target)[0]["input_ids"].tolist() != retain[0]["input_ids"].tolist()
    assert len(WeightedDataset.of_data(FORGET, model=target, limit=2)) == 2


def test_pairs_go_around_the_retain_rows(scores, target):
    forget, retain = WeightedDataset(scores), WeightedDataset.of_data(RETAIN, model=target, limit=4)
    pairs = Pairs(forget, retain)
    assert len(pairs) == len(forget)
    assert [pair["retain"]["input_ids"].tolist() for pair in pairs] == [retain[i % 4]["input_ids"].tolist() for i in range(len(forget))]
    batch = collate([pairs[0], pairs[-1]], pad_id=3)
    assert set(batch) == {"forget", "retain"}
    alone = collate([retain[0], retain[(len(forget) - 1) % 4]], pad_id=3)
    assert all(torch.equal(batch["retain"][name], alone[name]) for name in alone)


def test_collate_pads_on_the_right(scores):
    rows = [WeightedDataset(scores, keep=0.3)[i] for i in range(4)]
    longest = max(len(row["input_ids"]) for row in rows)
    lists = [{name: values.tolist() for name, values in row.items()} | {"more": "text"} for row in rows]
    for batch in (collate(rows, pad_id=7), collate(lists, pad_id=7)):
        assert set(batch) == {"input_ids", "attention_mask", "labels", "loss_weights", "reference_logps"}
        for name, pad in {"input_ids": 7, "labels": -100, "loss_weights": 0, "reference_logps": 0}.items():
            assert batch[name].shape == (4, longest)
            for found, row in zip(batch[name], rows, strict=True):
                assert found.tolist() == row[name].tolist() + [pad] * (longest - len(row[name]))
        assert batch["attention_mask"].sum(1).tolist() == [len(row["input_ids"]) for row in rows]


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda s, m: WeightedDataset(s, tokens="hrd"), ConfigError, "WeightedDataset: tokens: got 'hrd' (did you mean 'hard'?)"),
        (lambda s, m: WeightedDataset(s, tokens="given"), ConfigError, "go together"),
        (lambda s, m: WeightedDataset(s, threshold=1.0), ConfigError, "no token of"),
        (lambda s, m: WeightedDataset(s, parts=0), ConfigError, "parts is 0, expected at least 1"),
        (lambda s, m: WeightedDataset(s / "no"), StoreError, "no score store here"),
        (lambda s, m: WeightedDataset.of_data("no.jsonl", model=m), DataError, "no.jsonl"),
        (lambda s, m: WeightedDataset.of_data(RETAIN, model=m, limits=3), ConfigError, "unknown field 'limits' (did you mean 'limit'?)"),
        (lambda s, m: WeightedDataset(s)[ROWS], IndexError, f"row {ROWS} of {ROWS}"),
        (lambda s, m: collate([]), DataError, "collate: no rows"),
        (lambda s, m: collate([{"input_ids": [1]}]), DataError, "collate: row 0 has entries of the lengths"),
        (lambda s, m: Pairs(WeightedDataset(s), []), DataError, "Pairs: no retain rows"),
    ],
)
def test_mistakes_get_one_line(scores, target, call, kind, said):
    with pytest.raises(kind) as caught:
        call(scores, target)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_store_of_another_model_is_refused(scores, tiny_base):
    with pytest.raises(StoreError, match="made with another model"):
        WeightedDataset(scores, model=tiny_base)
    assert len(WeightedDataset(scores)) == len(load_rows(FORGET))
