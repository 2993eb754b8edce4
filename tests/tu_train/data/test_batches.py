"""What the loop reads: order, memory, what an item holds, and how a step is cut."""

import gc
import itertools
import math
import weakref

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from shared.errors import StoreError
from shared.store.scores import Store
from tests.tu_train.conftest import flip_bit, selection, write_store
from tu_train.data.batches import Item, PassRows, cut, endless, forget_items, item_of_row, steps

PART_ROWS = (3, 5, 1, 4)
IDS = [f"hand/{n}" for n in range(sum(PART_ROWS))]


def row(name: str, **columns) -> dict:
    entries = {
        "example_id": name,
        "input_ids": [5, 6, 7, 8, 9, 10],
        "is_target": [False, False, True, True, True, True],
        "logprob": [None, -1.0, -2.0, -3.0, -4.0, -5.0],
        "importance": [None, None, 0.25, 0.75, 0.5, 0.0],
    }
    return {**entries, **columns}


@pytest.fixture
def store(tmp_path) -> Store:
    names = iter(IDS)
    return write_store(tmp_path / "store", [[row(next(names)) for _ in range(n)] for n in PART_ROWS])


def name_of(row: dict) -> str:
    return row["example_id"]


def order(store, **fields):
    return list(forget_items(store, name_of, **{"seed": 0, "epoch": 0, **fields}))


def item(length: int) -> Item:
    return Item([1] * length, [length - 1], np.ones(1, dtype=np.float32))


def test_an_epoch_covers_every_row_once(store):
    for seed, epoch in itertools.product((0, 7), (0, 1, 2)):
        assert sorted(order(store, seed=seed, epoch=epoch)) == sorted(IDS)


def test_the_order_is_told_by_seed_and_epoch_alone(store):
    first = order(store, seed=3, epoch=1)
    np.random.seed(5)
    assert order(Store(store.folder, store.manifest), seed=3, epoch=1) == first
    others = [order(store, seed=s, epoch=e) for s, e in ((3, 0), (3, 2), (4, 1))]
    assert all(other != first for other in others)
    assert first != IDS


class Rows(list):
    """A list that can be watched as it goes."""

    __hash__ = object.__hash__  # type: ignore[assignment]


def test_memory_holds_one_part(store, monkeypatch):
    read, alive, most = Store.part, weakref.WeakSet(), 0
    calls = []

    def part(self, index, columns=None):
        nonlocal most
        gc.collect()
        most = max(most, len(alive) + 1)
        rows = Rows(read(self, index, columns))
        alive.add(rows)
        calls.append(index)
        return rows

    monkeypatch.setattr(Store, "part", part)
    stream = forget_items(store, name_of, seed=0, epoch=0)
    next(stream)
    assert len(calls) == 1  # nothing is read ahead
    assert len(list(stream)) == len(IDS) - 1
    assert sorted(calls) == [0, 1, 2, 3]
    assert most == 1


@pytest.mark.parametrize("limit", [1, 3, 4, 9, 13, 50])
def test_limit_takes_the_first_rows_of_the_store(store, limit):
    assert sorted(order(store, limit=limit)) == sorted(IDS[:limit])


def test_a_damaged_part_is_refused_by_name(store):
    flip_bit(store.folder / "part-00002.parquet")
    with pytest.raises(StoreError, match=r"part-00002\.parquet: its bytes are not those"):
        order(store)


def test_endless_covers_all_each_time_around_in_a_new_order():
    items = list(range(8))
    taken = list(itertools.islice(endless(items, seed=1), 32))
    rounds = [taken[k : k + 8] for k in range(0, 32, 8)]
    assert all(sorted(r) == items for r in rounds)
    assert len({tuple(r) for r in rounds}) == 4
    assert taken == list(itertools.islice(endless(items, seed=1), 32))
    assert taken != list(itertools.islice(endless(items, seed=2), 32))


def make(row, mode, keep=0.5, temperature=0.5):
    return item_of_row(row, selection=selection(mode, keep=keep, temperature=temperature), where="scores")


