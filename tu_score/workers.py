"""Who scores parts: this process, or `--workers` processes with an engine each.

A part's values depend on its rows alone, so any worker can score any part and the store's bytes are the same. The
parent owns the store: it hands out the rows of parts and writes what comes back, in whatever order that is. On CUDA
each worker sees one device of its own. With vLLM this is data parallelism, one engine a process: its offline LLM()
takes no data_parallel_size and wants a process a rank as well.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pyarrow as pa

from shared.data.datasets import Row
from shared.engines.interface import Engine, Request, TokenScores
from shared.engines.open import open_engine
from shared.errors import ConfigError, UserError
from shared.lm.logprobs import HeadOptions
from tu_score.config import ScoreConfig
from tu_score.part import Advance, BaseSignals, PartScorer

PATIENCE_S = 5.0
BEAT_S = 5.0
"""a worker says that it lives, whatever it is doing"""
SILENT_S = 120.0
"""after so long without a word a worker counts as lost: it was stopped, or its machine sleeps"""
LISTEN_S = 1.0
"""between two looks at who is silent"""
START_S = 480.0
"""more than that for a worker that begins, which reads its libraries first, from a slow disk maybe"""
STUCK_S = 3600.0
"""after so long without a forward pass that ended a worker counts as lost, though it lives"""

Task = tuple[int, Sequence[Row], BaseSignals | None]
"""index, rows, and what the base model says of their examples"""


def open_scorer(config: ScoreConfig, folder: Path, scorer: PartScorer) -> Engine | Pool:
    return Pool(config, folder, scorer) if config.workers > 1 else open_one(config, folder)


def open_one(config: ScoreConfig, folder: Path) -> Engine:
    head = HeadOptions(config.head_mib, temperature=config.temperature, top_k=config.topk)
    return open_engine(
        config.engine, folder, dtype=config.dtype, device=config.device, batch_tokens=config.batch_tokens, head=head,
        tensor_parallel=config.tensor_parallel,
    )  # fmt: skip


def score_parts(engine: Engine | Pool, tasks: Iterable[Task], scorer: PartScorer, advance: Advance) -> Iterator[tuple[int, pa.Table]]:
    """Each part's index and its columns; with a pool in the order in which they are done. A task is taken from `tasks`
    when somebody is free for it."""
    if isinstance(engine, Pool):
        yield from engine.parts(tasks, advance)
        return
    for index, rows, base in tasks:
        yield index, scorer(rows, base, engine, advance)


@dataclass
class Worker:
    number: int
    process: BaseProcess
    connection: Connection
    silent_s: float = -START_S
    """for how long we have listened in vain"""
    stuck_s: float = 0.0
    """for how long nothing has come but that it lives"""


class Pool:
    """Worker processes behind the interface of one engine, and `parts` for whole parts."""

    def __init__(self, config: ScoreConfig, folder: Path, scorer: PartScorer):
        """Starts the workers; they load the model at the same time. Raises what a worker raises, and UserError when one
        dies."""
        import torch

        devices = share_devices(config)
        context, self.workers = multiprocessing.get_context("spawn"), []
        for number in range(config.workers):
            ours, theirs = context.Pipe()
            # As many threads as this process has: the order of sums in a matrix product is part of the bytes.
            arguments = (theirs, config, folder, scorer, devices and devices[number], torch.get_num_threads(), BEAT_S)
            process = context.Process(target=work, args=arguments)  # no daemon: vLLM starts processes of its own
            process.start()
            theirs.close()
            self.workers.append(Worker(number, process, ours))
        self.about = {}
        try:
            for worker in self.workers:
                self.about = self._receive(worker, stuck_s=math.inf)[1]  # a large model may load for hours
        except BaseException:
            self.close()
            raise

    def describe(self) -> dict[str, Any]:
        return self.about

    def score(self, requests: Sequence[Request], advance: Advance = lambda tokens: None) -> list[TokenScores]:
        """By the first worker, while nothing else is asked of it."""
        self._send(self.workers[0], ("requests", list(requests)))
        return self._receive(self.workers[0])[1]

    def parts(self, tasks: Iterable[Task], advance: Advance) -> Iterator[tuple[int, pa.Table]]:
        """A worker has one part at a time: with another part in the pipe it and the parent could wait for each other to
        read."""
        waiting = iter(tasks)
        busy = [worker for worker in self.workers if self._hand_out(worker, waiting)]
        while busy:
            for worker in self._heard(busy, STUCK_S):
                kind, answer = self._word(worker)
                if kind == "tokens":
                    advance(answer)
                if kind != "part":
                    continue
                if not self._hand_out(worker, waiting):  # before the parent writes, so that the worker does not wait for that
                    busy.remove(worker)
                yield answer

    def _heard(self, workers: Sequence[Worker], stuck_s: float) -> list[Worker]:
        """Those of which a word has come; none, if none came for a while. Raises UserError when one is lost: only time
        in which we listened counts, so that a parent that was busy itself blames nobody."""
        start = time.monotonic()
        ready = wait([worker.connection for worker in workers], timeout=LISTEN_S)
        waited = min(time.monotonic() - start, 2 * LISTEN_S)  # this process may have been stopped, too
        heard = [worker for worker in workers if worker.connection in ready]
        for worker in workers:
            worker.silent_s = 0.0 if worker in heard else worker.silent_s + waited
            worker.stuck_s += waited
            if worker.silent_s > SILENT_S or worker.stuck_s > stuck_s:
                raise self._lost(worker, stuck_s)
        return heard

    def _lost(self, worker: Worker, stuck_s: float) -> UserError:
        silent = worker.silent_s > SILENT_S
        worker.process.kill()  # it may be stopped, and would not end at anything else
        what = f"gave no sign of life for {SILENT_S:.0f} s" if silent else f"lives, but has finished nothing for {stuck_s:.0f} s"
        return UserError(
            f"worker {worker.number} (process {worker.process.pid}) {what}, so it was ended; finished parts are kept: give the same "
            "command again, with fewer --workers if memory ran out"
        )

    def _hand_out(self, worker: Worker, waiting: Iterator[Task]) -> bool:
        part = next(waiting, None)
        if part is not None:
            worker.silent_s = worker.stuck_s = 0.0
            self._send(worker, ("part", part))
        return part is not None

    def _send(self, worker: Worker, message: tuple[str, Any]) -> None:
        failed: list[OSError] = []

        def send() -> None:
            try:
                worker.connection.send(message)
            except OSError as error:
                failed.append(error)

        sender = threading.Thread(target=send, daemon=True)  # a worker that was stopped takes nothing
        sender.start()
        sender.join(SILENT_S)
        if sender.is_alive():
            worker.silent_s = math.inf
            raise self._lost(worker, STUCK_S)
        if failed:
            self._receive(worker)  # its last word, if it left one
            raise self._dead(worker)

    def _receive(self, worker: Worker, *, stuck_s: float | None = None) -> tuple[str, Any]:
        """The next word of a worker but those that say that it is at it."""
        while True:
            if self._heard([worker], STUCK_S if stuck_s is None else stuck_s):
                kind, answer = self._word(worker)
                if kind not in ("alive", "tokens"):
                    return kind, answer

    def _word(self, worker: Worker) -> tuple[str, Any]:
        try:
            kind, answer = worker.connection.recv()
        except (EOFError, OSError):
            raise self._dead(worker) from None
        if kind == "refused":
            raise answer
        if kind != "alive":
            worker.stuck_s = 0.0
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
                worker.process.join(PATIENCE_S)
            if worker.process.is_alive():  # stopped, or beyond listening
                worker.process.kill()
                worker.process.join()


def share_devices(config: ScoreConfig) -> list[str] | None:
    """What each worker has as CUDA_VISIBLE_DEVICES: `tensor_parallel` devices; None where there is nothing to share
    out."""
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


class Line:
    """A worker's end of the pipe; two threads speak."""

    def __init__(self, connection: Connection):
        self.connection, self.lock = connection, threading.Lock()
        self.recv = connection.recv

    def send(self, message: tuple[str, Any]) -> None:
        with self.lock:
            self.connection.send(message)

    def beat(self, every_s: float) -> None:
        with contextlib.suppress(OSError):  # the parent has closed the pipe
            while True:
                self.send(("alive", None))
                time.sleep(every_s)


def work(pipe: Connection, config: ScoreConfig, folder: Path, scorer: PartScorer, device: str | None, threads: int, beat_s: float) -> None:
    """A worker's life: load the engine, answer until the parent closes the pipe."""
    connection = Line(pipe)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threading.Thread(target=connection.beat, args=(beat_s,), daemon=True).start()
    import torch

    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    torch.set_num_threads(threads)
    try:
        with closing(open_one(config, folder)) as engine:
            connection.send(("ready", engine.describe()))
            _serve(connection, engine, scorer)
    except UserError as error:
        connection.send(("refused", error))
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):  # the parent has what it wants, or is gone
        pass


def _serve(connection: Line, engine: Engine, scorer: PartScorer) -> None:
    """Until the pipe is closed, which is an EOFError."""
    while True:
        kind, asked = connection.recv()
        if kind == "requests":
            connection.send(("scores", engine.score(asked)))
        else:
            index, rows, base = asked
            table = scorer(rows, base, engine, lambda tokens: connection.send(("tokens", tokens)))
            connection.send(("part", (index, table)))


def _end_with_parent() -> None:
    """A killed parent closes nothing in time for a worker that computes: it would hold its device for the rest of the
    part."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
