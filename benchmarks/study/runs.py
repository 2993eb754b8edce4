"""One run: unlearn until the facts have come to the retain model's level, measure there, keep the numbers and drop the
model."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.study.after import attacked
from benchmarks.study.commands import command, dropped, say, train
from benchmarks.study.plan import WITHOUT_SCORES, Job, World
from benchmarks.study.prepare import Made
from shared.config import checked
from shared.errors import UserError
from shared.files.fs import read_json, write_json
from tu_eval.results.results import load_results

ABOUT = ("real_authors", "world_facts", "world")
KEPT = ("model_utility", "forget_quality", "forget_truth_ratio", "forget_probability", "forget_fact_probability", "retain_probability",
        "retain_truth_ratio", "retain_rouge", "retain_fact_probability",
        *(f"{about}_{part}" for about in ABOUT for part in ("probability", "rouge", "truth_ratio")))  # fmt: skip

NUMBERS = ("forget_nll", "forget_fact_nll", "forget_paraphrase_nll", "retain_nll")
"""what training measures along the way"""

PR_SET_PDEATHSIG = 1


def result_of(made: Made, job: Job) -> Path:
    return made.folder / "runs" / f"{job.key}.json"


def lacks(result: Mapping[str, Any], job: Job) -> bool:
    """Whether a run that came to the level was not evaluated or attacked though it is asked for: its model is gone, so
    it has to run again."""
    wanted = {"suite_": job.evaluate, "after_": job.attack}
    return bool(result["reached"]) and any(
        asked and not any(name.startswith(part) and value is not None for name, value in result.items()) for part, asked in wanted.items()
    )


def finished(made: Made, job: Job) -> bool:
    path = result_of(made, job)
    return path.exists() and not lacks(read_json(path), job)


def run(made: Made, flags: list[str], job: Job, reference: str | None) -> dict[str, Any]:
    """`flags`: the method's; `reference`: results of the retain model, for forget quality. Returns the finished
    result."""
    out = result_of(made, job)
    if finished(made, job):
        return read_json(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    log, started = out.with_suffix(".log"), time.monotonic()
    scores = made.scores if job.source in WITHOUT_SCORES else made.folder / "stores" / job.source
    with dropped(made.folder / "models" / job.key) as model:
        words = ["tu-train", "run", "--model", made.target, "--scores", str(scores), "--retain", made.retain, "--method", job.method]
        given = ["--set", f"given_key={made.world.facts}"] if job.tokens == "given" else []
        train([*words, *flags, *made.world.unlearning, *job.flags(), *given, *made.rule], model, log)
        curve = [line for line in map(json.loads, (model / "log.jsonl").read_text().splitlines()) if "eval_forget_nll" in line]
        last, before = curve[-1], curve[-2]["step"] + 1 if len(curve) > 1 else 0
        steps = before + last.get("eval_landed", 1.0) * (last["step"] + 1 - before)
        result = {**asdict(job), "reached": "eval_landed" in last, "steps": steps,
                  **{name: last[f"eval_{name}"] for name in NUMBERS if f"eval_{name}" in last},
                  "curve": [{k: line[k] for k in ("step", *(f"eval_{n}" for n in NUMBERS)) if k in line} for line in curve]}  # fmt: skip
        if job.evaluate and result["reached"]:
            result |= {f"suite_{k}": v for k, v in evaluate(made, str(model), job.key, reference, log).items()}
        if job.attack and result["reached"]:
            result |= {f"after_{k}": v for k, v in attacked(made, str(model), job.key, log).items()}
        result["seconds"] = time.monotonic() - started
        write_json(out, result)
    return result


def evaluate(made: Made, model: str, name: str, reference: str | None, log: Path) -> dict[str, float | None]:
    assert made.suite is not None, "a study that evaluates names a suite"
    results = made.folder / "results" / name
    if not results.exists():
        against = ["--retain-results", reference] if reference else []
        command(["tu-eval", "run", "--model", model, "--suite", made.suite, *made.world.evaluating, *against, "--label", name,
                 "--out", str(results)], log)  # fmt: skip
    metrics = load_results(results).summary["metrics"]
    return {name: metrics[name] for name in KEPT if name in metrics}


def ends(made: Made, wanted: Sequence[Job]) -> str | None:
    """Measures target and retain model as the runs are measured; returns the results of the latter, for forget
    quality. What was measured for other runs of the world stays."""
    path = made.folder / "ends.json"
    found: dict[str, dict[str, float | None]] = {"retain": {}, "target": {}, **(read_json(path) if path.exists() else {})}
    reference, log = None, made.folder / "prepare.log"
    if any(job.evaluate for job in wanted):
        say(f"{made.world.name}: evaluating target and retain model")
        found["retain"] |= evaluate(made, made.retain_model, "retain", None, log)
        reference = str(made.folder / "results" / "retain")
        found["target"] |= evaluate(made, made.target, "target", reference, log)
    if any(job.attack for job in wanted):
        say(f"{made.world.name}: attacking target and retain model")
        found["retain"] |= {f"after_{k}": v for k, v in attacked(made, made.retain_model, "retain", log).items()}
        found["target"] |= {f"after_{k}": v for k, v in attacked(made, made.target, "target", log).items()}
    write_json(path, found)
    return reference


def run_alone(made: Made, flags: list[str], job: Job, reference: str | None, threads: int) -> dict[str, Any]:
    """The same in a process of its own, which gives its memory back and ends with its parent."""
    given = {"made": asdict(made), "flags": flags, "job": asdict(job), "reference": reference}
    words = [sys.executable, "-m", "benchmarks.study.runs"]
    done = subprocess.run(words, input=json.dumps(given, default=str), env={**os.environ, "OMP_NUM_THREADS": str(threads)}, text=True,
                          capture_output=True)  # fmt: skip
    if done.returncode:
        raise UserError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}")
    return read_json(result_of(made, job))


def main() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    given = json.load(sys.stdin)
    values = given["made"]
    about = values.pop("world")
    cut = about.pop("cut")
    world = World(**checked(World, about, "world"), cut=cut)
    made = Made(**{**values, "world": world, "folder": Path(values["folder"]), "scores": Path(values["scores"])})
    run(made, given["flags"], Job(**given["job"]), given["reference"])


if __name__ == "__main__":
    main()
