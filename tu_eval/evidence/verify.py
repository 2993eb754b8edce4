"""A finished folder of tu-eval once more: its hashes, its numbers computed again from its rows, and its signature if it
has one.

Says what was checked. That the rows themselves were measured, nothing in a folder can prove; a signature names who says
so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared import __version__
from shared.errors import StoreError
from shared.files.fs import hash_file, hash_json
from tu_eval.attacks import run as attack
from tu_eval.choices import run as choices
from tu_eval.evidence.sign import check_signature
from tu_eval.harness import run as benchmarks
from tu_eval.judge import run as judge
from tu_eval.measure.recompute import SAME, require_recomputable
from tu_eval.results.json_file import read_object
from tu_eval.results.results import SUMMARY, load_results
from tu_eval.results.shape import ROUNDING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

EVIDENCE, PAGE = "evidence.json", "evidence.html"
HINT = "the file is damaged, make it again"


def verify(folder: Path, key: Ed25519PublicKey | None = None) -> list[str]:
    """-> lines that say what was checked. Raises StoreError for the first thing that does not hold."""
    if not folder.is_dir():
        raise StoreError(f"{folder}: no such folder; expected the --out of a finished command of tu-eval")
    checks: dict[str, Callable[[Path], list[str]]] = {
        SUMMARY: _results, EVIDENCE: _evidence, attack.NUMBERS: _attack, choices.NUMBERS: _choices, judge.NUMBERS: _judge,
        benchmarks.NUMBERS: _benchmarks,
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
    held = [f"hashes: {SUMMARY} and its rows are whole", f"metrics: {len(done)} computed again from {len(results.rows())} rows, the same"]
    return [*held, *([f"metrics: as recorded, not verified, for want of the retain results: {', '.join(rest)}"] if rest else [])]


def _evidence(folder: Path) -> list[str]:
    from tu_eval.evidence.report import page

    path = folder / EVIDENCE
    report = read_object(path, hint=HINT)
    if hash_json({k: v for k, v in report.items() if k != "evidence_sha256"}) != report.get("evidence_sha256"):
        raise StoreError(f"{path}: does not match its own hash; it was damaged or edited, make it again")
    _require_sound(path, report.get("measured"))
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
        for role in ("before", "after", "retain"):
            held = entry.get(role) if isinstance(entry, dict) else None
            value, span = (held.get("value"), held.get("span")) if isinstance(held, dict) else (None, None)
            numbers = [x for x in (value, *(span if isinstance(span, list) else ())) if x is not None]
            if not all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in numbers):
                raise StoreError(f"{path}: a number of {str(entry.get('metric'))[:60]} is none; it was edited, make it again")
            if value is not None and isinstance(span, list) and (len(span) != 2 or not span[0] - ROUNDING <= value <= span[1] + ROUNDING):
                raise StoreError(f"{path}: {str(entry.get('metric'))[:60]} lies outside of its interval; it was edited, make it again")


def _numbers(folder: Path, name: str, rows: str) -> tuple[Path, dict[str, Any], list[dict[str, Any]]]:
    """The JSON of a command, and its rows, whose hash it holds."""
    import pyarrow.parquet

    from tu_eval.results.parquet_file import read_table, rows_of

    path = folder / name
    about = read_object(path, hint=HINT)
    if about.get("format") != 1:
        raise StoreError(f"{path}: has format {str(about.get('format'))[:20]}, this version reads 1; update token-unlearn or make it again")
    if not (folder / rows).is_file() or hash_file(folder / rows) != about.get("rows_sha256"):
        raise StoreError(f"{folder / rows}: does not match the hash in {name}; it was damaged or edited, make it again")
    count = rows_of(folder / rows)
    columns = pyarrow.parquet.read_schema(folder / rows)
    return path, about, read_table(folder / rows, columns, rows=count, required=frozenset())


def _again(path: Path, said: Any, make: Callable[[], Any]) -> str:
    """What `make` computes from the rows is what was said. A fault of the rows is one of the folder: no command wrote
    them so."""
    try:
        found = make()
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError, OverflowError, AttributeError) as error:
        raise StoreError(f"{path}: its rows give no numbers ({type(error).__name__}); it was edited, make it again") from None
    differs = _differs(said, found)
    if differs is not None:
        raise StoreError(f"{path}: {differs or 'its numbers'}: not what its rows give; it was edited, make it again")
    return f"numbers of {path.name}: computed again from its rows, the same"


def _differs(said: Any, found: Any, at: str = "") -> str | None:
    """Where two JSON values differ, numbers by more than SAME; None where nowhere."""
    if isinstance(found, dict):
        if not isinstance(said, dict) or set(said) != set(found):
            return at
        return next((d for k in found if (d := _differs(said[k], found[k], f"{at} {k}".strip())) is not None), None)
    if isinstance(found, list):
        if not isinstance(said, list) or len(said) != len(found):
            return at
        return next((d for k, v in enumerate(found) if (d := _differs(said[k], v, f"{at} {k}".strip())) is not None), None)
    if isinstance(found, float) and isinstance(said, int | float) and not isinstance(said, bool):
        same = math.isclose(said, found, rel_tol=SAME, abs_tol=SAME) or (math.isnan(found) and math.isnan(said))
        return None if same else at
    return None if said == found and isinstance(said, bool) == isinstance(found, bool) else at


def _choices(folder: Path) -> list[str]:
    path, about, rows = _numbers(folder, choices.NUMBERS, choices.ROWS)
    return [f"hashes: {choices.ROWS} is whole", _again(path, about.get("metrics"), lambda: choices.accuracies(rows))]


def _judge(folder: Path) -> list[str]:
    path, about, rows = _numbers(folder, judge.NUMBERS, judge.ROWS)

    def make() -> dict[str, Any]:
        return {**judge.summarise(rows), "replies": [row["rating"] for row in rows]}

    found = {k: about.get(k) for k in ("score", "stderr", "turns", "categories", "rated", "unrated")}
    from tu_eval.judge.rating import rating

    return [f"hashes: {judge.ROWS} is whole", _again(path, {**found, "replies": [rating(row["reply"] or "") for row in rows]}, make)]


def _attack(folder: Path) -> list[str]:
    path, about, rows = _numbers(folder, attack.NUMBERS, attack.ROWS)
    return [f"hashes: {attack.ROWS} is whole", _again(path, about.get("numbers"), lambda: attack.numbers_again(about, rows))]


def _benchmarks(folder: Path) -> list[str]:
    _numbers(folder, benchmarks.NUMBERS, benchmarks.ROWS)
    return [f"hashes: {benchmarks.ROWS} is whole", "numbers: lm-eval's, as recorded, not verified"]
