"""LoRA (peft): small matrices beside the linear layers train, the weights stay. The result is merged into an ordinary
folder; the adapter alone is kept beside it, since whoever removes it has the model that still knows everything."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shared.errors import ConfigError
from tu_train.model.nf4 import in_full
from tu_train.model.trainable import near

ALL = ("all-linear",)
RECURRENT = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")
"""model types whose kernels read the weight of `out_proj` past an adapter, which peft refuses to put there"""
README = """An adapter that was trained to unlearn. It is kept for study only: **taking it off gives back the model before unlearning**,
everything relearned at once. The folder above holds the merged model, which is what to hand on.
"""
FINETUNED = "The adapter that was trained. The folder above holds the model with it merged in.\n"
WARNING = "an adapter can simply be taken off, which relearns everything: hand on the merged model, not OUT/adapter"


def add_lora(model: Any, rank: int, alpha: float | None, targets: Sequence[str]) -> Any:
    """-> peft's wrapper; `model` itself now has the adapters and runs them. Raises ConfigError for an ending that
    matches no layer."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ConfigError("--lora needs peft, which is not installed: pip install 'token-unlearn[lora]'") from None
    head = model.get_output_embeddings()
    names = [n for n, m in model.named_modules() if m is not head and (isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D")]
    for target in targets if tuple(targets) != ALL else ():
        if not _ending(target, names):
            raise ConfigError(f"--set lora_targets: {target!r} is the ending of no linear layer's name; {near(target, names)}")
    given = tuple(targets) not in ((), ALL)
    chosen = [n for n in names if any(_ending(t, [n]) for t in targets)] if given else default_layers(model, names, every=bool(targets))
    transposed = any(type(m).__name__ == "Conv1D" for m in model.modules())  # GPT-2's layers hold W transposed
    scale: Any = 2 * rank if alpha is None else alpha  # peft takes a float as well as the int it declares
    config = LoraConfig(
        r=rank, lora_alpha=scale, target_modules=chosen, fan_in_fan_out=transposed, lora_dropout=0.0, task_type="CAUSAL_LM"
    )  # fmt: skip
    try:
        return get_peft_model(model, config)
    except ValueError as error:  # layers that it knows to be read past, as in Mamba
        raise ConfigError(f"--lora {rank}: {' '.join(str(error).split())[:300]}") from None


def _ending(target: str, names: Sequence[str]) -> bool:
    return any(n == target or n.endswith("." + target) for n in names)


def default_layers(model: Any, names: Sequence[str], *, every: bool) -> list[str]:
    """Of the linear layers `names` those that peft adapts in this architecture unless told (most often query and
    value); all of them where it knows none, or where `every` is asked for, less those that it refuses."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    known = () if every else TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model.config.model_type, ())
    if isinstance(known, str):  # a pattern over whole names
        chosen = [n for n in names if re.fullmatch(known, n)]
    else:
        chosen = [n for n in names if any(_ending(t, [n]) for t in known)]
    return [n for n in chosen or names if not (model.config.model_type in RECURRENT and _ending("out_proj", [n]))]


def export_lora(wrapper: Any, folder: Path, *, unlearned: bool) -> Any:
    """Keeps the adapter in `folder`/adapter and returns the model with it merged in."""
    adapter = folder / "adapter"
    wrapper.save_pretrained(adapter)
    (adapter / "README.md").write_text(README if unlearned else FINETUNED, encoding="utf-8")
    with torch.no_grad():
        in_full(wrapper)
        return wrapper.merge_and_unload()