def test_all_weighs_every_target_alike():
    made = make(row("a"), "all")
    assert made.ids == [5, 6, 7, 8, 9, 10] and made.positions == [2, 3, 4, 5]
    assert made.weights.tolist() == [1, 1, 1, 1]
    assert made.ref_logp is not None and made.ref_logp.tolist() == [-2, -3, -4, -5]


def test_hard_leaves_tokens_of_weight_zero_out():
    made = make(row("a"), "hard")
    assert made.positions == [3, 4] and made.weights.tolist() == [1, 1]
    assert made.ref_logp is not None and made.ref_logp.tolist() == [-3, -4]


def test_soft_is_a_softmax_over_importance_that_sums_to_the_targets():
    made = make(row("a"), "soft")
    shares = [math.exp(v / 0.5) for v in (0.25, 0.75, 0.5, 0.0)]
    assert made.weights == pytest.approx([4 * s / sum(shares) for s in shares], rel=1e-6)
    selective = make(row("a"), "soft", temperature=1e-4)  # the other shares are below float32's smallest number
    assert selective.positions == [3] and selective.weights.tolist() == [4]


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_a_reference_that_is_not_finite_matters_only_where_there_is_weight(value):
    unweighted = row("a", logprob=[None, -1.0, value, -3.0, -4.0, value])
    assert make(unweighted, "hard").positions == [3, 4]
    with pytest.raises(StoreError, match="scores: a has no finite log-probability at a target token"):
        make(unweighted, "all")


@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_a_mode_that_needs_importance_says_where_it_is_missing(mode):
    bare = row("a", importance=[None] * 6)
    with pytest.raises(StoreError, match=f"scores: the store holds no importance, which --tokens {mode} needs"):
        make(bare, mode)
    assert make(bare, "all").positions == [2, 3, 4, 5]


def test_steps_group_rows_and_the_last_is_smaller():
    forget, retain = [item(4) for _ in range(7)], [item(3) for _ in range(2)]
    made = list(steps(iter(forget), endless(retain, seed=0), batch_size=3, batch_tokens=1000))
    assert [[(len(p.forget), len(p.retain)) for p in step] for step in made] == [[(3, 3)], [(3, 3)], [(1, 1)]]
    assert [i for step in made for p in step for i in p.forget] == forget


def test_steps_without_retain_rows_hold_none():
    made = list(steps(iter([item(4)] * 4), None, batch_size=2, batch_tokens=1000))
    assert [[(len(p.forget), len(p.retain)) for p in step] for step in made] == [[(2, 0)], [(2, 0)]]


def test_steps_of_retain_rows_alone_have_no_forget_rows():
    retain = [item(4) for _ in range(5)]
    made = list(steps(None, iter(retain), batch_size=2, batch_tokens=1000))
    assert [[(len(p.forget), len(p.retain)) for p in step] for step in made] == [[(0, 2)], [(0, 2)], [(0, 1)]]
    assert [i for step in made for p in step for i in p.retain] == retain


def tokens(one: PassRows) -> int:
    return sum(len(i.ids) for i in one.forget + one.retain)


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(2, 30), st.one_of(st.none(), st.integers(2, 30))), min_size=1, max_size=12),
    budget=st.integers(1, 90),
)
def test_cut_keeps_order_and_the_budget(lengths, budget):
    if len({retain is None for _, retain in lengths}) == 2:
        lengths = [(forget, None) for forget, _ in lengths]
    pairs = [(item(a), None if b is None else item(b)) for a, b in lengths]
    passes = cut(pairs, budget)
    assert [i for p in passes for i in p.forget] == [f for f, _ in pairs]
    assert [i for p in passes for i in p.retain] == [r for _, r in pairs if r is not None]
    assert all(tokens(p) <= budget or len(p.forget) == 1 for p in passes)
    # No pass could have taken the first pair of the next.
    assert all(tokens(a) + len(b.forget[0].ids) + sum(len(i.ids) for i in b.retain[:1]) > budget for a, b in itertools.pairwise(passes))


@pytest.mark.parametrize(("budget", "sizes"), [(20, [2, 2, 1]), (10, [1] * 5), (1, [1] * 5), (50, [5])])
def test_cut_sizes(budget, sizes):
    assert [len(p.forget) for p in cut([(item(6), item(4))] * 5, budget)] == sizes
