"""Runs within a budget."""

from hypothesis import given
from hypothesis import strategies as st

from shared.budget import within_budget


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 50))
def test_runs_cut_everything_in_order_and_within_the_budget(lengths, budget):
    runs = [list(range(start, end)) for start, end in within_budget(lengths, budget)]
    assert [i for run in runs for i in run] == list(range(len(lengths)))
    assert all(len(run) == 1 or sum(lengths[i] for i in run) <= budget for run in runs)


def test_each_run_is_as_long_as_the_budget_allows():
    assert within_budget([5, 5, 5, 50, 1], 10) == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert within_budget([], 10) == []
