"""The processes that train one model together, one a device, as torchrun starts them; `ALONE` where there is one.

    torchrun --nproc-per-node 4 -m tu_train run ...

Whoever trains calls the same few functions of its `Ranks` however many there are: for one process they hand back what
they are given. Control messages (errors, counts, what a rank found) go over gloo on the host, so a rank may be busy for
long before it answers; only the model's shards go over the devices' own network.

What one rank alone runs into ends all of them, with one line that names it. A rank that is gone is noticed by those who
wait for it: at once where its connections close with it, after TIMEOUT where it only stands still.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from shared.console import quiet
from shared.errors import ConfigError, UserError, printable
from shared.lm.models import choose_device

T = TypeVar("T")
P = TypeVar("P")

TIMEOUT = timedelta(minutes=30)
"""that a rank waits for another: one may be reading data or writing a model meanwhile"""
LOST = ("gloo", "nccl", "connection closed", "connection reset", "connection refused", "broken pipe", "socket", "tcpstore", "timed out")
"""in what torch raises when another rank is gone"""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""of a disk that takes no more"""
GO_ON = "the checkpoints in OUT.unfinished are good: start all ranks again, with --resume where there is one"


class Ended(SystemExit):
    """Another rank has run into an error, and says which."""


class Ranks:
    """One process: everything is its own."""

    number, count = 0, 1
    control: Any = None
    """the process group of control messages, where there are several"""

    @property
    def leads(self) -> bool:
        """Whether this is the one that prints and writes logs, cards and the model."""
        return self.number == 0

    def device(self, asked: str | None) -> torch.device:
        """Where this rank's part of the model is. Raises ConfigError."""
        return choose_device(asked)

    def gather(self, value: T) -> list[T]:
        """That of each rank, in order."""
        return [value]

    def together(self, work: Callable[[], T]) -> T:
        """Every rank does it; what a user can mend on one of them ends all of them, said once."""
        return work()

    def first(self, work: Callable[[], T]) -> T | None:
        """Rank 0 does it while the others wait; they get None."""
        return work()

    @contextmanager
    def alike(self) -> Iterator[None]:
        """Inside, all ranks run into the same errors, which rank 0 says for all."""
        yield

    def in_turn(self, work: Callable[[], T]) -> T:
        """Done by one rank of each machine at a time, so that a machine holds one whole model and not many."""
        return work()

    def any(self, asked: bool) -> bool:
        """Whether it is so on some rank."""
        return asked

    def add(self, numbers: dict[str, float], names: Sequence[str]) -> None:
        """Makes those numbers the sums over all ranks; a name that no rank has stays out."""

    @contextmanager
    def adding_to(self, state: dict[str, Tensor]) -> Iterator[None]:
        """What is added to the tensors of `state` inside, all ranks add together."""
        yield

    def each(self, parts: Sequence[P], work: Callable[[P], T]) -> list[T]:
        """`work` of every part, in order; each part is the work of one rank, and all have as many."""
        return [work(part) for part in parts]

    def gradient_norm(self, parameters: Sequence[Tensor], most: float) -> Tensor:
        """Over all parameters, before they are scaled down to a norm of `most`; still on the device."""
        return torch.nn.utils.clip_grad_norm_(parameters, most)


ALONE = Ranks()


