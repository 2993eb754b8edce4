"""Checkpoints to resume from: what a run needs to go on as if it had never stopped, complete or absent.

    OUT.unfinished/checkpoint-000120/state.safetensors    parameters that train, optimizer, method state, landing,
                                                          random generators
    OUT.unfinished/checkpoint-000120/state.json           step, learning rates, schedule, settings and fingerprints,
                                                          hashes of both files

A folder is written under a temporary name, synced and renamed; older ones go only when it is safe. Position in the data
is the step alone, because the order of rows is a function of (seed, epoch). Reading runs no code: safetensors and JSON.
Numbers come back bit for bit.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from shared.errors import StoreError
from shared.files.fs import TEMPORARY, atomic_folder, fsync_folder, hash_file, hash_json, json_text, read_json
from shared.records import RunRecord
from tu_train.methods.tokens import State
from tu_train.saving.snapshot_form import FOREIGN, about_of, check_entries, check_numbers, snapshot_parts

FORMAT = 1
NAME = re.compile(r"checkpoint-(\d{6,})")
TENSORS, STATE = "state.safetensors", "state.json"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
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

    @property
    def over(self) -> bool:
        """Nothing is left to train, only the model to write: such a checkpoint has no optimizer."""
        return self.numbers.get(OVER) is True


def capture(moving: Moving, step: int, about: RunRecord) -> Snapshot:
    """Copies on the CPU of everything that a step changes."""
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
    # A copy each: the run goes on, and safetensors takes no tensors that share memory.
    return Snapshot(step, {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}, about, numbers)


def restore(snapshot: Snapshot, moving: Moving) -> None:
    """The counterpart of `capture`, in place. Raises StoreError for a snapshot that does not fit: other parameters
    train, or its content is not what `capture` makes."""
    try:
        parts = snapshot_parts(snapshot.step, snapshot.tensors, moving.trained, moving.state)
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


def save_snapshot(folder: Path, snapshot: Snapshot, keep: int) -> Path:
    """Writes `folder/checkpoint-000120` whole and durably, then removes all but the newest `keep`.

    Raises StoreError when the disk does not take it; the checkpoints before it are then untouched. It never replaces
    one of that step.
    """
    path = folder / f"checkpoint-{snapshot.step:06d}"
    try:
        for litter in folder.glob(f"{TEMPORARY}checkpoint-*"):  # of a run that was killed
            shutil.rmtree(litter)
        if not path.exists():  # a run told to stop right after it resumed stands where it stood
            with atomic_folder(path) as temporary:
                save_file(snapshot.tensors, temporary / TENSORS)
                body = {"format": FORMAT, "step": snapshot.step, "about": snapshot.about.to_json(), "numbers": snapshot.numbers}
                body["tensors_sha256"] = hash_file(temporary / TENSORS)
                (temporary / STATE).write_text(json_text({**body, "sha256": hash_json(body)}), encoding="utf-8")
        for _, old in sorted(_checkpoints(folder), reverse=True)[keep:]:
            gone = old.with_name(f"{TEMPORARY}{old.name}")
            os.replace(old, gone)  # so that a kill leaves no half of one under its name
            shutil.rmtree(gone)
        fsync_folder(folder)
    except (OSError, SafetensorError) as error:
        raise not_written(path, error, folder) from None
    return path


def not_written(path: Path, error: BaseException, folder: Path) -> StoreError:
    """Says truly whether a run in `folder` can go on: only from a checkpoint that is there."""
    step, _ = max(_checkpoints(folder), default=(None, None))
    way_on = (
        "no checkpoint was saved before: make room, then start the run anew"
        if step is None
        else f"the checkpoint of step {step} is good: make room, then go on with --resume"
    )
    return StoreError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error}); {way_on}")


def has_checkpoint(folder: Path) -> bool:
    return any(True for _ in _checkpoints(folder))


def _checkpoints(folder: Path) -> Iterator[tuple[int, Path]]:
    for entry in folder.iterdir() if folder.is_dir() else ():
        if found := NAME.fullmatch(entry.name):
            yield int(found[1]), entry


def latest_snapshot(folder: Path) -> Snapshot | None:
    """The newest checkpoint, or None. Raises StoreError naming the file when it is damaged: it is never trained on."""
    step, path = max(_checkpoints(folder), default=(0, None))
    if path is None:
        return None
    others = [step for step, other in _checkpoints(folder) if other != path]
    back = f"delete {path} to go on from the checkpoint of step {max(others)}" if others else f"delete {folder} to start anew"
    advice = f"it is damaged; {back}"
    for name in (STATE, TENSORS):
        if not (path / name).is_file():
            raise StoreError(f"{path / name}: missing; {advice}")
    try:
        body = read_json(path / STATE)
    except (StoreError, ValueError, RecursionError):
        raise StoreError(f"{path / STATE}: not valid JSON; {advice}") from None
    if not isinstance(body, dict) or body.pop("sha256", None) != _hash(body):
        raise StoreError(f"{path / STATE}: fails its checksum; {advice}")
    if body.get("format") != FORMAT:
        found = str(body.get("format"))[:20]
        raise StoreError(f"{path / STATE}: format {found}, this version reads {FORMAT}; resume with the version that wrote it")
    about = about_of(body, step)
    if about is None:
        raise StoreError(f"{path / STATE}: not of the form of a checkpoint of step {step}; {advice}")
    if hash_file(path / TENSORS) != body["tensors_sha256"]:
        raise StoreError(f"{path / TENSORS}: fails its checksum; {advice}")
    try:
        tensors = load_file(path / TENSORS)
    except (SafetensorError, *FOREIGN) as error:
        raise StoreError(f"{path / TENSORS}: cannot be read ({type(error).__name__}); {advice}") from None
    return Snapshot(body["step"], tensors, about, body["numbers"])


def _hash(body: dict[str, Any]) -> str | None:
    try:
        return hash_json(body)
    except (ValueError, RecursionError):  # lone surrogates
        return None
