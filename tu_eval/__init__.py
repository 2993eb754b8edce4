"""The evaluator: metrics of the field for checkpoints, kept by content and compared side by side.

From Python: `evaluate` and `compare` (docs/python.md).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

try:
    from shared.public import lazily
except ImportError:
    _found = getattr(sys.modules.get("shared"), "__file__", None) or "nothing"
    _said = (
        f"tu_eval: the package `shared` of token-unlearn is hidden: `import shared` finds {_found}, expected "
        f"{Path(__file__).parents[1] / 'shared'}; rename that one, or start Python in another folder (none found: install again)"
    )
    if Path(sys.argv[0]).stem in ("-m", "tu-eval"):  # of a command, the line alone
        sys.stderr.write(f"error: {_said}\n")
        raise SystemExit(2) from None
    raise ImportError(_said) from None

if TYPE_CHECKING:
    from tu_eval.compare.comparison import Comparison
    from tu_eval.compare.together import compare
    from tu_eval.measure.config import EvalConfig
    from tu_eval.measure.run import evaluate
    from tu_eval.results.results import Results

__all__ = ["Comparison", "EvalConfig", "Results", "compare", "evaluate"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "Comparison": "compare.comparison",
        "EvalConfig": "measure.config",
        "Results": "results.results",
        "compare": "compare",
        "evaluate": "measure.run",
    },
)
