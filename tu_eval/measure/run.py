"""One evaluation, on whichever suite."""

from __future__ import annotations

from tu_eval.measure.config import EvalConfig, kind_of_suite
from tu_eval.results.results import Results


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
