"""Stage two: unlearning from a score store, with token weights and without a reference model.

From Python: `unlearn`, `finetune` and `METHODS` (docs/python.md); `WeightedDataset`, `Pairs`, `collate`,
`compute_loss` and `export_open_unlearning` for the trainers of others (docs/trainers.md).
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
        f"tu_train: the package `shared` of token-unlearn is hidden: `import shared` finds {_found}, expected "
        f"{Path(__file__).parents[1] / 'shared'}; rename that one, or start Python in another folder (none found: install again)"
    )
    if Path(sys.argv[0]).stem in ("-m", "tu-train"):  # of a command, the line alone
        sys.stderr.write(f"error: {_said}\n")
        raise SystemExit(2) from None
    raise ImportError(_said) from None

if TYPE_CHECKING:
    from tu_train.config import FinetuneConfig, UnlearnConfig
    from tu_train.interface import finetune, unlearn
    from tu_train.methods.table import METHODS, Method
    from tu_train.open_unlearning import export_open_unlearning
    from tu_train.trainers import compute_loss
    from tu_train.weighted import Pairs, WeightedDataset, collate

__all__ = [
    "METHODS",
    "FinetuneConfig",
    "Method",
    "Pairs",
    "UnlearnConfig",
    "WeightedDataset",
    "collate",
    "compute_loss",
    "export_open_unlearning",
    "finetune",
    "unlearn",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "FinetuneConfig": "config",
        "METHODS": "methods.table",
        "Method": "methods.table",
        "Pairs": "weighted",
        "UnlearnConfig": "config",
        "WeightedDataset": "weighted",
        "collate": "weighted",
        "compute_loss": "trainers",
        "export_open_unlearning": "open_unlearning",
        "finetune": "interface",
        "unlearn": "interface",
    },
)
