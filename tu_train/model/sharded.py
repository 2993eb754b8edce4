"""A model in shards (FSDP2): each rank holds its share of every parameter that lies in a block or beside the blocks.

Weights are whole only inside the forward pass of one root module: the parameters beside the blocks (embedding, last
norm, head) for as long as its graph lives, those of a block while it runs. So everything that reads weights, the head
and losses of whole distributions too, runs as `packed.whole(function)`.

Gradients are sums over ranks, not means: a loss is divided by the denominators of the whole step already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from shared.lm.packed import PackedModel
from tu_train.model.exchange import Gather, ReduceScatter


class Root(nn.Module):
    """Runs whatever it is given."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], Any]) -> Any:
        return function()


def mesh_on(device: torch.device) -> Any:
    """All ranks in a row, each with a device of this kind."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device.type, (torch.distributed.get_world_size(),))


def shard(packed: PackedModel, blocks: Iterable[Any], mesh: Any) -> None:
    """The model keeps this rank's share of itself, on the devices of `mesh`, block by block: no device ever holds it
    whole. Every rank does it."""
    from torch.distributed.fsdp import fully_shard

    root = Root(packed.model)
    inside = list(blocks)
    parts = [*inside, root]
    for part in parts:
        made: Any = fully_shard(part, mesh=mesh)
        made.set_gradient_divide_factor(1.0)
        made.set_force_sum_reduction_for_comms(True)  # gloo knows no other
        if mesh.device_type == "cpu":
            made.set_custom_all_gather(Gather())
            made.set_custom_reduce_scatter(ReduceScatter())
    packed.root = _Whole(root, inside)


def ready(packed: PackedModel) -> None:
    """Every rank has its shard. What trains is read off a parameter when it is first whole, which has to be before
    adapters are switched off for a reference."""
    if packed.root is None:
        return
    with torch.no_grad():
        packed.whole(lambda: None)
        for part in packed.root.blocks:  # type: ignore[attr-defined]
            part.unshard()
            part.reshard()


def gathered(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Each of them whole, one at a time, on every rank."""
    for name, tensor in tensors:
        yield name, tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def here(tensor: Tensor) -> Tensor:
    """What this process has of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class _Whole:
    """`packed.root`: calls inside of the root's forward. Where the result is a pair, gradients begin at its first
    tensor; the others are for looking at."""

    def __init__(self, root: Any, blocks: Sequence[Any]):
        self.root, self.blocks = root, blocks

    def __call__(self, function: Callable[[], Any]) -> Any:
        made: list[Any] = []

        def run() -> Any:
            made.append(function())
            return made[0][0] if isinstance(made[0], tuple) else None

        self.root(run)
        if not torch.is_grad_enabled():
            self.root.reshard()  # or the next pass would read what the weights are now
        return made[0]
