"""One evaluation, on whichever suite."""

from __future__ import annotations

from typing import Any

from shared.calls import configured
from tu_eval.measure.config import EvalConfig, kind_of_suite
from tu_eval.results.results import Results


def check_rows(config: EvalConfig) -> None:
    """Raises UserError for a suite that is unknown and for files that cannot be asked; no model is looked at."""
    from tu_eval.suites.own_files import suite_of

    if kind_of_suite(config.suite) == "questions":
        suite_of(config)


def evaluate(config: EvalConfig | None = None, /, **settings: Any) -> Results:
    """Runs a suite, writes the results folder and gives what is in it: what `tu-eval run` does. Settings are the fields
    of EvalConfig (docs/configuration.md): `evaluate(model="models/unlearned", suite="tofu:forget01", out="results")`.
    `summary["metrics"]` of the results holds a number a metric (docs/evaluation.md), `rows()` a dictionary a row.

    Raises ConfigError, DataError, ModelError or StoreError before any work for everything that cannot fit.
    """
    asked = configured(EvalConfig, config, settings, call="evaluate")
    kind = kind_of_suite(asked.suite)
    if kind == "muse":
        from tu_eval.measure import muse as suite
    elif kind == "lume":
        from tu_eval.measure import lume as suite
    else:
        from tu_eval.measure import questions as suite
    return suite.evaluate(asked)
