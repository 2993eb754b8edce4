"""Training from Python: what `tu-train run` and `tu-train finetune` do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.calls import configured
from tu_train.config import FinetuneConfig, UnlearnConfig
from tu_train.run import run_finetune, run_unlearn


def unlearn(config: UnlearnConfig | None = None, /, **settings: Any) -> Path:
    """Unlearns the forget set of a score store and gives the folder of the trained model. Settings are the fields of
    UnlearnConfig (docs/configuration.md): `unlearn(model="org/my-model", scores="scores", retain="retain.jsonl",
    method="npo", keep=0.3, out="models/unlearned")`. With `resume=True` the same call goes on from a checkpoint.

    The folder's `log.jsonl` has a line a step, losses in nats; `training.json` says what was trained on.

    Raises ConfigError, DataError, ModelError or StoreError before any work for what cannot fit, and ModelError before
    an update that is not finite.
    """
    return run_unlearn(configured(UnlearnConfig, config, settings, call="unlearn"))


def finetune(config: FinetuneConfig | None = None, /, **settings: Any) -> Path:
    """Fine-tunes on every target token of a data set and gives the folder of the trained model: the target model, or
    the retain model that forget quality compares with. Settings are the fields of FinetuneConfig
    (docs/configuration.md): `finetune(model="org/my-model", data="all.jsonl", out="models/target")`.

    Raises ConfigError, DataError or ModelError, as `unlearn` does.
    """
    return run_finetune(configured(FinetuneConfig, config, settings, call="finetune"))
