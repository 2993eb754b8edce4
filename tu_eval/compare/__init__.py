"""Results side by side: intervals, seeds, tables, plots, the page; all measurements of a study.

`from tu_eval import compare` gives this room, which can be called: `compare(["results/a", "results/b"],
out="report.html")` is the function of together.py. It gives a Comparison, whose `table()` is [G][C] estimates, of G
models and C metrics. Raises StoreError for results that are unfinished or do not go together, ConfigError for none.
"""

from __future__ import annotations

import sys
from inspect import Signature, signature
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """A room that does what it is called for. A function beside it could not have its name: importing a room sets the
    name to the room."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        from tu_eval.compare.together import compare

        return compare(*given, **named)

    @property
    def __signature__(self) -> Signature:
        from tu_eval.compare.together import compare

        return signature(compare)


sys.modules[__name__].__class__ = _Room
compare = sys.modules[__name__]
