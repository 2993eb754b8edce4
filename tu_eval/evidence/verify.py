"""A finished folder of tu-eval once more: its hashes, its numbers computed again from its rows, and its signature if it
has one.

Says what was checked. That the rows themselves were measured, nothing in a folder can prove; a signature names who says
so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared import __version__
from shared.console import number_of
from shared.errors import StoreError
from shared.files.fs import read_object
from tu_eval.attacks.depth.run import DEPTH_FOLDER
from tu_eval.attacks.depth.score import summarise as summarise_depth
from tu_eval.attacks.run import ATTACK_FOLDER, numbers_again
from tu_eval.attacks.tamper.curves import summarise as summarise_tamper
from tu_eval.attacks.tamper.run import TAMPER_FOLDER
from tu_eval.choices.run import CHOICES_FOLDER, accuracies
from tu_eval.evidence.sign import check_signature
from tu_eval.harness.run import BENCHMARKS_FOLDER
from tu_eval.judge.run import JUDGE_FOLDER, summarise
from tu_eval.measure.recompute import differs, require_recomputable
from tu_eval.results.folder import ROWS, Finished, FolderKind, ResultRow, read_folder, seal_of
from tu_eval.results.leaks import LEAKS, require_counted
from tu_eval.results.results import SUITE_FOLDER, load_results
from tu_eval.results.summary_form import ROUNDING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

EVIDENCE, PAGE = "evidence.json", "evidence.html"


def verify(folder: Path, key: Ed25519PublicKey | None = None) -> list[str]:
    """-> lines that say what was checked. Raises StoreError for the first thing that does not hold."""
    if not folder.is_dir():
        raise StoreError(f"{folder}: no such folder; expected the --out of a finished command of tu-eval")
    checks: dict[str, Callable[[Path], list[str]]] = {
        SUITE_FOLDER.summary: _results, EVIDENCE: _evidence, ATTACK_FOLDER.summary: _attack,
        CHOICES_FOLDER.summary: _choices, JUDGE_FOLDER.summary: _judge, BENCHMARKS_FOLDER.summary: _benchmarks,
        DEPTH_FOLDER.summary: _depth, TAMPER_FOLDER.summary: _tamper,
    }  # fmt: skip
    kind = next((name for name in checks if (folder / name).exists()), None)
    if kind is None:
        raise StoreError(f"{folder}: holds none of {', '.join(checks)}; expected the --out of a finished command of tu-eval")
    said = checks[kind](folder)
    signer = check_signature(folder, key)
    if signer is None:
        return [*said, "signature: none; who can write the folder can make other rows with other hashes"]
    whose = "the key given" if key is not None else "whose key that is, the folder cannot say (--key PUBLIC.pem)"
    return [*said, f"signature: holds, by {signer}; {whose}"]


def _results(folder: Path) -> list[str]:
    results = load_results(folder)
    done = require_recomputable(results)
    rest = [name for name, value in results.summary["metrics"].items() if value is not None and name not in done]
    said = _leaks(folder, results.summary, SUITE_FOLDER.summary)
    held = [
        f"hashes: {SUITE_FOLDER.summary} and its rows are whole",
        f"metrics: {len(done)} computed again from {number_of(len(results.rows()), 'row')}, the same",
    ]
    return [*held, *said, *([f"metrics: as recorded, not verified, for want of the retain results: {', '.join(rest)}"] if rest else [])]


def _evidence(folder: Path) -> list[str]:
    from tu_eval.evidence.report import page

    path = folder / EVIDENCE
    report = read_object(path)
    if seal_of(report, "evidence_sha256") != report.get("evidence_sha256"):
        raise StoreError(f"{path}: does not match its own hash; it was damaged or edited, make it again")
    _require_sound(path, report.get("measured"))
    verdict = report.get("verdict")
    _require_sound(path, verdict.get("lines") if isinstance(verdict, dict) else None)
    if report.get("version") != __version__:
        return [f"hashes: {EVIDENCE} is whole", f"page: made by version {str(report.get('version'))[:20]}, not compared with {EVIDENCE}"]
    if not (folder / PAGE).is_file():
        raise StoreError(f"{folder / PAGE}: is missing; make the report again")
    if (folder / PAGE).stat().st_size > path.stat().st_size * 20 + 10**6 or (folder / PAGE).read_bytes() != page(report).encode():
        raise StoreError(f"{folder / PAGE}: does not say what {EVIDENCE} says; it was damaged or edited, make it again")
    return [f"hashes: {EVIDENCE} is whole", f"page: says what {EVIDENCE} says"]


def _require_sound(path: Path, measured: Any) -> None:
    """Numbers are finite, and those with an interval lie in it."""
    for entry in measured if isinstance(measured, list) else []:
        what = str(entry.get("metric") or entry.get("name"))[:60] if isinstance(entry, dict) else "an entry"
        for role in ("before", "after", "retain"):
            held = entry.get(role) if isinstance(entry, dict) else None
            value, span = (held.get("value"), held.get("span")) if isinstance(held, dict) else (None, None)
            numbers = [x for x in (value, *(span if isinstance(span, list) else ())) if x is not None]
            if not all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in numbers):
                raise StoreError(f"{path}: a number of {what} is none; it was edited, make it again")
            if value is not None and isinstance(span, list) and (len(span) != 2 or not span[0] - ROUNDING <= value <= span[1] + ROUNDING):
                raise StoreError(f"{path}: {what} lies outside of its interval; it was edited, make it again")


def _read(folder: Path, kind: FolderKind) -> tuple[Finished, list[ResultRow], list[str]]:
    """-> the folder, its rows, and what is said of its hashes."""
    finished = read_folder(folder, kind)
    if finished.sealed:
        return finished, finished.rows(), [f"hashes: {kind.summary} and its rows are whole"]
    said = [f"hashes: {ROWS} is whole", f"{kind.summary}: as recorded, not verified: of an earlier version, without a hash of its own"]
    return finished, finished.rows(), said


def _again(finished: Finished, said: Any, make: Callable[[], Any]) -> str:
    """What `make` computes from the rows is what was said. A fault of the rows is one of the folder: no command wrote
    them so."""
    path = finished.folder / finished.kind.summary
    try:
        found = make()
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError, OverflowError, AttributeError) as error:
        raise StoreError(f"{path}: its rows give no numbers ({type(error).__name__}); it was edited, make it again") from None
    wrong = differs(said, found)
    if wrong is not None:
        raise StoreError(f"{path}: {wrong or 'its numbers'}: not what its rows give; it was edited, make it again")
    return f"numbers of {path.name}: computed again from its rows, the same"


def _choices(folder: Path) -> list[str]:
    finished, rows, said = _read(folder, CHOICES_FOLDER)
    return [*said, _again(finished, finished.summary["metrics"], lambda: accuracies(rows))]


def _judge(folder: Path) -> list[str]:
    from tu_eval.judge.rating import rating

    finished, rows, said = _read(folder, JUDGE_FOLDER)

    def make() -> dict[str, Any]:
        return {**summarise(rows), "replies": [row["rating"] for row in rows]}

    found = {k: finished.summary[k] for k in ("score", "stderr", "turns", "categories", "rated", "unrated")}
    return [*said, _again(finished, {**found, "replies": [rating(row["reply"] or "") for row in rows]}, make)]


def _attack(folder: Path) -> list[str]:
    finished, rows, said = _read(folder, ATTACK_FOLDER)
    said += _leaks(folder, finished.summary, ATTACK_FOLDER.summary)
    return [*said, _again(finished, finished.summary["numbers"], lambda: numbers_again(finished.summary, rows))]


def _leaks(folder: Path, summary: Mapping[str, Any], name: str) -> list[str]:
    if (found := summary.get("leaks")) is None:
        return []
    require_counted(folder, found, name)
    return [f"leaks: {number_of(len(found['secrets']), 'secret')} counted again in {LEAKS}, the same"]


def _depth(folder: Path) -> list[str]:
    finished, rows, said = _read(folder, DEPTH_FOLDER)

    def make() -> dict[str, Any]:
        return summarise_depth(rows, finished.summary["threshold"])

    return [*said, _again(finished, {name: finished.summary.get(name) for name in make()}, make)]


def _tamper(folder: Path) -> list[str]:
    finished, rows, said = _read(folder, TAMPER_FOLDER)
    return [*said, _again(finished, {name: finished.summary[name] for name in ("curves", "least")}, lambda: summarise_tamper(rows))]


def _benchmarks(folder: Path) -> list[str]:
    return [*_read(folder, BENCHMARKS_FOLDER)[2], "numbers: lm-eval's, as recorded, not verified"]
