"""Everything that touches lm-eval.

lm-eval can keep what a model answered (`use_cache`) and what it was asked (`cache_requests`), both under names of
models and tokenizers, so that another checkpoint under an old name would get an old answer. Neither is used here.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from shared.console import say
from shared.errors import ConfigError


def require_lm_eval() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError('lm-eval is not installed; install it with pip install "token-unlearn[eval]"')


@contextmanager
def said_once() -> Iterator[None]:
    """lm-eval's warnings as lines of ours, each kind once. Progress bars of the data are shown on a terminal only."""
    import datasets

    seen: set[str] = {"lm_eval.tasks._index"}  # it tells of each YAML file that stands in for one of its own, asked for or not

    class Once(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kind = f"{record.name}:{record.lineno}"
            if record.name not in seen and kind not in seen:
                seen.add(kind)
                say("lm-eval: " + " ".join(record.getMessage().split())[:300])

    logger, handler = logging.getLogger("lm_eval"), Once(logging.WARNING)
    propagated, verbosity, bars = logger.propagate, datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    logger.propagate = False
    logger.addHandler(handler)
    datasets.logging.set_verbosity(logging.CRITICAL)  # what it says of a file comes with the error, too
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated
        datasets.logging.set_verbosity(verbosity)
        if not bars:
            datasets.enable_progress_bars()
