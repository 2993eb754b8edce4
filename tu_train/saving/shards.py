"""Tensors of a checkpoint in shards (torch.distributed.checkpoint), as safetensors files: reading runs no code.

    shard-00002-model-00001-of-00003.safetensors    of rank 1 (from 1 on: 2) the first of three files

Each rank writes what it holds, file by file of at most FILE_BYTES of whole tensors, so that no more than that is copied
on the way; what all ranks hold alike one of them writes. Any number of ranks, or one process, reads them: each the
parts that it needs.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared.files.fs import hash_file
from tu_train.ranks import Ranks

FILE_BYTES = 1 << 30


def write_shards(folder: Path, tensors: Mapping[str, Tensor], ranks: Ranks) -> dict[str, str]:
    """-> file names and their sha256. All ranks call it. Raises OSError."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    writer = HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=buckets(tensors), save_distributed=True)
    _call("save", dict(tensors), ranks, storage_writer=writer)
    # Of a network folder a machine may have an old listing, but each knows of what it wrote itself.
    names = sorted({name for own in ranks.gather([path.name for path in folder.glob("*.safetensors")]) for name in own})
    found = {name: hash_file(folder / name) for name in names[ranks.number :: ranks.count]}
    return dict(sorted(pair for own in ranks.gather(found) for pair in own.items()))


def buckets(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Which file each goes to, numbered from 1."""
    out, number, size = {}, 1, 0
    for name, tensor in tensors.items():
        more = tensor.numel() * tensor.element_size()
        if size and size + more > FILE_BYTES:
            number, size = number + 1, 0
        out[name], size = number, size + more
    return out


def forms(folder: Path) -> dict[str, Tensor]:
    """Shape and dtype of each tensor, put together from all files, without its numbers."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    found: Any = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: torch.empty(form.size, dtype=form.properties.dtype, device="meta") for name, form in found.items()}


def read_shards(folder: Path, goal: dict[str, Tensor], ranks: Ranks) -> None:
    """Fills the tensors of `goal`, whole ones or shards."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    _call("load", goal, ranks, storage_reader=HuggingFaceStorageReader(str(folder)))


def _call(name: str, tensors: dict[str, Tensor], ranks: Ranks, **more: Any) -> None:
    """Raises the error of a rank's own file as it was."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    where = {"process_group": ranks.control} if ranks.count > 1 else {"no_dist": True}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            getattr(dcp, name)(tensors, **where, **more)
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from None
