"""What a checkpoint holds, taken from a run and put back into it; how it lies on the disk is checkpoint.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared.errors import StoreError
from shared.records import RunRecord
from tu_train.methods.tokens import State
from tu_train.ranks import ALONE, Ranks
from tu_train.saving.shards import read_shards
from tu_train.saving.snapshot_form import FOREIGN, check_entries, check_numbers, snapshot_parts
from tu_train.stopping.landing import WEIGHTS

OVER = "over"


@dataclass(frozen=True)
class Moving:
    """Everything that a step changes, and so everything that a checkpoint holds."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Any
    """a torch scheduler, or None where the rate follows from the step"""
    state: State
    """what the method keeps beside the model"""
    landing: State = field(default_factory=dict)
    """the weights of the evaluation before (landing.py)"""

    @property
    def trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}


@dataclass
class Snapshot:
    step: int
    """optimizer steps done"""
    tensors: dict[str, Tensor]
    """`model/NAME`, `optimizer/NAME/KEY`, `state/NAME`, `landing/NAME`, `rng/DEVICE`"""
    about: RunRecord
    """compared on resume field by field"""
    numbers: dict[str, Any] = field(default_factory=dict)
    """what is no tensor: options of the parameter groups, schedule, counters of the optimizer"""
    ranks: int = 1
    """that made it"""
    shards: Path | None = None
    """where the tensors are to be read from, in parts; they are then empty ones of that form"""

    @property
    def over(self) -> bool:
        """Nothing is left to train, only the model to write: such a checkpoint has no optimizer."""
        return self.numbers.get(OVER) is True


def capture(moving: Moving, step: int, about: RunRecord, ranks: Ranks = ALONE) -> Snapshot:
    """Copies on the CPU of everything that a step changes; of a model in shards the tensors themselves."""
    tensors: dict[str, Tensor] = {f"model/{name}": p for name, p in moving.trained.items()}
    tensors |= {f"{kind}/{name}": value for kind in ("state", "landing") for name, value in getattr(moving, kind).items()}
    counters: dict[str, dict[str, Any]] = {}
    saved, names = moving.optimizer.state_dict(), _names(moving)
    for index, entries in saved["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{names[index]}/{key}"] = value
            else:
                counters.setdefault(names[index], {})[key] = value
    tensors["rng/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors |= {f"rng/cuda:{k}": value for k, value in enumerate(torch.cuda.get_rng_state_all())}
    groups = [{k: v for k, v in group.items() if k != "params"} for group in saved["param_groups"]]
    numbers = {"groups": groups, "counters": counters, "schedule": None if moving.schedule is None else moving.schedule.state_dict()}
    return Snapshot(step, held(tensors, ranks), about, numbers, ranks.count)


def held(tensors: dict[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """As a snapshot has them."""
    if ranks.count > 1:
        return {name: t.detach() for name, t in tensors.items()}
    # A copy each: the run goes on, and safetensors takes no tensors that share memory.
    return {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}


def restore(snapshot: Snapshot, moving: Moving, ranks: Ranks = ALONE) -> None:
    """The counterpart of `capture`, in place. Raises StoreError for a snapshot that does not fit: other parameters
    train, or its content is not what `capture` makes."""
    try:
        parts = snapshot_parts(snapshot.step, snapshot.tensors, moving.trained, moving.state)
        if snapshot.shards is not None:
            goal = {name: like(name, tensor, moving) for name, tensor in snapshot.tensors.items()}
            read_shards(snapshot.shards, goal, ranks)
            parts = snapshot_parts(snapshot.step, goal, moving.trained, moving.state)
        _put_back(parts, moving)
        if snapshot.over:
            return
        check_numbers(snapshot.step, snapshot.numbers, moving.optimizer, moving.schedule)
        _restore_optimizer(snapshot, parts["optimizer"], moving)
        if moving.schedule is not None:
            moving.schedule.load_state_dict(snapshot.numbers["schedule"])
        torch.set_rng_state(parts["rng"]["cpu"])
        for k in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            if f"cuda:{k}" in parts["rng"]:
                torch.cuda.set_rng_state(parts["rng"][f"cuda:{k}"], k)
    except FOREIGN as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise StoreError(f"checkpoint of step {snapshot.step}: its content is not that of a checkpoint ({what}); delete it") from None


def like(name: str, tensor: Tensor, moving: Moving) -> Tensor:
    """An empty tensor of that form, in shards where a parameter is to which it belongs."""
    kind, _, rest = name.partition("/")
    owner = {"model": rest, "optimizer": rest.rpartition("/")[0], "landing": rest.removeprefix(WEIGHTS)}.get(kind, "")
    parameter = moving.trained.get(owner)
    if parameter is not None and parameter.shape == tensor.shape:
        return torch.zeros_like(parameter, dtype=tensor.dtype, requires_grad=False)
    return torch.zeros(tensor.shape, dtype=tensor.dtype)


def _put_back(parts: dict[str, dict[str, Tensor]], moving: Moving) -> None:
    with torch.no_grad():
        for name, parameter in moving.trained.items():
            parameter.copy_(parts["model"][name])
        for name, value in parts["state"].items():
            moving.state[name].copy_(value)
    moving.landing.update({name: value.clone() for name, value in parts["landing"].items()})


def _restore_optimizer(snapshot: Snapshot, tensors: dict[str, Tensor], moving: Moving) -> None:
    optimizer = moving.optimizer
    indices = {name: index for index, name in _names(moving).items()}
    entries: dict[int, dict[str, Any]] = {}
    for name, counters in snapshot.numbers["counters"].items():
        entries.setdefault(indices[name], {}).update(counters)
    for path, value in tensors.items():
        name, _, key = path.rpartition("/")
        entries.setdefault(indices[name], {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    restored = [
        {**now, **{k: tuple(v) if isinstance(now.get(k), tuple) else v for k, v in then.items()}}  # JSON knows no tuples
        for now, then in zip(groups, snapshot.numbers["groups"], strict=True)
    ]
    check_entries(snapshot.step, entries, optimizer)
    optimizer.load_state_dict({"state": entries, "param_groups": restored})


def _names(moving: Moving) -> dict[int, str]:
    """Names of the optimizer's parameters by its own numbers; a parameter outside the model goes by its number."""
    known = {id(p): name for name, p in moving.model.named_parameters()}
    parameters = [p for group in moving.optimizer.param_groups for p in group["params"]]
    return {index: known.get(id(p), f"#{index}") for index, p in enumerate(parameters)}
