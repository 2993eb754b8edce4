"""A step's rows dealt out to several ranks, a function of the rows alone: no rank asks another.

A forget row and the retain row beside it stay together. The longest pairs are dealt first, each to the rank that has
the fewest tokens, so that all carry nearly as many; then each rank cuts its own pairs into forward passes. Ranks with
fewer passes than others fill up with one that counts nothing: the weights are put together by all, pass by pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

from tu_train.data.batches import Pair, PassRows, cut, tokens_of


def dealt(passes: list[PassRows], rank: int, ranks: int, *, batch_size: int, batch_tokens: int) -> list[PassRows]:
    """The passes of a rank; those of a step where there is one rank. As many for each, of at most `batch_size` forget
    rows and `batch_tokens` tokens."""
    return dealt_to_all(passes, ranks, batch_size=batch_size, batch_tokens=batch_tokens)[rank]


def dealt_to_all(passes: list[PassRows], ranks: int, *, batch_size: int, batch_tokens: int) -> list[list[PassRows]]:
    """The same of every rank, in order."""
    if ranks == 1:
        return [passes]
    pairs: list[Pair] = [pair for rows in passes for pair in zip_longest(rows.forget, rows.retain)]
    each = [_cut(own, batch_size, batch_tokens) for own in shares(pairs, ranks)]
    corpus, filler, most = passes[0].corpus, _filler(pairs), max(map(len, each))
    return [[replace(rows, corpus=corpus) for rows in mine + [filler] * (most - len(mine))] for mine in each]


def shares(pairs: Sequence[Pair], ranks: int) -> list[list[Pair]]:
    """The pairs of each rank, in their order in the step."""
    loads, own = [0] * ranks, [[] for _ in range(ranks)]
    for at in sorted(range(len(pairs)), key=lambda k: -cost(pairs[k])):
        least = loads.index(min(loads))
        loads[least] += cost(pairs[at])
        own[least].append(at)
    return [[pairs[at] for at in sorted(indices)] for indices in own]


def cost(pair: Pair) -> int:
    """Tokens."""
    return sum(tokens_of(item) for item in pair if item)


def _cut(pairs: list[Pair], batch_size: int, batch_tokens: int) -> list[PassRows]:
    return [rows for at in range(0, len(pairs), batch_size) for rows in cut(pairs[at : at + batch_size], batch_tokens)]


def _filler(pairs: Sequence[Pair]) -> PassRows:
    """The cheapest pair of the step, which runs through everything that a counted one does."""
    return replace(cut([min(pairs, key=cost)], 1)[0], counts=False)
