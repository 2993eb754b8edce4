"""How many bytes tensors fill at most while code runs on tensors that have shapes and no numbers.

Every operation's outputs are counted from the moment they are made until nothing holds them: the same code that trains
says what it would hold. Cost: that of Python and of the shapes, whatever the size of the model.

Of several ranks one is counted. Its weights are whole for a while: tensors whose storages are given bytes, and lose
them again, so that counts too.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._guards import active_fake_mode
from torch.distributed.tensor import DTensor
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
    """While active, `most` is the largest sum of bytes of what was made inside and was alive together, and `gathered`
    what whole weights of a model in shards had of it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = self.whole = self.gathered = 0
        self._alive: dict[int, tuple[weakref.ref[Any], list[int]]] = {}
        """storages by their place, with the bytes that count"""
        self._mode: Any = None

    def __enter__(self) -> Any:
        self._mode, self._resize = active_fake_mode(), torch.UntypedStorage.resize_
        real = self._resize

        def resize(storage: Any, size: int) -> Any:
            before = storage.nbytes()
            out = real(storage, size)
            self._resized(storage, before)
            return out

        torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign]
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*exception)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it takes itself apart, and what it does with its parts comes here
        if func in NUMBERS:
            return NUMBERS[func](*args)
        if func is aten.index.Tensor:
            args = (args[0], [_places(i) if i is not None and i.dtype == torch.bool else i for i in args[1]])
        out = func(*args, **(kwargs or {}))
        if active_fake_mode() is self._mode:  # else it only asks for the shape of a whole tensor
            tree_map_only(Tensor, self._count, out)
        return out

    def known(self, tensors: Iterator[Tensor]) -> None:
        """What was there before is not counted when an operation gives it back."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._alive[storage._cdata] = weakref.ref(storage), [0]

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if (known := self._alive.get(storage._cdata)) is None or known[0]() is not storage:
            self._add(storage, storage.nbytes())

    def _add(self, storage: Any, size: int) -> list[int]:
        key, counted = storage._cdata, [size]

        def gone(_: Any) -> None:
            self.now -= counted[0]
            self._alive.pop(key, None)

        self._alive[key] = weakref.ref(storage, gone), counted
        self._grow(size)
        return counted

    def _grow(self, size: int) -> None:
        self.now += size
        if self.now > self.most:
            self.most, self.gathered = self.now, self.whole

    def _resized(self, storage: Any, before: int) -> None:
        """Whole weights come and go so. Of a storage that was there before, only what it grows by counts."""
        after, known = storage.nbytes(), self._alive.get(storage._cdata)
        counted = known[1] if known is not None and known[0]() is storage else self._add(storage, 0)
        added = max(after - before, -counted[0])
        counted[0] += added
        self.whole += added
        self._grow(added)


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
