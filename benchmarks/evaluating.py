"""What it costs to ask all that is asked of a model: the suite and its attacks as they were first, and everything that
came since, on one machine in one run.

    TU_TOFU_DIR=... python -m benchmarks.evaluating --out WORK --model UNLEARNED --before TARGET --retain RETAIN
    python -m benchmarks.evaluating --out WORK --tiny

--rows 20 takes the first rows of each set. First `tu-eval run` on tofu:forget01 and `tu-eval attack` with the attacks
of the first version (in other words, sampling, rounding to integers, relearning), on the three models. Sampling is
timed twice: as `tu-eval attack` does it now, and as the first version did it (benchmarks.drawing). Then what was added:
fluency under the model before, NF4, the leak check, depth, tampering, and the verdict. The leak check is that of
`attack`, which searches the answers that its sampling draws; that of `run` is for those who attack nothing, and would
ask the same questions again. What the first commands measured is kept and taken by the second, so that their time is
that of the additions, the start of each command and the reading of what is kept included. The limit of `ratio`,
(first + sampling now + added) / (first + sampling as it was), is 1.5.

--tiny takes random models of 2 layers, which says that the commands run and nothing of their ratio. --tamper gives
settings of tamper, such as --tamper "rates=[5e-5]" "rows=[4]"; the defaults are 6 to 18 runs of 20 steps a model. Lines
on stderr tell what goes on; stdout holds one JSON object with the seconds of each step. They are seconds of processors,
not of the clock, so that other work on the machine changes little; OMP_NUM_THREADS=1 keeps waiting threads out.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.metrics import blank
from shared.data.datasets import load_rows
from shared.data.words import words_of_text

SUITE, FORGET = "tofu:forget01", "tofu:forget01"
FIRST_ATTACKS = ("paraphrase", "quantise", "relearn")
"""beside sampling"""
LIMIT = 1.5
TINY = {"suite": "atlas:people=6,facts_per_person=4,forget_people=2,holdout_people=1", "forget": "atlas:forget:people=6,facts_per_person=4,"
        "forget_people=2,holdout_people=1"}  # fmt: skip


def spent() -> float:
    """Seconds of processors that all finished commands have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(name: str, words: list[str], program: str = "tu_eval") -> float:
    """Seconds of processors of one command, which must succeed."""
    print(f"$ python -m {program} {' '.join(words)}", file=sys.stderr, flush=True)
    started, before = time.monotonic(), spent()
    subprocess.run([sys.executable, "-m", program, *words], check=True, stdout=sys.stderr, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    seconds = round(spent() - before, 2)
    print(f"{name}: {seconds:.1f} s of processors, {time.monotonic() - started:.1f} s by the clock", file=sys.stderr, flush=True)
    return seconds


def write_secrets(path: Path, forget: str, rows: int | None) -> Path:
    """The longest word of each answer, as one would list names and places."""
    answers = [row.answer for row in load_rows(forget, limit=rows)]
    longest = [max((match.group() for match in words_of_text(answer)), key=len, default="") for answer in answers]
    path.write_text("".join(f"{word}\n" for word in dict.fromkeys(longest) if word), encoding="utf-8")
    return path


def measure(work: Path, models: dict[str, str], suite: str, forget: str, settings: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Seconds of each step: `first`, `as_it_was`, `now`, `added`."""
    secrets = write_secrets(work / "secrets.txt", forget, settings.rows)
    limit = ["--limit", str(settings.rows)] if settings.rows else []
    common = ["--suite", suite, *limit, "--device", "cpu"]
    three = ["--model", models["model"], "--before", models["before"], "--retain-model", models["retain"]]
    ways = [word for name in FIRST_ATTACKS for word in ("--attack", name)]
    tiny = ["--set", "max_new_tokens=16"] if settings.tiny else []

    def kept(name: str) -> list[str]:
        return ["--store", str(work / "kept"), "--out", str(work / name)]

    run = ["run", *common, *tiny]
    first = {f"run {role}": timed(f"run {role}", [*run, "--model", model, *kept(f"run-{role}")]) for role, model in models.items()}
    first["attack"] = timed("attack", ["attack", *three, *common, *tiny, *ways, *kept("attack")])
    sampling = ["attack", *three, *common, *tiny, *ways, "--attack", "sample", *kept("attack-sample")]  # the others are kept
    now = {"attack: sampling": timed("sampling", sampling)}
    short = ["--suite", suite, *limit, *(["--max-new-tokens", "16"] if settings.tiny else [])]
    as_it_was = {
        f"sampling of {role}": timed(f"sampling of {role} as it was", ["--model", model, *short], "benchmarks.drawing")
        for role, model in models.items()
    }
    added = {}
    for role, model in models.items():
        more = ["--fluency-model", models["before"]]
        added[f"run {role}: fluency"] = timed(f"run {role}, all", [*run, "--model", model, *more, *kept(f"all-{role}")])
    more = ["--secrets", str(secrets), *kept("attack-all")]
    added["attack: nf4 and leak check"] = timed("attack, all", ["attack", *three, *common, *tiny, *more])
    depth = ["--model", models["model"], "--full", models["before"], "--retain-model", models["retain"]]
    added["depth"] = timed("depth", ["depth", *depth, *common, "--out", str(work / "depth")])
    tampering = [word for setting in settings.tamper for word in ("--set", setting)]
    added["tamper"] = timed("tamper", ["tamper", *three, *common, *tampering, "--out", str(work / "tamper")])
    folders = [str(work / name) for name in ("all-model", "attack-all", "depth", "tamper")]
    ends = ["--before", str(work / "all-before"), "--retain", str(work / "all-retain"), "--out", str(work / "verdict.html")]
    added["report"] = timed("report", ["report", *folders, *ends])
    return {"first": first, "as_it_was": as_it_was, "now": now, "added": added}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to work in; must be new or empty")
    parser.add_argument("--model", help="the model after unlearning")
    parser.add_argument("--before", help="the model before unlearning")
    parser.add_argument("--retain", help="the model that never saw the forget set")
    parser.add_argument("--rows", type=int, help="only the first rows of each set (all unless given)")
    parser.add_argument("--tamper", nargs="*", default=[], help="settings of tu-eval tamper, NAME=VALUE")
    parser.add_argument("--tiny", action="store_true", help="random models of 2 layers on an atlas world")
    settings = parser.parse_args()
    work: Path = settings.out
    if work.exists() and any(work.iterdir()):
        parser.error(f"--out {work}: already holds files; what is measured must not be there already")
    work.mkdir(parents=True, exist_ok=True)
    models = {role: getattr(settings, role) for role in ("model", "before", "retain")}
    suite, forget = SUITE, FORGET
    if settings.tiny:
        suite, forget = TINY["suite"], TINY["forget"]
        models = {role: str(work / "models" / role) for role in models}
        for seed, folder in enumerate(models.values()):
            blank(Path(folder), seed)
        settings.tamper = settings.tamper or ["rows=[1,2]", "steps=2", "every=2"]
    if missing := [role for role, model in models.items() if model is None]:
        parser.error(f"--{missing[0]} is missing; name the three models, or use --tiny")
    seconds = measure(work, models, suite, forget, settings)
    total = {name: round(sum(steps.values()), 1) for name, steps in seconds.items()}
    ratio = round((total["first"] + total["now"] + total["added"]) / (total["first"] + total["as_it_was"]), 3)
    print(json.dumps({**seconds, "seconds": total, "ratio": ratio, "limit": LIMIT, "tiny": settings.tiny}, indent=1))


if __name__ == "__main__":
    main()
