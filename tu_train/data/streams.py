"""The steps of a run from the n-th on, a function of seed and position alone: a resumed run goes on where it was, and
epochs that are done are not read.

Several forget corpora take turns step by step: all rows of a step are of one corpus. A corpus whose rows of an epoch
are used up is passed over until the next epoch, so that each row is read once an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from tu_train.data.batches import Item, PassRows, forget_items, steps
from tu_train.data.sources import ForgetRows, RetainRows

Stream = Callable[[int], Iterator[list[PassRows]]]
"""`stream(n)`: the passes of step n, and of all steps after it"""


@dataclass(frozen=True, kw_only=True)
class Order:
    """How often rows are read, in which order, and how many at a time."""

    epochs: int
    seed: int | None
    """None: as they stand in the data"""
    batch_size: int
    """rows a batch"""
    accumulate: int
    """batches a step"""
    batch_tokens: int
    """tokens a forward pass"""
    limit: int | None = None
    """only the first rows of a store"""
    most: int | None = None
    """steps, at most"""

    @property
    def rows_a_step(self) -> int:
        return self.batch_size * self.accumulate

    def steps(self, *rows: int) -> int:
        """Of all epochs together; `rows` of each corpus."""
        every = self.epochs * sum(map(self.steps_an_epoch, rows))
        return every if self.most is None else min(every, self.most)

    def steps_an_epoch(self, rows: int) -> int:
        """The last one of an epoch may be smaller."""
        return -(-rows // self.rows_a_step)

    def cut(self, forget: Iterator[Item] | None, retain: Iterator[Item] | None) -> Iterator[list[PassRows]]:
        return steps(forget, retain, batch_size=self.batch_size, batch_tokens=self.batch_tokens, accumulate=self.accumulate)

    def ended(self, stream: Stream) -> Stream:
        """The stream up to the last step that is wanted."""
        most = self.most
        return stream if most is None else lambda first: islice(stream(first), max(0, most - first))


def unlearning_stream(corpora: Sequence[tuple[ForgetRows, RetainRows | None]], order: Order) -> Stream:
    """Forget rows epoch by epoch, beside each a retain row where there are any."""
    turns = turns_of([order.steps_an_epoch(forget.count) for forget, _ in corpora])

    def begin(first: int) -> Iterator[list[PassRows]]:
        start, inside = divmod(first, len(turns))
        done = [min(forget.count, turns[:inside].count(k) * order.rows_a_step) for k, (forget, _) in enumerate(corpora)]
        others = [
            retain.start(start * forget.count + rows, corpus=k) if retain else None
            for k, ((forget, retain), rows) in enumerate(zip(corpora, done, strict=True))
        ]
        for epoch in range(start, order.epochs):
            each = [
                order.cut(_weighted(forget, order, epoch, done[k] if epoch == start else 0), others[k])
                for k, (forget, _) in enumerate(corpora)
            ]
            for corpus in turns[inside if epoch == start else 0 :]:
                passes = next(each[corpus])
                yield [replace(rows, corpus=corpus) for rows in passes] if corpus else passes

    return order.ended(begin)


def turns_of(steps_an_epoch: Sequence[int]) -> list[int]:
    """Whose turn each step of an epoch is: 0, 1, 0, 1, 0, 0 for four steps of the first corpus and two of the other."""
    return [k for n in range(max(steps_an_epoch)) for k, own in enumerate(steps_an_epoch) if n < own]


def _weighted(forget: ForgetRows, order: Order, epoch: int, done: int) -> Iterator[Item]:
    """Rows of an epoch that have a token with a weight, but for the first `done`."""
    rows = forget_items(forget.store, forget.make, seed=order.seed, epoch=epoch, limit=order.limit)
    return islice((item for item in rows if item.positions), done, None)


def finetuning_stream(retain: RetainRows, order: Order) -> Stream:
    """Retain rows alone, epoch by epoch."""

    def begin(first: int) -> Iterator[list[PassRows]]:
        start, inside = divmod(first, order.steps_an_epoch(retain.count))
        done = inside * order.rows_a_step
        rows = retain.start(start * retain.count + done)
        for epoch in range(start, order.epochs):
            yield from order.cut(None, islice(rows, retain.count - (done if epoch == start else 0)))

    return order.ended(begin)
