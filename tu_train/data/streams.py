"""The steps of a run from the n-th on, a function of seed and position alone: a resumed run goes on where it was, and
epochs that are done are not read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from tu_train.data.batches import Item, PassRows, forget_items, steps
from tu_train.data.sources import ForgetRows, RetainRows

Stream = Callable[[int], Iterator[list[PassRows]]]
"""`stream(n)`: the passes of step n, and of all steps after it"""


@dataclass(frozen=True, kw_only=True)
class Order:
    """How often rows are read, in which order, and how many at a time."""

    epochs: int
    seed: int
    batch_size: int
    """rows a batch"""
    accumulate: int
    """batches a step"""
    batch_tokens: int
    """tokens a forward pass"""
    limit: int | None = None
    """only the first rows of a store"""

    @property
    def rows_a_step(self) -> int:
        return self.batch_size * self.accumulate

    def steps(self, rows: int) -> int:
        """Of all epochs together."""
        return self.epochs * self.steps_an_epoch(rows)

    def steps_an_epoch(self, rows: int) -> int:
        """The last one of an epoch may be smaller."""
        return -(-rows // self.rows_a_step)

    def cut(self, forget: Iterator[Item] | None, retain: Iterator[Item] | None) -> Iterator[list[PassRows]]:
        return steps(forget, retain, batch_size=self.batch_size, batch_tokens=self.batch_tokens, accumulate=self.accumulate)


def unlearning_stream(forget: ForgetRows, retain: RetainRows | None, order: Order) -> Stream:
    """Forget rows epoch by epoch, beside each a retain row where there are any."""

    def begin(first: int) -> Iterator[list[PassRows]]:
        start, inside = divmod(first, order.steps_an_epoch(forget.count))
        done = inside * order.rows_a_step
        others = retain.start(start * forget.count + done) if retain else None
        for epoch in range(start, order.epochs):
            rows = forget_items(forget.store, forget.make, seed=order.seed, epoch=epoch, limit=order.limit)
            weighted = (item for item in rows if item.positions)
            for _ in range(done if epoch == start else 0):
                next(weighted)
            yield from order.cut(weighted, others)

    return begin


def finetuning_stream(retain: RetainRows, order: Order) -> Stream:
    """Retain rows alone, epoch by epoch."""

    def begin(first: int) -> Iterator[list[PassRows]]:
        start, inside = divmod(first, order.steps_an_epoch(retain.count))
        done = inside * order.rows_a_step
        rows = retain.start(start * retain.count + done)
        for epoch in range(start, order.epochs):
            yield from order.cut(None, islice(rows, retain.count - (done if epoch == start else 0)))

    return begin
