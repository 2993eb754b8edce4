"""Who scores parts: this process, or `--workers` processes with an engine each.

A part's values depend on its rows alone, so any worker can score any part and the store's bytes are the same. The parent owns the store:
it hands out parts, completes and writes what comes back, in whatever order that is. On CUDA each worker sees one device of its own. With
vLLM this is data parallelism, one engine a process: its offline LLM() takes no data_parallel_size and wants a process a rank as well.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from shared.engines import Engine, Request, TokenScores, open_engine
from shared.errors import ConfigError, UserError
from shared.examples import Example
from shared.logprobs import HeadOptions
from tu_score.config import ScoreConfig
from tu_score.signals import score_examples
from tu_score.spans import Masking

PATIENCE_S = 5.0

Scored = list[dict[str, Any]]
Advance = Callable[[int], None]


def open_scorer(config: ScoreConfig, folder: Path, masking: Masking) -> Engine | Pool:
    return Pool(config, folder, masking) if config.workers > 1 else open_one(config, folder)


def open_one(config: ScoreConfig, folder: Path) -> Engine:
    head = HeadOptions(config.head_mib, temperature=config.temperature, top_k=config.topk)
    return open_engine(
        config.engine, folder, dtype=config.dtype, device=config.device, batch_tokens=config.batch_tokens, head=head,
        tensor_parallel=config.tensor_parallel,
    )  # fmt: skip


def score_parts(
    scorer: Engine | Pool, parts: Mapping[int, Sequence[Example]], config: ScoreConfig, masking: Masking, advance: Advance
) -> Iterator[tuple[int, Scored]]:
    """Each part's index and what `score_examples` says of it; with a pool in the order in which they are done."""
    if isinstance(scorer, Pool):
        yield from scorer.parts(parts, advance)
        return
    for index, examples in parts.items():
        yield index, score_examples(examples, scorer, config, masking, advance)


@dataclass
class Worker:
    number: int
    process: BaseProcess
    connection: Connection


class Pool:
    """Worker processes behind the interface of one engine, and `parts` for whole parts."""

    def __init__(self, config: ScoreConfig, folder: Path, masking: Masking):
        """Starts the workers; they load the model at the same time. Raises what a worker raises, and UserError when one dies."""
        import torch

        devices = share_devices(config)
        context, self.workers = multiprocessing.get_context("spawn"), []
        for number in range(config.workers):
            ours, theirs = context.Pipe()
            # As many threads as this process has: the order of sums in a matrix product is part of the bytes.
            arguments = (theirs, config, folder, masking, devices and devices[number], torch.get_num_threads())
            process = context.Process(target=work, args=arguments)  # no daemon: vLLM starts processes of its own
            process.start()
            theirs.close()
            self.workers.append(Worker(number, process, ours))
        self.about = {}
        try:
            for worker in self.workers:
                self.about = self._receive(worker)[1]
        except BaseException:
            self.close()
            raise

    def describe(self) -> dict[str, Any]:
        return self.about

    def score(self, requests: Sequence[Request], advance: Advance = lambda tokens: None) -> list[TokenScores]:
        """By the first worker, while nothing else is asked of it."""
        self._send(self.workers[0], ("requests", list(requests)))
        return self._receive(self.workers[0])[1]

    def parts(self, parts: Mapping[int, Sequence[Example]], advance: Advance) -> Iterator[tuple[int, Scored]]:
        """A worker has one part at a time: with another part in the pipe it and the parent could wait for each other to read."""
        waiting = iter(parts.items())
        open_parts = sum([self._hand_out(worker, waiting) for worker in self.workers])
        while open_parts:
            for connection in wait([w.connection for w in self.workers]):
                worker = next(w for w in self.workers if w.connection is connection)
                kind, answer = self._receive(worker)
                if kind == "tokens":
                    advance(answer)
                    continue
                open_parts += self._hand_out(worker, waiting) - 1  # before the parent writes, so that the worker does not wait for that
                yield answer

    def _hand_out(self, worker: Worker, waiting: Iterator[tuple[int, Sequence[Example]]]) -> bool:
        part = next(waiting, None)
        if part is not None:
            self._send(worker, ("part", part))
        return part is not None

    def _send(self, worker: Worker, message: tuple[str, Any]) -> None:
        try:
            worker.connection.send(message)
        except OSError:
            self._receive(worker)  # its last word, if it left one
            raise self._dead(worker) from None

    def _receive(self, worker: Worker) -> tuple[str, Any]:
        try:
            kind, answer = worker.connection.recv()
        except (EOFError, OSError):
            raise self._dead(worker) from None
        if kind == "refused":
            raise answer
        return kind, answer

    def _dead(self, worker: Worker) -> UserError:
        worker.process.join(PATIENCE_S)
        code = worker.process.exitcode
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
        return UserError(
            f"worker {worker.number} (process {worker.process.pid}) {how}; finished parts are kept: see what it said above, then give the "
            "same command again, with fewer --workers if memory ran out"
        )

    def close(self) -> None:
        for worker in self.workers:
            worker.connection.close()  # an idle worker ends at that
        for worker in self.workers:
            worker.process.join(PATIENCE_S)
            if worker.process.is_alive():  # in the middle of a part that nobody waits for
                worker.process.terminate()
                worker.process.join()


def share_devices(config: ScoreConfig) -> list[str] | None:
    """What each worker has as CUDA_VISIBLE_DEVICES: `tensor_parallel` devices; None where there is nothing to share out."""
    import torch

    if config.device is not None and config.device.startswith("cuda:"):
        raise ConfigError(f"--device {config.device} with --workers {config.workers}: each worker takes a device; leave --device out")
    if config.device not in (None, "cuda") or not torch.cuda.is_available():
        return None
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    known = [d for d in named.split(",") if d] if named else [str(k) for k in range(torch.cuda.device_count())]
    each, wanted = config.tensor_parallel, config.workers * config.tensor_parallel
    if len(known) < wanted:
        raise ConfigError(
            f"--workers {config.workers}: this machine has {len(known)} CUDA devices, and the workers take {wanted} ({each} each)"
        )
    return [",".join(known[k * each : (k + 1) * each]) for k in range(config.workers)]


def work(connection: Connection, config: ScoreConfig, folder: Path, masking: Masking, device: str | None, threads: int) -> None:
    """A worker's life: load the engine, answer until the parent closes the pipe."""
    import torch

    threading.Thread(target=_end_with_parent, daemon=True).start()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    torch.set_num_threads(threads)
    try:
        with closing(open_one(config, folder)) as engine:
            connection.send(("ready", engine.describe()))
            _serve(connection, engine, config, masking)
    except UserError as error:
        connection.send(("refused", error))
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):  # the parent has what it wants, or is gone
        pass


def _serve(connection: Connection, engine: Engine, config: ScoreConfig, masking: Masking) -> None:
    """Until the pipe is closed, which is an EOFError."""
    while True:
        kind, asked = connection.recv()
        if kind == "requests":
            connection.send(("scores", engine.score(asked)))
        else:
            index, examples = asked
            scored = score_examples(examples, engine, config, masking, lambda tokens: connection.send(("tokens", tokens)))
            connection.send(("part", (index, scored)))


def _end_with_parent() -> None:
    """A killed parent closes nothing in time for a worker that computes: it would hold its device for the rest of the part."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
