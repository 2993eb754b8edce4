"""See the package's docstring."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from pathlib import Path

from benchmarks.study.candidates import agreement, compared, write_stores
from benchmarks.study.commands import say
from benchmarks.study.plan import WITHOUT_SCORES, read_study
from benchmarks.study.prepare import prepare
from benchmarks.study.results import RESULTS, collect
from benchmarks.study.runs import ends, finished, run_alone


def study(path: Path, work: Path, jobs: int) -> list[str]:
    """Runs a study; returns what failed."""
    world, methods, wanted = read_study(path)
    # In a process of its own: what scoring took of the memory would stay beside the runs.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
        made = alone.submit(prepare, world, work).result()
        alone.submit(write_stores, made, [j.source for j in wanted if j.source not in WITHOUT_SCORES]).result()
        reference = alone.submit(ends, made, wanted).result()
    waiting = [job for job in wanted if not finished(made, job)]
    say(f"{world.name}: {len(wanted)} runs, {len(wanted) - len(waiting)} of them finished")
    threads, failed, started = max(1, (os.cpu_count() or 1) // jobs), [], time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(run_alone, made, methods[job.method], job, reference, threads): job for job in waiting}
        for number, future in enumerate(as_completed(futures), start=1):
            job, error = futures[future], future.exception()
            if error is not None:
                failed.append(f"{world.name} {job.key}: {error}")
                say(failed[-1])
                continue
            result = future.result()
            utility = result.get("suite_model_utility")
            say(f"{number}/{len(waiting)} {world.name} {job.key}: {'' if result['reached'] else 'NOT REACHED '}retain NLL "
                f"{result['retain_nll']:.3f}, {result['steps']:.1f} steps{'' if utility is None else f', utility {utility:.3f}'}, "
                f"{result['seconds']:.0f} s, {time.monotonic() - started:.0f} s so far")  # fmt: skip
    if world.facts is not None and not (made.folder / "agreement.json").exists():
        tried = compared(made, [j.source for j in wanted])
        say(f"{world.name}: comparing {len(tried)} candidates with the true spans")
        (made.folder / "agreement.json").write_text(json.dumps(agreement(made, tried)), encoding="utf-8")
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description="Run studies (docs/attribution.md); finished runs are skipped.")
    parser.add_argument("studies", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="working folder; what is finished in it is kept")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each with its share of the cores")
    settings = parser.parse_args()
    settings.out.mkdir(parents=True, exist_ok=True)
    failed = [line for path in settings.studies for line in study(path, settings.out, settings.jobs)]
    for path in settings.studies:
        collect(read_study(path)[0], settings.out, RESULTS)
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
