"""Stage one: which tokens carry the knowledge? Scores every token once and writes the score store.

From Python: `score`, `open_scores` and `Scores` (docs/python.md).
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
        f"tu_score: the package `shared` of token-unlearn is hidden: `import shared` finds {_found}, expected "
        f"{Path(__file__).parents[1] / 'shared'}; rename that one, or start Python in another folder (none found: install again)"
    )
    if Path(sys.argv[0]).stem in ("-m", "tu-score"):  # of a command, the line alone
        sys.stderr.write(f"error: {_said}\n")
        raise SystemExit(2) from None
    raise ImportError(_said) from None

if TYPE_CHECKING:
    from tu_score.config import ScoreConfig
    from tu_score.interface import Scores, open_scores, score

__all__ = ["ScoreConfig", "Scores", "open_scores", "score"]

__getattr__, __dir__ = lazily(__name__, {"ScoreConfig": "config", "Scores": "interface", "open_scores": "interface", "score": "interface"})
