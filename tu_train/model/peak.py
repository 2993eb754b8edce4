"""How many bytes tensors fill at most while code runs on tensors that have shapes and no numbers.

Every operation's outputs are counted from the moment they are made until nothing holds them: the same code that trains
says what it would hold. Cost: that of Python and of the shapes, whatever the size of the model.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map_only

from tu_train.model.thrifty import moment_bytes

aten = torch.ops.aten


def _places(mask: Tensor) -> Tensor:
    """As many as there may be."""
    return torch.zeros(mask.numel(), dtype=torch.long, device=mask.device)


NUMBERS: dict[Any, Callable[..., Any]] = {
    aten.nonzero.default: lambda mask: torch.zeros(mask.numel(), mask.ndim, dtype=torch.long, device=mask.device),
    aten._local_scalar_dense.default: lambda _: 1,
}
"""operations whose outcome is a matter of numbers: the most that it can be"""


class Peak(TorchDispatchMode):
    """While active, `most` is the largest sum of bytes of what was made inside and was alive together."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in NUMBERS:
            return NUMBERS[func](*args)
        if func is aten.index.Tensor:
            args = (args[0], [_places(i) if i is not None and i.dtype == torch.bool else i for i in args[1]])
        out = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._count, out)
        return out

    def known(self, tensors: Iterator[Tensor]) -> None:
        """What was there before is not counted when an operation gives it back."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._alive[storage._cdata] = weakref.ref(storage)

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if (known := self._alive.get(key)) is not None and known() is storage:
            return

        def gone(_: Any) -> None:
            self.now -= size
            self._alive.pop(key, None)

        self._alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.most = max(self.most, self.now)


@contextmanager
def without_numbers() -> Iterator[Callable[[], Any]]:
    """Inside, tensors have shapes, dtypes and devices, and fill no memory. What is given leaves that for a block: for
    small index tensors, whose numbers are looked at."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        yield _disable_current_modes


def fill_with_shapes(model: torch.nn.Module) -> None:
    """Parameters and buffers on the meta device become tensors without numbers of the mode that is active; what is
    shared stays shared."""
    made: dict[int, Tensor] = {}

    def shape(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype)
            parameter = isinstance(tensor, torch.nn.Parameter)
            made[id(tensor)] = torch.nn.Parameter(empty, requires_grad=tensor.requires_grad) if parameter else empty
        return made[id(tensor)]

    before = [*model.parameters(), *model.buffers()]  # held, so that no id is used twice
    for module in model.modules():
        tables: list[dict[str, Any]] = [module._parameters, module._buffers]
        for held in tables:
            held.update({name: shape(tensor) for name, tensor in held.items() if tensor is not None})
    del before


def bytes_of(tensors: Any) -> int:
    """Of the storages behind tensors; those that share one count once."""
    return sum({(s := t.untyped_storage())._cdata: s.nbytes() for t in tensors}.values())


def bytes_a_weight(optimizer: str, moments: str) -> float:
    """Moments of an optimizer, for each parameter that trains."""
    return 2 if optimizer == "adamw8bit" else moment_bytes(moments)
