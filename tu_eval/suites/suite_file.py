"""A suite of your own, from a TOML file:

    holdout = "holdout.jsonl"        # optional: rows that no model was trained on, for membership inference

    [[set]]
    name = "forget"                  # there must be one of this name; all others feed model utility
    data = "forget.jsonl"            # any data spec; a file is looked for beside the TOML file first
    paraphrase = true                # the truth ratio's right answer is paraphrased_answer, not answer

    [[set]]
    name = "world"
    data = "world.jsonl"
    options = true                   # probability of the right answer among the wrong ones
    generate = false                 # no greedy answers and no ROUGE

Rows need question, answer and perturbed_answer (a list of wrong ones), with `facts` also fact_spans. A set with
`wrong = false` does without wrong answers, and without a truth ratio; with `text = "column"` its rows are raw text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.config import checked, read_toml
from shared.errors import ConfigError
from tu_eval.suites.sets import EvalSet, Suite, lacks


def read_suite(path: Path) -> Suite:
    """Its name is the file's. Raises ConfigError naming the file and what is wrong in it."""
    given = read_toml(path, "--suite ")
    if unknown := sorted(set(given) - {"set", "holdout"}):
        raise ConfigError(f"--suite {path}: unknown field {unknown[0]!r}, expected holdout and tables [[set]]")
    tables, holdout = given.get("set"), given.get("holdout")
    if not isinstance(tables, list) or not tables:
        raise ConfigError(f"--suite {path}: no [[set]]; expected one for each set of rows, the first named forget")
    if holdout is not None and not isinstance(holdout, str):
        raise ConfigError(f"--suite {path}: holdout is {holdout!r}, expected a data spec")
    sets = tuple(_set(path, table) for table in tables)
    if wrong := lacks(sets):
        raise ConfigError(f"--suite {path}: {wrong}")
    return Suite(path.stem, sets, holdout=None if holdout is None else _beside(path, holdout))


def _set(path: Path, table: Any) -> EvalSet:
    if not isinstance(table, dict) or not {"name", "data"} <= set(table):
        raise ConfigError(f"--suite {path}: a [[set]] without name or data")
    values = checked(EvalSet, table, f"--suite {path}")
    if values.get("text") is not None:
        values.setdefault("wrong", False)
    return EvalSet(**{**values, "data": _beside(path, values["data"])})


def _beside(path: Path, spec: str) -> str:
    return str(path.parent / spec) if (path.parent / spec).is_file() else spec
