"""Every file that a command reads, changed at random, with its hashes recomputed most of the time; and what the command
made of it.

    python -m benchmarks.hostile.fuzz [--mutations 5000] [--workers 2] [--seed 0] [--command NAME ...] [--faults FILE]

A trial copies a small world (a model, its store, checkpoints, results), changes one to three files that the command
reads, runs the command, and looks: no traceback, no code run, no file outside of the output touched, nothing left
half-written where it was refused, less than 4 GB of memory, less than a minute. Prints one line a command and exits
with 1 when a trial broke that. `--only NAME:NUMBER` runs one trial again and shows what it said.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.hostile import trials, world
from benchmarks.hostile.mutations import CANARY, change
from benchmarks.hostile.seals import seal
from benchmarks.hostile.trials import Outcome, Trial, call

MEMORY, SECONDS = 4 << 30, 60
SEALED = 0.8
"""share of the trials whose hashes are recomputed"""


@dataclass(frozen=True)
class Target:
    command: tuple[str, ...]
    reads: tuple[str, ...]
    """patterns of files"""
    writes: tuple[str, ...] = ("out",)
    """beginnings of paths; `out` must not be there when the command is refused"""


CPU, MODEL = world.CPU, ("--model", "model", *world.CPU)
WEIGHTS, STORE, RESULTS = ("model/*",), ("scores/_*", "scores/part-0000[0-2]*"), ("results/*", "results-after/*", "after/training.json")
TRAIN = ("tu-train", "run", *world.TRAIN, "--set", "method=graddiff", *CPU)
SUITE = ("suite.toml", "*.jsonl")
TARGETS: dict[str, Target] = {
    "tu-score run": Target(
        ("tu-score", "run", *MODEL, "--data", "forget.jsonl", "--engine", "torch", "--config", "score.toml", "--out", "out"),
        (*WEIGHTS, "forget.jsonl", "score.toml"),
    ),
    "tu-score run, again": Target(
        ("tu-score", "run", *MODEL, "--data", "forget.jsonl", "--engine", "torch", "--set", "part_tokens=200", "--out", "scores"),
        STORE, ("scores",),
    ),
    "tu-score inspect": Target(("tu-score", "inspect", "scores", "--html", "out.html"), STORE, ("out.html",)),
    "tu-score inspect, text": Target(("tu-score", "inspect", "scores", "--top", "5"), STORE, ()),
    "tu-score verify": Target(("tu-score", "verify", "scores"), STORE, ()),
    "tu-score recipe": Target(("tu-score", "recipe", "scores", "--recipe", "norm=rank"), STORE, ("scores",)),
    "tu-score agree": Target(
        ("tu-score", "agree", "scores", "--model", "model", "--json"), (*STORE, "forget.jsonl", "model/tokenizer*"), ()
    ),
    "tu-train run": Target((*TRAIN, "--config", "train.toml", "--out", "out"), (*STORE, *WEIGHTS, "retain.jsonl", "train.toml")),
    "tu-train run --resume": Target(
        (*world.HALF, *CPU, "--out", "half", "--resume"), ("half.unfinished/*", "half.unfinished/*/*", "retain.jsonl", *STORE),
        ("half", "half.unfinished"),
    ),
    "tu-train run, finished": Target((*TRAIN, "--learning-rate", "1e-3", "--out", "after", "--resume"), ("after/*",), ()),
    "tu-train finetune": Target(
        ("tu-train", "finetune", *MODEL, "--data", "forget.jsonl", "--epochs", "1", "--out", "out"), (*WEIGHTS, "forget.jsonl")
    ),
    "tu-train diagnose": Target(
        ("tu-train", "diagnose", *MODEL, "--scores", "scores", "--retain", "retain.jsonl", "--rows", "5", "--out", "out"),
        (*STORE, *WEIGHTS, "retain.jsonl"),
    ),
    "tu-train many": Target(("tu-train", "many", "study.toml", "--out", "out"), ("study.toml", *STORE, "retain.jsonl"), ("out",)),
    "tu-eval run": Target(
        ("tu-eval", "run", *MODEL, "--suite", "suite.toml", "--retain-results", "results", "--out", "out"), (*WEIGHTS, *SUITE, "results/*")
    ),
    "tu-eval attack": Target(
        ("tu-eval", "attack", *MODEL, "--suite", "suite.toml", "--set", "relearn_rows=2", "--set", "relearn_steps=2", "--set", "samples=2",
         "--set", "max_new_tokens=4", "--out", "out"),
        (*WEIGHTS, *SUITE),
    ),
    "tu-eval choices": Target(("tu-eval", "choices", *MODEL, "--data", "choices.jsonl", "--out", "out"), (*WEIGHTS, "choices.jsonl")),
    "tu-eval compare": Target(("tu-eval", "compare", "results", "results-after", "--out", "out.html", "--csv", "out.csv"), RESULTS,
                              ("out.html", "out.csv")),
    "tu-eval evidence": Target(
        ("tu-eval", "evidence", "--before", "results", "--after", "results-after", "--store", "scores", "--out", "out"), (*RESULTS, *STORE)
    ),
    "tu-eval verify": Target(("tu-eval", "verify", "results"), ("results/*",), ()),
}  # fmt: skip
MAY_STAND = ("scores", "half", "half.unfinished")
"""outputs that were there before"""
REFUSED = (1, 2, 75)


@dataclass
class Count:
    mutations: int = 0
    refused: int = 0
    peak_bytes: int = 0
    faults: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mutations", type=int, default=5000, help="a command")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", action="append", choices=list(TARGETS), help="may be repeated; all of them without")
    parser.add_argument("--faults", type=Path, help="JSON lines of what broke")
    parser.add_argument("--only", help="NAME:NUMBER of one trial")
    given = parser.parse_args()
    trials.prepare()
    if given.only:
        name, _, number = given.only.rpartition(":")
        return _show(name, int(number), given.seed)
    counts = run(given.command or list(TARGETS), given.mutations, workers=given.workers, seed=given.seed)
    if given.faults:
        given.faults.write_text("".join(json.dumps([name, fault]) + "\n" for name, c in counts.items() for fault in c.faults))
    return 1 if any(count.faults for count in counts.values()) else 0


def run(names: Sequence[str], mutations: int, *, workers: int = 1, seed: int = 0) -> dict[str, Count]:
    """Prints one line a command. `trials.prepare` was called."""
    counts = {name: Count() for name in names}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as place:  # noqa: S108 - in memory
        prepare_world(Path(place) / "world")
        for name in names:
            _undisturbed(Path(place), name)
            _all_trials(Path(place), name, mutations, workers, seed, counts[name])
            count = counts[name]
            print(f"{name}: {count.mutations} mutations, {count.refused} refused, {len(count.faults)} faults, peak memory "
                  f"{count.peak_bytes / 1e9:.1f} GB", flush=True)  # fmt: skip
            for fault in count.faults[:3]:
                print(f"    {fault[:1200]}", flush=True)
    done = sum(count.mutations for count in counts.values())
    print(f"{done} mutations over {len(names)} commands, {sum(len(c.faults) for c in counts.values())} faults")
    return counts


def prepare_world(folder: Path) -> None:
    """`world.make`, settings of two commands, and files of somebody else."""
    world.make(folder)
    (folder / "score.toml").write_text('part_tokens = 200\nspans = "window"\nwindow_length = 4\nwindow_stride = 4\nlimit = 4\nseed = 1\n')
    (folder / "train.toml").write_text("batch_size = 2\nclip = 1.0\nwarmup = 0.1\nweight_decay = 0.01\nkeep = 0.3\nseed = 1\n")
    (folder / "outside").mkdir()
    for name in ("secret", "victim"):
        (folder / "outside" / name).write_text(f"the {name} of somebody else\n")


def _all_trials(place: Path, name: str, mutations: int, workers: int, seed: int, count: Count) -> None:
    """Each worker is a process that takes every n-th trial and writes a line of JSON for each."""
    pids = []
    for worker in range(workers):
        pid = os.fork()
        if pid == 0:
            with open(place / f"lines-{worker}", "w", encoding="utf-8") as lines:
                for number in range(worker, mutations, workers):
                    code, peak, faults = trial(place, name, number, seed)
                    lines.write(json.dumps([code, peak, faults]) + "\n")
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    for worker in range(workers):
        for line in (place / f"lines-{worker}").read_text().splitlines():
            code, peak, faults = json.loads(line)
            count.mutations += 1
            count.refused += code in REFUSED
            count.peak_bytes = max(count.peak_bytes, peak)
            count.faults += faults


def _undisturbed(place: Path, name: str) -> None:
    """Raises RuntimeError when a command that nobody disturbs fails: its trials would show nothing."""
    folder = place / "undisturbed"
    shutil.copytree(place / "world", folder)
    outcome = Trial(TARGETS[name].command, place / "said", cwd=folder, seconds=600).end()
    shutil.rmtree(folder)
    if outcome.code:
        raise RuntimeError(f"{name}: exit code {outcome.code} without any mutation: {outcome.said}")


def trial(place: Path, name: str, number: int, seed: int, *, keep: bool = False) -> tuple[int, int, list[str]]:
    """-> exit code, peak bytes of memory, what broke."""
    target, folder, said = TARGETS[name], place / f"trial-{name.replace(' ', '-')}-{number}", place / f"said-{number}"
    shutil.copytree(place / "world", folder)
    os.chdir(folder)
    os.environ.update(HOME=str(folder / "home"), HF_HOME=str(place / "hf"), MPLCONFIGDIR=str(place / "mpl"), TMPDIR=str(place / "tmp"))
    (folder / "home").mkdir()
    (place / "tmp").mkdir(exist_ok=True)
    mutated = call(lambda: mutate(folder, target, f"{seed}:{name}:{number}"), said)
    before = look(folder)
    outcome = Trial(target.command, said, cwd=folder, seconds=SECONDS).end()
    faults = faults_of(outcome, target, before, look(folder))
    os.chdir(place)
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
        said.unlink()
    else:
        print(mutated.said, outcome.code, outcome.said, sep="\n")
    return outcome.code, outcome.peak_bytes, [f"{name}:{number}: {mutated.said.strip()}: {fault}" for fault in faults]


def mutate(folder: Path, target: Target, seed: str) -> None:
    rng = random.Random(seed)
    files = sorted(path for pattern in target.reads for path in folder.glob(pattern) if path.is_file())
    for path in rng.sample(files, min(len(files), rng.choice((1, 1, 1, 2, 3)))):
        if path.is_file() and not path.is_symlink():
            print(f"{path.relative_to(folder)}: {change(path, rng)}".encode("ascii", "backslashreplace").decode()[:300])
    if rng.random() < SEALED:
        seal(folder)


Seen = dict[str, tuple[int, int, int]]


def look(folder: Path) -> Seen:
    """Every name in the folder: its kind, size and time."""
    found = {}
    for path in folder.rglob("*"):
        about = path.lstat()
        if not path.is_dir() or path.is_symlink():
            found[path.relative_to(folder).as_posix()] = (about.st_mode, about.st_size, about.st_mtime_ns)
    return found


def faults_of(outcome: Outcome, target: Target, before: Seen, after: Seen) -> list[str]:
    faults = []
    if outcome.traceback or outcome.code not in (0, *REFUSED):
        faults.append(f"exit code {outcome.code}: {outcome.said[-1000:]}")
    if outcome.peak_bytes > MEMORY:
        faults.append(f"{outcome.peak_bytes / 1e9:.1f} GB of memory")
    if any(name.rsplit("/", 1)[-1] == CANARY for name in after):
        faults.append("code was run")
    own = (*target.writes, "home/")
    touched = [n for n in sorted({*before, *after}) if before.get(n) != after.get(n) and not n.startswith(own)]
    if touched:
        faults.append(f"touched {touched[:5]}")
    if outcome.code in (1, 2):
        left = [n for n in after if n not in before and n.startswith(target.writes) and not n.startswith(MAY_STAND)]
        goes_on = "out/_plan.json" in left and "out/_manifest.json" not in left  # scoring: an unfinished run, which the next one takes up
        noted = outcome.code == 1 and "out/index.json" in left  # many: a run that failed
        if left and not goes_on and not noted:
            faults.append(f"refused, and left {left[:5]}: {outcome.said[-300:]}")
        if sum(line.startswith("error: ") for line in outcome.said.splitlines()) > 1:
            faults.append(f"more than one line of error: {outcome.said[-500:]}")
    return faults


def _show(name: str, number: int, seed: int) -> int:
    with tempfile.TemporaryDirectory() as place:
        prepare_world(Path(place) / "world")
        _, _, faults = trial(Path(place), name, number, seed, keep=True)
    print("faults:", *faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