class Several(Ranks):
    """This process is rank `number` of `count`."""

    def __init__(self, number: int, count: int, local: int, control: Any) -> None:
        self.number, self.count, self.local, self.control = number, count, local, control

    def device(self, asked: str | None) -> torch.device:
        kind = asked or ("cuda" if torch.cuda.is_available() else "cpu")
        if kind not in ("cpu", "cuda"):
            raise ConfigError(f"--device {asked}: {self.count} ranks choose their own devices; give cuda or cpu, or leave it out")
        return choose_device(f"cuda:{self.local}" if kind == "cuda" else "cpu")

    def gather(self, value: T) -> list[T]:
        found: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(found, value, group=self.control)
        return found

    def together(self, work: Callable[[], T]) -> T:
        made, error = None, None
        try:
            made = work()
        except Exception as caught:  # of whatever kind, or the others would wait for an answer to another question
            error = caught
        told = self.gather(error and _told(error))
        if any(told):
            self._end(error, told)
        return made  # type: ignore[return-value]

    def _end(self, error: Exception | None, told: Sequence[Any]) -> NoReturn:
        if error is not None and (self.leads or not isinstance(error, (UserError, OSError))):
            raise error
        if not self.leads:
            raise Ended(2)
        rank = next(rank for rank, text in enumerate(told) if text)
        if isinstance(told[rank], tuple):  # whoever writes knows what to say of a full disk
            number, why, name = told[rank]
            raise OSError(number, f"{why}, on rank {rank}", name)
        raise ConfigError(f"rank {rank}: {told[rank]}")

    def first(self, work: Callable[[], T]) -> T | None:
        return self.together(lambda: work() if self.leads else None)

    @contextmanager
    def alike(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            if self.leads:
                raise
            raise Ended(2) from None

    def in_turn(self, work: Callable[[], T]) -> T:
        made: list[T] = []
        for turn in range(max(self.gather(self.local)) + 1):
            self.together(lambda mine=turn == self.local: made.append(work()) if mine else None)
        return made[0]

    def any(self, asked: bool) -> bool:
        return any(self.gather(asked))

    def add(self, numbers: dict[str, float], names: Sequence[str]) -> None:
        # In the order of ranks, so that the sum is the same number on each of them.
        each = self.gather({name: numbers[name] for name in names if name in numbers})
        for name in names:
            if found := [own[name] for own in each if name in own]:
                numbers[name] = sum(found)

    @contextmanager
    def adding_to(self, state: dict[str, Tensor]) -> Iterator[None]:
        before = {name: value.clone() for name, value in state.items()}
        yield
        if not before:
            return
        added = {name: (value - before[name]).cpu() for name, value in state.items() if not torch.equal(value, before[name])}
        each = self.gather(added)
        for name in dict.fromkeys(name for own in each for name in own):
            state[name].copy_(before[name] + sum(own[name] for own in each if name in own).to(state[name].device))  # type: ignore[union-attr]

    def each(self, parts: Sequence[P], work: Callable[[P], T]) -> list[T]:
        rounds = -(-len(parts) // self.count)
        mine = [work(parts[min(turn * self.count + self.number, len(parts) - 1)]) for turn in range(rounds)]
        found = self.gather(mine)
        return [found[at % self.count][at // self.count] for at in range(len(parts))]

    def gradient_norm(self, parameters: Sequence[Tensor], most: float) -> Tensor:
        norm: Any = torch.nn.utils.clip_grad_norm_(parameters, most)
        return norm.full_tensor()


def _told(error: Exception) -> str | tuple[int, str, str | None]:
    """What the others are told of it; of a full disk what makes the same error of it."""
    name = getattr(error, "filename", None)
    if isinstance(error, OSError) and error.errno in FULL:
        return error.errno, error.strerror or str(error), name
    return f"{name or ''} {error}".strip() or type(error).__name__


@contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks that torchrun's environment speaks of. Where another one is gone, the process ends with code 2 and a
    line."""
    asked = _number("WORLD_SIZE", 1)
    if asked == 1:
        yield ALONE
        return
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise ConfigError(f"WORLD_SIZE is {asked} but {', '.join(missing)} not set: start several ranks with torchrun, or unset WORLD_SIZE")
    count, number, local = asked, _number("RANK"), _number("LOCAL_RANK")
    _number("MASTER_PORT")
    if number >= count:
        raise ConfigError(f"RANK is {number}, but WORLD_SIZE {count}: ranks are numbered from 0; start them with torchrun, or unset both")
    cuda = torch.cuda.is_available()
    if number:
        quiet()
    try:
        if cuda and local < torch.cuda.device_count():
            torch.cuda.set_device(local)
        ours = not torch.distributed.is_initialized()  # or whoever called us has made it, and ends it
        if ours:
            torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=TIMEOUT)
        yield Several(number, count, local, torch.distributed.new_group(backend="gloo", timeout=TIMEOUT))
        if ours:
            torch.distributed.destroy_process_group()
    except RuntimeError as error:
        if not _lost(error):
            raise
        # Said by each that is left: nobody knows who of them is still there.
        print(f"rank {number}: another rank is gone ({printable(_last_words(error))}); {GO_ON}", file=sys.stderr, flush=True)
        # Not through the interpreter's own end, which would wait for threads that wait for the one that is gone.
        sys.stdout.flush()
        os._exit(2)


def started(asked: int | None = None) -> tuple[int, int]:
    """-> the number of this process, and how many torchrun has started; else that of one of as many as are `asked` for.
    Raises ConfigError for another number than was started."""
    count = _number("WORLD_SIZE", 1)
    if count == 1:
        return 0, asked or 1
    if asked not in (None, count):
        raise ConfigError(f"--ranks {asked}: torchrun has started {count}; leave --ranks out, or start without torchrun")
    return _number("RANK"), count


def _number(name: str, least: int = 0) -> int:
    """Of torchrun's environment; what is not there is its smallest value. Raises ConfigError for what is no number."""
    text = os.environ.get(name, str(least))
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < least:
        raise ConfigError(f"{name} is {text!r}, expected a number from {least} on, as torchrun sets it; start with torchrun, or unset it")
    return int(text)


def _lost(error: BaseException) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, torch.distributed.DistError) or any(word in text for word in LOST)


def _last_words(error: BaseException) -> str:
    line = " ".join(str(error).split())
    return line.rpartition("] ")[2][:100] or type(error).__name__


def agree(ranks: Ranks, facts: Mapping[str, Any]) -> None:
    """Raises ConfigError naming the rank and the fact where one has another than rank 0: other files, settings or
    versions."""

    def compare() -> None:
        for number, own in enumerate(each):
            for name in sorted(each[0].keys() | own.keys()):
                if own.get(name) != each[0].get(name):
                    what, theirs, ours = name.removeprefix("settings."), _shown(own.get(name)), _shown(each[0].get(name))
                    raise ConfigError(f"rank {number}: {what} is {theirs}, but {ours} on rank 0; give all ranks the same files, settings "
                                      "and versions")  # fmt: skip

    each = ranks.gather(dict(facts))
    with ranks.alike():
        compare()


def _shown(value: Any) -> str:
    return "not given" if value is None else repr(value)[:60]


def refuse(ranks_of: str) -> None:
    """Raises ConfigError where torchrun started several ranks of a command that one process runs."""
    if _number("WORLD_SIZE", 1) > 1:
        raise ConfigError(f"{ranks_of} runs in one process; start it without torchrun (several ranks are for tu-train run and finetune)")
