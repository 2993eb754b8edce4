"""What a finished run leaves: a Hugging Face folder with log, curves, configuration, a model card, and what it was made from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from shared.config import as_dict, write_config
from shared.fs import atomic_folder, write_json, write_text
from shared.models import save_model
from shared.packed import PackedModel
from tu_train.card import model_card
from tu_train.config import LoopConfig
from tu_train.curves import draw_curves
from tu_train.lora import export_lora
from tu_train.methods import Method, State
from tu_train.saving import LOG, RECORD

STATE = "method.json"
"""ATWU's gate, RMU's direction, PDU's multiplier; not safetensors, of which loaders take every file in the folder for weights"""


def write_output(
    out: Path, work: Path, config: LoopConfig, packed: PackedModel, wrapper: Any, tokenizer: Any, method: Method | None,
    about: dict[str, Any], counts: dict[str, int], state: State,
) -> None:  # fmt: skip
    """`out` appears whole. `wrapper`: peft's, where adapters were trained; `about`: fingerprints; `counts`: rows and steps; `state`: what
    the method keeps beside the model."""
    settings = as_dict(config)
    with atomic_folder(out) as temporary:
        model = export_lora(wrapper, temporary, unlearned=method is not None) if wrapper else packed.model
        save_model(model, tokenizer, temporary)
        write_config(temporary / "_config.toml", config)
        write_json(temporary / RECORD, {"format": 1, **about, "counts": counts, "settings": settings, "torch": torch.__version__})
        named = {name: value for name, value in about.items() if isinstance(value, str)}
        write_text(temporary / "README.md", model_card(name=out.name, method=method, about=named, counts=counts, settings=settings))
        (temporary / LOG).write_bytes((work / LOG).read_bytes())
        if state:
            write_json(temporary / STATE, {name: value.tolist() for name, value in state.items()})
        draw_curves(work / LOG, temporary / "curves.png")
        if (work / "tensorboard").is_dir():
            os.replace(work / "tensorboard", temporary / "tensorboard")
