"""What a finished run leaves: a Hugging Face folder with log, curves, configuration, a model card, and what it was made
from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from shared.config import write_config
from shared.console import say
from shared.files.fs import atomic_folder, write_json, write_text
from shared.lm.finished import output_record
from shared.lm.models import choose_dtype, locate
from shared.lm.packed import PackedModel
from shared.lm.saved import rehearse, save_model, stored_dtype, swallowed
from shared.records import TRAINING, RunRecord, TrainingRecord
from tu_train.config import LoopConfig
from tu_train.methods.table import Method
from tu_train.methods.tokens import State
from tu_train.model.lora import export_lora
from tu_train.model.nf4 import Nf4Linear
from tu_train.saving.card import model_card
from tu_train.saving.curves import draw_curves
from tu_train.saving.record import as_begun, changes_nothing
from tu_train.saving.room import require_finite_weights
from tu_train.saving.working_folder import LOG

STATE = "method.json"
"""ATWU's gate, RMU's direction, PDU's multiplier; not safetensors, of which loaders take every file in the folder for
weights"""
BEST = "best"
"""folder of the best model in that of the last one"""


def write_output(
    out: Path, work: Path, config: LoopConfig, model: Any, wrapper: Any, tokenizer: Any, method: Method | None,
    about: RunRecord, counts: dict[str, int], state: State, stopped_early: str | None = None, file_size: str | None = None,
    best: Path | None = None,
) -> None:  # fmt: skip
    """`out` appears whole. `wrapper`: peft's, where adapters were trained; `about`: what it was made from;
    `counts`: rows and steps; `state`: what the method keeps beside the model; `stopped_early`: the rule that ended
    training; `file_size`: see save_model; `best`: folder of the best model, which comes to stand in `out`."""
    source = locate(config.model)
    dtype = output_dtype(config, source)
    with atomic_folder(out) as temporary:
        if wrapper:
            model = export_lora(wrapper, temporary, unlearned=method is not None)
        lost = swallowed(model, source, choose_dtype(dtype)) if dtype != "float32" else (0, 0)
        require_finite_weights(model, {}, choose_dtype(dtype))
        save_model(model, tokenizer, temporary, source=source, dtype=choose_dtype(dtype), file_size=file_size)
        write_config(temporary / "_config.toml", as_begun(config))
        (temporary / LOG).write_bytes((work / LOG).read_bytes())
        if state:
            write_json(temporary / STATE, {name: value.tolist() for name, value in state.items()})
        record = TrainingRecord(**vars(about), counts=counts, stopped_early=stopped_early, output_dtype=dtype, torch=torch.__version__,
                                changes_nothing=tuple(sorted(changes_nothing(config))))  # fmt: skip
        card = partial(model_card, name=out.name, method=method, about=fingerprints(record), counts=counts, settings=about.settings)
        _optional("README.md", lambda: write_text(temporary / "README.md", card()))
        _optional("curves.png", lambda: draw_curves(work / LOG, temporary / "curves.png"))
        if best is not None:
            shutil.copytree(best, temporary / BEST, copy_function=_link)
        if (work / "tensorboard").is_dir():
            shutil.copytree(work / "tensorboard", temporary / "tensorboard")  # where the model is not written in the end, it is still there
        write_json(temporary / TRAINING, replace(record, **output_record(temporary)).to_json())
    if dtype != "float32":
        _say_dtype(out, config, dtype, *lost)


def _link(source: str, to: str) -> None:
    """The same bytes under another name, where the file system can; both are never written to again."""
    try:
        os.link(source, to)
    except OSError:
        shutil.copyfile(source, to)


def fingerprints(record: TrainingRecord) -> dict[str, str]:
    """What the card names: everything that is a text, but for the version of torch, which stands with the others."""
    return {name: value for name, value in record.to_json().items() if isinstance(value, str) and name != "torch"}


def output_dtype(config: LoopConfig, source: Path) -> str:
    """Of the written weights: what was asked for, or that of the model that training began with."""
    return config.save_dtype or stored_dtype(source)


def try_output(work: Path, config: LoopConfig, packed: PackedModel, wrapper: Any, tokenizer: Any) -> int:
    """What can fail in writing the output fails here, before the first step. `wrapper` as in `write_output`. Raises
    ModelError.

    -> bytes that the output will take
    """
    source = locate(config.model)
    dtype = choose_dtype(output_dtype(config, source))
    size = rehearse(packed.model, tokenizer, work / "rehearsal", source=source, dtype=dtype, adapter=wrapper and wrapper.save_pretrained)
    hidden = (m.in_features * m.out_features for m in packed.model.modules() if isinstance(m, Nf4Linear))  # no parameters as yet
    return size + sum(hidden) * dtype.itemsize


def _optional(what: str, make: Callable[[], Any]) -> None:
    """A picture that cannot be drawn is no reason to lose a trained model."""
    try:
        make()
    except (OSError, MemoryError):
        raise
    except Exception as error:
        say(f"{what} was not made: {type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _say_dtype(out: Path, config: LoopConfig, dtype: str, lost: int, changed: int) -> None:
    whose = "as asked" if config.save_dtype else f"the dtype of {config.model}"
    share = (
        f"; rounding to it undid {lost / changed:.0%} of the changed weights (small learning rates move less than it can tell)"
        if lost
        else ""
    )
    say(f"{out}: written in {dtype}, {whose}{share}; --set save_dtype=float32 keeps every digit in twice the bytes")
