"""Writing a model as an ordinary Hugging Face folder: first its weights, in the dtype asked for, then the files beside
them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import ModelError
from shared.lm.model_files import weight_files

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

GENERATION = "generation_config.json"
NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""dtypes of safetensors that are written; of a model in any other the output is float32"""


def stored_dtype(folder: Path) -> str:
    """The dtype that most numbers of a model's weight files have: float32, bfloat16 or float16; float32 for all others
    (quantised)."""
    count: Counter[str] = Counter()
    for file in weight_files(folder):
        with open(file, "rb") as handle:
            header = json.loads(handle.read(struct.unpack("<Q", handle.read(8))[0]))
        for name, entry in header.items():
            if name != "__metadata__":
                count[entry["dtype"]] += prod(entry["shape"])
    return NAMES.get(count.most_common(1)[0][0], "float32") if count else "float32"


def save_model(
    model: PreTrainedModel, tokenizer: Any, folder: Path, *, source: Path | None = None, dtype: torch.dtype | None = None,
    file_size: str | None = None,
) -> None:  # fmt: skip
    """Writes the weights, in `dtype`, then the rest. The model itself keeps its numbers as they are. `file_size`: of a
    file of weights at most, such as 5GB; unless given, transformers' own.

    `source`: the folder that the model came from, whose generation settings are copied as they are: some (Llama 2's,
    Vicuna's) contradict themselves, and transformers refuses to write those.
    """
    from transformers import GenerationConfig

    whole: Any = model
    own, whole.generation_config = whole.generation_config, GenerationConfig()
    try:
        tensors = None if dtype is None else _in_dtype(whole.state_dict(), dtype)
        whole.save_pretrained(folder, state_dict=tensors, **({"max_shard_size": file_size} if file_size else {}))
    finally:
        whole.generation_config = own
    if dtype is not None:
        whole.config.dtype = str(dtype).removeprefix("torch.")
    save_beside(model, tokenizer, folder, source=source)


def _in_dtype(tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Tensors that share their numbers (tied weights) share them afterwards too."""
    made: dict[tuple, torch.Tensor] = {}
    out = {}
    for name, tensor in tensors.items():
        key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride())
        out[name] = made.setdefault(key, tensor.to(dtype)) if tensor.is_floating_point() and tensor.numel() else tensor
    return out


def save_beside(model: PreTrainedModel, tokenizer: Any, folder: Path, *, source: Path | None = None) -> None:
    """Everything but the weights: configuration, tokenizer, generation settings."""
    model.config.save_pretrained(folder)
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:
        told = re.search(r"\(os error (\d+)\)", str(error))
        if type(error) is not Exception or told is None:
            raise
        raise OSError(int(told[1]), os.strerror(int(told[1])), str(folder)) from None  # tokenizers says a full disk in a bare Exception
    if source is not None and (source / GENERATION).is_file():
        shutil.copyfile(source / GENERATION, folder / GENERATION)


def swallowed(model: PreTrainedModel, source: Path, dtype: torch.dtype) -> tuple[int, int]:
    """-> of the numbers that differ from those in `source`, how many rounding to `dtype` makes equal again, and how
    many there are.

    Reads the source's weights once, a tensor at a time. Tensors that it calls otherwise are left out.
    """
    from safetensors import safe_open

    now, lost, changed = model.state_dict(), 0, 0
    for file in weight_files(source):
        with safe_open(file, "pt") as held:
            for name in held.keys():  # noqa: SIM118
                tensor = now.get(name)
                if tensor is None:
                    continue
                before, after = held.get_tensor(name), tensor.detach().cpu()
                differs = after.float() != before.float()
                changed += int(differs.sum())
                lost += int((differs & (after.to(dtype).float() == before.float())).sum())
    return lost, changed


def rehearse(
    model: PreTrainedModel, tokenizer: Any, folder: Path, *, source: Path, dtype: torch.dtype, adapter: Callable[[Path], Any] | None = None
) -> int:
    """Tries in `folder`, which is removed again, what could fail when the trained model is written, and returns how
    many bytes that will take. Raises ModelError.

    `adapter`: writes the adapter, where one is trained.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        save_beside(model, tokenizer, folder, source=source)
        if adapter is not None:
            adapter(folder / "adapter")
        beside = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except (ValueError, TypeError, AttributeError, KeyError, NotImplementedError, ImportError) as error:
        why = " ".join(str(error).split())[:300]
        raise ModelError(f"model {source}: its configuration or tokenizer cannot be written, so nothing was trained: {why}") from None
    finally:
        shutil.rmtree(folder)
    size, free = sum(p.numel() for p in model.parameters()) * dtype.itemsize + beside, shutil.disk_usage(folder.parent).free
    if free < size:
        from shared.console import readable_bytes

        raise ModelError(f"{folder.parent}: the trained model takes {readable_bytes(size)}, the disk has {readable_bytes(free)} left; "
                         "nothing was trained: make room, or choose another --out")  # fmt: skip
    return size
