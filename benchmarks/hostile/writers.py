"""Two processes write to one place at the same moment, pair after pair, over all commands that write.

    python -m benchmarks.hostile.writers [--pairs 100] [--seed 0]

Each pair is twice the same command, with other settings, on one new `--out`, the second some milliseconds after the
first. Afterwards the place must hold what one of them alone makes (its files, in a form that their reader takes), or
nothing if both failed; and whoever did not make it must not have said success. Prints one line a command and exits with
1 when a pair broke that.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.hostile import trials, world
from benchmarks.hostile.trials import Trial

LONGEST_DELAY_S = 0.25


@dataclass(frozen=True)
class Writer:
    """A command that writes `out`; the pair's second process gets `other` too."""

    command: tuple[str, ...]
    other: tuple[str, ...]
    check: Callable[[Path], object]
    """raises an exception where the output is not whole"""
    page: bool = False
    """a file, which may be replaced by a second success"""
    again: bool = False
    """a second success may find the work done, where it is the same work"""


CPU = world.CPU
MODEL = ("--model", "model", *CPU)
TRAINED = ("tu-train", "run", *world.TRAIN, "--set", "method=graddiff", *CPU)
WRITERS: dict[str, Writer] = {
    "tu-score run": Writer(
        ("tu-score", "run", *MODEL, "--data", "forget.jsonl", "--engine", "torch", "--set", "part_tokens=200"), ("--limit", "3"),
        lambda out: _verify(out), again=True,
    ),
    "tu-score inspect": Writer(("tu-score", "inspect", "scores", "--html"), ("--signal", "logprob"), lambda out: _page(out), page=True),
    "tu-train run": Writer(TRAINED, ("--epochs", "2"), lambda out: _model(out)),
    "tu-train finetune": Writer(
        ("tu-train", "finetune", *MODEL, "--data", "forget.jsonl", "--epochs", "1"), ("--limit", "3"), lambda out: _model(out)
    ),
    "tu-train diagnose": Writer(
        ("tu-train", "diagnose", *MODEL, "--scores", "scores", "--retain", "retain.jsonl"), ("--rows", "5"),
        lambda out: json.loads((out / "diagnose.json").read_text()),
    ),
    "tu-eval run": Writer(("tu-eval", "run", *MODEL, "--suite", "suite.toml"), ("--limit", "2"), lambda out: _verified(out)),
    "tu-eval attack": Writer(
        ("tu-eval", "attack", *MODEL, "--suite", "suite.toml", "--attack", "quantise"), ("--limit", "2"),
        lambda out: _verified(out),
    ),
    "tu-eval choices": Writer(
        ("tu-eval", "choices", *MODEL, "--data", "choices.jsonl"), ("--limit", "2"), lambda out: _verified(out)
    ),
    "tu-eval judge": Writer(
        ("tu-eval", "judge", *MODEL, "--data", "judged.jsonl", "--judge-model", "stub", "--set", "max_new_tokens=4"), ("--limit", "1"),
        lambda out: _verified(out),
    ),
    "tu-eval evidence": Writer(
        ("tu-eval", "evidence", "--before", "results", "--after", "results-after"), ("--store", "scores"),
        lambda out: [json.loads((out / "evidence.json").read_text()), _page(out / "evidence.html")],
    ),
    "tu-eval compare": Writer(("tu-eval", "compare", "results", "results-after"), ("--no-rows",), lambda out: _page(out), page=True),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    trials.prepare()
    broken = run(given.pairs, given.seed)
    return 1 if broken else 0


def run(pairs: int, seed: int) -> list[str]:
    """Prints one line a command; returns what broke. `trials.prepare` was called."""
    rng, broken = random.Random(seed), []
    names = list(WRITERS)
    told: dict[str, list[int]] = {name: [0, 0, 0] for name in names}
    with tempfile.TemporaryDirectory(dir=_memory()) as place:
        folder = Path(place) / "world"
        world.make(folder)
        judge = stub_judge()
        alone = {name: _alone(name, folder) for name in names}
        for number in range(pairs):
            name = names[number % len(names)]
            successes, faults = _pair(name, folder, number, rng, alone[name])
            told[name][successes] += 1
            broken += [f"pair {number}, {name}: {fault}" for fault in faults]
        os.kill(judge, 9)
        os.waitpid(judge, 0)
    for name in names:
        none, one, two = told[name]
        print(f"{name}: {none + one + two} pairs; success of one process {one}, of both {two}, of none {none}")
    print(f"{pairs} pairs, {len(broken)} left something damaged or said success for it")
    print(*broken, sep="\n", end="\n" if broken else "")
    return broken


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a folder in memory


def _arguments(name: str, out: str, *, second: bool) -> list[str]:
    writer = WRITERS[name]
    flag = () if writer.command[-1] == "--html" else ("--out",)
    return [*writer.command, *flag, out, *(writer.other if second else ())]


def _alone(name: str, folder: Path) -> list[set[str]]:
    """The files that each of the pair makes when nobody disturbs it."""
    made = []
    for second in (False, True):
        out = folder / f"alone-{second}-{name.replace(' ', '-')}"
        outcome = Trial(_arguments(name, out.name, second=second), folder / "said", cwd=folder, seconds=300).end()
        if outcome.code:
            raise RuntimeError(f"{name}: exit code {outcome.code}: {outcome.said}")
        made.append(_names(out))
    return made


def _names(out: Path) -> set[str]:
    return {path.relative_to(out.parent).as_posix().partition("/")[2] for path in [out, *out.rglob("*")] if not path.is_dir()}


def _pair(name: str, folder: Path, number: int, rng: random.Random, alone: Sequence[set[str]]) -> tuple[int, list[str]]:
    """-> how many of the two said success, and what is wrong."""
    writer, out = WRITERS[name], folder / f"pair-{number}"
    both = [folder / f"said-{number}-{k}" for k in (0, 1)]
    first = Trial(_arguments(name, out.name, second=False), both[0], cwd=folder, seconds=120)
    time.sleep(rng.choice([0.0, rng.uniform(0, LONGEST_DELAY_S)]))
    second = Trial(_arguments(name, out.name, second=rng.random() < 0.5), both[1], cwd=folder, seconds=120)
    ended = [first.end(), second.end()]
    faults = [f"traceback: {outcome.said[-800:]}" for outcome in ended if outcome.traceback or outcome.code not in (0, 2)]
    successes = sum(outcome.code == 0 for outcome in ended)
    if successes:
        if _names(out) not in alone:
            faults.append(f"holds {sorted(_names(out))}")
        checked = trials.call(lambda: writer.check(out), folder / "checked")
        if checked.code:
            faults.append(f"not whole: {checked.said[-800:]}")
    if successes == 2 and not (writer.page or writer.again):
        faults.append("both said success")
    left = [path.name for path in folder.glob(".tmp-*")] + [path.name for path in folder.glob(f"{out.name}.unfinished*")]
    if left:
        faults.append(f"left {left}")
    if out.is_dir():
        shutil.rmtree(out)
    return successes, faults


def _verify(out: Path) -> None:
    from shared.store.scores import open_store
    from tu_score.verify import problems_of

    found = problems_of(open_store(out))
    assert not found, found


def _model(out: Path) -> None:
    from shared.lm.finished import check_output

    record = json.loads((out / "training.json").read_text())
    assert record["output_fingerprint"]
    check_output(out)


def _verified(out: Path) -> None:
    from tu_eval.evidence.verify import verify

    assert verify(out)


def _page(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("<!doctype html>") and text.rstrip().endswith("</html>")


def stub_judge() -> int:
    """The process of a server that rates every answer 5."""

    class Judge(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps({"choices": [{"message": {"content": "Rating: [[5]]"}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    os.environ["TU_JUDGE_URL"] = f"http://127.0.0.1:{server.server_port}/v1"
    pid = os.fork()
    if pid == 0:
        server.serve_forever()
    server.socket.close()
    return pid


if __name__ == "__main__":
    sys.exit(main())
