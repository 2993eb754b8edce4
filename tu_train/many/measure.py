"""`tu-train many --suite SUITE`: what was trained is measured by `tu-eval many`, in a process of its own, which ends in
one page. The two programs know nothing of each other: what they share is the study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shared.errors import ConfigError
from shared.process import run_shown
from shared.study import load_study

OWN = "own"
"""the suite of files of one's own, which eval.forget and eval.retain name"""


def with_suite(study: Path, out: Path, sets: Sequence[str], suite: str | None) -> tuple[str, ...]:
    """`sets` in which the study's [eval] names the suite. Raises ConfigError where it is one's own files and nothing
    names them."""
    if suite is None:
        return tuple(sets)
    if suite != OWN:
        return (*sets, f"eval.suite={suite}")
    if "forget" not in load_study(study, out, sets).measures.get("eval", {}):
        raise ConfigError("--suite own: names no files; add --set eval.forget=FILE and --set eval.retain=FILE")
    return tuple(sets)


def measure(study: Path, out: Path, sets: Sequence[str]) -> int:
    """-> the exit code of `tu-eval many`: 1 where a measurement failed, which it says."""
    return run_shown("tu-eval many", [str(study), "--out", str(out), *(part for one in sets for part in ("--set", one))])
