"""How shards on CPUs come together and gradients are summed: ranks send each other what the other one needs.

gloo's own gather copies everything once more, and its reduce-scatter adds up whole gradients on every rank and then
drops most of them: two ranks were 1.13 times as fast without both. Other networks (NCCL) keep their own collectives.
Asked not to wait (`async_op`) they wait all the same: torch's FSDP goes on only with handles of its own kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup


class Allocating:
    """Allocation as torch's own does it."""

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class Gather(Allocating):
    """Of each rank's piece the whole, in the order of ranks."""

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: ProcessGroup, async_op: bool = False) -> None:
        places = output_tensor.view(group.size(), -1)
        own = places[group.rank()]
        if own.data_ptr() != input_tensor.data_ptr():
            own.copy_(input_tensor.view(-1))
        others = _others(group)
        _exchange(group, dict.fromkeys(others, own), {other: places[other] for other in others})


class ReduceScatter(Allocating):
    """Of each rank's whole gradient this rank's piece of their sum, added in the order of ranks."""

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: ProcessGroup, op: Any, async_op: bool = False) -> None:
        pieces = input_tensor.view(group.size(), -1)
        theirs = {other: torch.empty_like(output_tensor) for other in _others(group)}
        _exchange(group, {other: pieces[other] for other in theirs}, theirs)
        found = {**theirs, group.rank(): pieces[group.rank()]}
        output_tensor.copy_(found[0])
        for rank in range(1, group.size()):
            output_tensor.add_(found[rank])


def _exchange(group: ProcessGroup, sent: dict[int, Tensor], received: dict[int, Tensor]) -> None:
    """To and from each other rank; all of it is there afterwards."""
    works = [torch.distributed.isend(piece, group=group, group_dst=other) for other, piece in sent.items()]
    works += [torch.distributed.irecv(place, group=group, group_src=other) for other, place in received.items()]
    for work in works:
        if work is not None:
            work.wait()


def _others(group: ProcessGroup) -> list[int]:
    return [rank for rank in range(group.size()) if rank != group.rank()]
