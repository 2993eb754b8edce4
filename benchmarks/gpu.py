"""Everything that only a GPU can show, in one command of at most ten minutes; it prints one JSON object.

    python -m benchmarks.gpu [--tiny] [--device cuda] [--minutes 10] [--only CHECK ...]

It needs torch (2.11 or later), transformers (5.16 or later), numpy, pyarrow and safetensors, with what these bring, and
no network: models and data are made here. Trainer is measured where accelerate is installed. Without a GPU it runs on
the CPU, where `--tiny` keeps it to seconds.

    checks     of each: the largest differences found, what they may be, and whether it passed
               attention    packed rows (on a GPU by flex attention) against each sequence by itself, with gradients
               head         log-probabilities and gradients in blocks against all logits in float64
               methods      steps of every method against the CPU's in float32
               forms        the same with activations kept instead of computed again, and in bfloat16
               resume       the command, told to stop and resumed, against an undisturbed run
    speed      by shape of model: NPO's tokens/s and peak memory, computing activations again (ours) and keeping them
               (kept), against a plain padded loop and Hugging Face's Trainer, both with full logits and a copy of the
               model as reference; ratios are to the padded loop in the same dtype

A check that breaks is reported as not passed, with its error, and the others go on. Exit code 1 where one did not pass.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_checks import CHECKS, Found, Place
from benchmarks.gpu_speed import Sizes, speed

TINY: dict[str, tuple[Sizes, int]] = {"tiny": ((4, 2, 40), 1)}
WHOLE: dict[str, tuple[Sizes, int]] = {"135M": ((16, 8, 120), 2), "1B": ((16, 6, 120), 1)}
"""shape -> sizes, rounds"""
RESERVE = 0.15
"""share of the time in which nothing new is begun"""


def check(run: Callable[[Place], Found], place: Place) -> dict[str, Any]:
    try:
        found = run(place)
    except Exception as error:  # of whatever kind: the other checks go on, and the report says which one broke
        traceback.print_exc()
        return {"passed": False, "error": f"{type(error).__name__}: {str(error)[:400]}"}
    passed = all(value <= bound for value, bound in found.values())  # not so for NaN
    return {"passed": passed, **{name: {"found": float(f"{value:.3g}"), "most": bound} for name, (value, bound) in found.items()}}


def about(device: torch.device) -> dict[str, Any]:
    cuda = device.type == "cuda"
    return {"device": torch.cuda.get_device_name(device) if cuda else "cpu", "python": platform.python_version(),
            "cuda": torch.version.cuda, "threads": torch.get_num_threads(),
            **{name: version(name) for name in ("torch", "transformers")}}  # fmt: skip


def report(device: torch.device, *, tiny: bool, minutes: float, only: list[str] | None = None) -> dict[str, Any]:
    start, checks, speeds = time.monotonic(), {}, {}

    def over() -> bool:
        return time.monotonic() - start > 60 * minutes * (1 - RESERVE)

    with tempfile.TemporaryDirectory() as folder:
        place = Place(device, Path(folder), tiny)
        for name, run in CHECKS.items():
            if only is None or name in only:
                checks[name] = {"passed": False, "error": "no time left"} if over() else check(run, place)
    for shape, (sizes, rounds) in (TINY if tiny else WHOLE).items():
        if (only is None or "speed" in only) and not over():
            try:
                speeds[shape] = speed(shape, device, sizes, rounds, over)
            except Exception as error:  # as above
                traceback.print_exc()
                checks[f"speed {shape}"] = {"passed": False, "error": f"{type(error).__name__}: {str(error)[:400]}"}
    passed = all(found["passed"] for found in checks.values())
    return {**about(device), "passed": passed, "checks": checks, "speed": speeds, "seconds": round(time.monotonic() - start, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="small enough for a CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only", nargs="*", choices=[*CHECKS, "speed"])
    given = parser.parse_args()
    with redirect_stdout(sys.stderr):  # what Trainer prints
        found = report(torch.device(given.device), tiny=given.tiny, minutes=given.minutes, only=given.only)
    print(json.dumps(found, indent=1))
    sys.exit(0 if found["passed"] else 1)


if __name__ == "__main__":
    main()
