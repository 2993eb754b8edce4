"""See benchmarks/families/__init__.py."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.families.page import write_page
from benchmarks.families.zoo import BY_NAME, FAMILIES, Family

VLLM_S = 1800
"""for one model in vLLM"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of everything that is made; results.json is in it")
    parser.add_argument("--only", nargs="*", default=[], help="names of families, all by default")
    parser.add_argument("--checks", nargs="*", default=None, help="these checks, again")
    parser.add_argument("--vllm", action="store_true", help="the vLLM engine alone, a process for each family")
    parser.add_argument("--page", type=Path, help="write this page from what has run, and run nothing")
    parser.add_argument("--json", type=Path, help="with --page: also the results, as JSON")
    parser.add_argument("--in-vllm", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.page:
        write_page(given.page, read(given.out), given.json)
        return 0
    if given.in_vllm:
        note(given.out, BY_NAME[given.in_vllm], "vllm")
        return 0
    for family in [BY_NAME[name] for name in given.only] or FAMILIES:
        if given.vllm:
            in_vllm(given.out, family, again=given.checks is not None)
        else:
            run(given.out, family, given.checks)
    return 0


def read(out: Path) -> dict[str, dict[str, Any]]:
    """Results by family and check. vLLM's stand in files of their own, since they may run beside the others."""
    return {f.name: {p.stem: json.loads(p.read_text()) for p in sorted((out / f.name / "results").glob("*.json"))} for f in FAMILIES}


def run(out: Path, family: Family, checks: list[str] | None) -> None:
    """Every check that has no result, or those named."""
    from benchmarks.families.checks import CHECKS

    for check in CHECKS if checks is None else checks:
        if checks is not None or not (out / family.name / "results" / f"{check}.json").exists():
            note(out, family, check)


def note(out: Path, family: Family, check: str) -> dict[str, Any]:
    """Runs a check and writes its result."""
    from benchmarks.families.checks import CHECKS, Refused, Tried, Wrong, check_vllm, prepare

    tried, started = Tried(family, out / family.name), time.monotonic()
    prepare(tried)
    try:
        found = {"ok": True, **{**CHECKS, "vllm": check_vllm}[check](tried)}
    except Refused as refused:
        found = {"ok": False, "line": str(refused).replace(str(tried.folder), family.name)}
    except Wrong as wrong:
        found = {"ok": False, "wrong": str(wrong).replace(str(tried.folder), family.name)}
    found["seconds"] = round(time.monotonic() - started, 1)
    path = tried.folder / "results" / f"{check}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{family.name:12} {check:9} {json.dumps(found, ensure_ascii=False)}", flush=True)
    return found


def in_vllm(out: Path, family: Family, *, again: bool) -> None:
    path = out / family.name / "results" / "vllm.json"
    if path.exists() and not again:
        return
    words = [sys.executable, "-m", "benchmarks.families", "--out", str(out), "--in-vllm", family.name]
    try:
        done = subprocess.run(words, timeout=VLLM_S, capture_output=True, text=True, check=False)
        print(done.stdout.strip().splitlines()[-1] if done.stdout.strip() else f"{family.name} vllm: {done.stderr[-300:]}", flush=True)
    except subprocess.TimeoutExpired:
        print(f"{family.name} vllm: not done after {VLLM_S} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
