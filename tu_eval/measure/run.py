"""One evaluation, on whichever suite."""

from __future__ import annotations

from tu_eval.measure.config import EvalConfig, kind_of_suite
from tu_eval.results.results import Results


def check_rows(config: EvalConfig) -> None:
    """Raises UserError for a suite that is unknown and for files that cannot be asked; no model is looked at."""
    from tu_eval.suites.own_files import suite_of

    if kind_of_suite(config.suite) == "questions":
        suite_of(config)


def evaluate(config: EvalConfig) -> Results:
    """Runs the suite and writes the results folder. Raises UserError before any work for everything that cannot fit."""
    kind = kind_of_suite(config.suite)
    if kind == "muse":
        from tu_eval.measure import muse as suite
    elif kind == "lume":
        from tu_eval.measure import lume as suite
    else:
        from tu_eval.measure import questions as suite
    return suite.evaluate(config)
