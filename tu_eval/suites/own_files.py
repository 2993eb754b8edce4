"""Files of your own as a suite: question-answer rows to forget and rows to keep, each with what its rows have.

A set uses wrong answers (perturbed_answer), a paraphrased answer and fact spans where all of its rows have them, so
that a mean speaks of all rows; what is missing is told once, with what it costs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.data.datasets import Keys, Row, load_rows
from shared.errors import DataError
from shared.secret import without_secrets
from tu_eval.suites.sets import EvalSet, Suite
from tu_eval.suites.suites import find_suite

NAME = "own"
"""what the results call such a suite; which rows it was is in their fingerprint"""
LACKING = {
    "perturbed_answer": "no truth ratio and no forget quality",
    "paraphrased_answer": "truth ratios set wrong answers against the answer itself",
    "fact_spans": "whole answers count, not the facts in them",
}
"""column -> what is not measured without it"""
MADE = ("perturbed_answer",)
"""columns that tu-eval prepare makes"""


class AsksFiles(Protocol):
    """The fields of a configuration that say which rows are asked."""

    @property
    def suite(self) -> str | None: ...
    @property
    def forget(self) -> str | None: ...
    @property
    def limit(self) -> int | None: ...


@dataclass(frozen=True)
class OwnFiles:
    suite: Suite
    missing: str | None
    """a line about what the rows do not have"""


def suite_of(config: AsksFiles, sets: Sequence[str] = ("forget", "retain")) -> OwnFiles:
    """The suite that a configuration names, or that of its files, which are the fields `sets`. Raises ConfigError or
    DataError."""
    if config.forget is None:
        assert config.suite is not None, "the configuration has checked it"
        return OwnFiles(find_suite(config.suite), None)
    files = {name: getattr(config, name) for name in sets}
    return own_files(files, limit=config.limit, text=getattr(config, "text_key", None), holdout=getattr(config, "holdout", None))


def own_files(files: dict[str, str], *, limit: int | None, text: str | None, holdout: str | None) -> OwnFiles:
    """`files`: set -> data spec. Raises DataError naming the file and the row that cannot be used."""
    sets, lacking = [], {}
    for name, spec in files.items():
        rows = read_rows(spec, f"--{name}", limit=limit, text=text)
        held = {column: sum(_has(row, column) for row in rows) for column in LACKING}
        has = {column: text is None and count == len(rows) for column, count in held.items()}
        wrong = has["perturbed_answer"]
        sets.append(
            EvalSet(name=name, data=spec, wrong=wrong, paraphrase=wrong and has["paraphrased_answer"], facts=has["fact_spans"], text=text)
        )
        if text is None:
            lacking |= {(column, name): f"{held[column]} of {len(rows)}" for column in LACKING if not has[column]}
    return OwnFiles(Suite(NAME, tuple(sets), holdout), _told(lacking))


def read_rows(spec: str, flag: str, *, limit: int | None = None, text: str | None = None, keys: Keys | None = None) -> list[Row]:
    """Raises DataError that names the flag, and says how a file with other columns is read."""
    try:
        return load_rows(spec, keys=keys or Keys(text=text), limit=limit)
    except DataError as error:
        said = str(error)
        if "--question-key" in said and text is None:
            said = re.sub(r"[;,] see --[\w-]+(?:,? (?:and|or)? ?--[\w-]+)*", "", said)
            said += "; expected a question and an answer in each row (tu-eval prepare, with --question-key and --answer-key, writes such "
            said += "a file), or raw text with --text-key"
        raise DataError(said if said.startswith(flag) else f"{flag} {without_secrets(spec)}: {said}") from None


def _has(row: Row, column: str) -> bool:
    return bool(row.extra.get(column))


def _told(lacking: dict[tuple[str, str], str]) -> str | None:
    """`forget 0 of 20 and retain 3 of 10 rows have perturbed_answer: no truth ratio ...; ...`."""
    parts: list[str] = []
    for column, cost in LACKING.items():
        found: Sequence[str] = [f"{count} rows of {name}" for (which, name), count in lacking.items() if which == column]
        if found:
            parts.append(f"{' and '.join(found)} have {column}: {cost}{' (tu-eval prepare makes them)' if column in MADE else ''}")
    return "; ".join(parts) or None
