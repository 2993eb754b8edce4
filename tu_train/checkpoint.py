"""Checkpoints to resume from: what a run needs to go on as if it had never stopped, complete or absent.

    OUT.unfinished/checkpoint-000120/state.safetensors    parameters that train, optimizer, method state, random generators
    OUT.unfinished/checkpoint-000120/state.json           step, learning rates, schedule, settings and fingerprints, hashes of both files

A folder is written under a temporary name, synced and renamed; older ones go only when it is safe. Position in the data is the step
alone, because the order of rows is a function of (seed, epoch). Reading runs no code: safetensors and JSON. Numbers come back bit for bit.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from shared.errors import ConfigError, StoreError
from shared.fs import TEMPORARY, atomic_folder, fsync_folder, hash_file, hash_json, json_text, read_json

FORMAT = 1
NAME = re.compile(r"checkpoint-(\d{6,})")
SHA256 = re.compile(r"[0-9a-f]{64}")
TENSORS, STATE = "state.safetensors", "state.json"
SETTINGS = "settings."


@dataclass
class Snapshot:
    step: int
    """optimizer steps done"""
    tensors: dict[str, Tensor]
    """`model/NAME`, `optimizer/NAME/KEY`, `state/NAME`, `rng/DEVICE`"""
    about: dict[str, Any]
    """settings and fingerprints, compared on resume field by field"""
    numbers: dict[str, Any] = field(default_factory=dict)
    """what is no tensor: options of the parameter groups, schedule, counters of the optimizer"""


def capture(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, schedule: Any, state: Mapping[str, Tensor], step: int, about: dict[str, Any]
) -> Snapshot:
    """Copies on the CPU of everything that a step changes. `schedule`: a torch scheduler, or None where the rate follows from the step."""
    tensors = {f"model/{name}": p for name, p in model.named_parameters() if p.requires_grad}
    tensors |= {f"state/{name}": value for name, value in state.items()}
    counters: dict[str, dict[str, Any]] = {}
    saved, names = optimizer.state_dict(), _names(model, optimizer)
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
    numbers = {"groups": groups, "counters": counters, "schedule": None if schedule is None else schedule.state_dict()}
    # A copy each: the run goes on, and safetensors takes no tensors that share memory.
    return Snapshot(step, {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}, about, numbers)


def restore(snapshot: Snapshot, model: torch.nn.Module, optimizer: torch.optim.Optimizer, schedule: Any, state: dict[str, Tensor]) -> None:
    """The counterpart of `capture`, in place. Raises StoreError when the parameters that train are not those of the snapshot."""
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "state": {}, "rng": {}}
    for name, value in snapshot.tensors.items():
        kind, _, rest = name.partition("/")
        parts[kind][rest] = value
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name in sorted(trained.keys() ^ parts["model"].keys()):
        where = "the checkpoint lacks it" if name in trained else "this run does not train it"
        raise StoreError(f"checkpoint of step {snapshot.step}: parameter {name}: {where}; resume with the settings it was made with")
    with torch.no_grad():
        for name, parameter in trained.items():
            saved = parts["model"][name]
            if saved.shape != parameter.shape:
                raise StoreError(f"checkpoint of step {snapshot.step}: parameter {name} has shape {tuple(saved.shape)}, "
                                 f"the model's has {tuple(parameter.shape)}; resume with the model it was made with")  # fmt: skip
            parameter.copy_(saved)
        for name, value in parts["state"].items():
            if name in state:
                state[name].copy_(value)
            else:
                state[name] = value.clone()
    _restore_optimizer(snapshot, parts["optimizer"], model, optimizer)
    if schedule is not None:
        schedule.load_state_dict(snapshot.numbers["schedule"])
    torch.set_rng_state(parts["rng"]["cpu"])
    for k in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"cuda:{k}" in parts["rng"]:
            torch.cuda.set_rng_state(parts["rng"][f"cuda:{k}"], k)


def _restore_optimizer(snapshot: Snapshot, tensors: dict[str, Tensor], model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    indices = {name: index for index, name in _names(model, optimizer).items()}
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
    optimizer.load_state_dict({"state": entries, "param_groups": restored})


def _names(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[int, str]:
    """Names of the optimizer's parameters by its own numbers; a parameter outside the model goes by its number."""
    known = {id(p): name for name, p in model.named_parameters()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {index: known.get(id(p), f"#{index}") for index, p in enumerate(parameters)}


def save_snapshot(folder: Path, snapshot: Snapshot, keep: int) -> Path:
    """Writes `folder/checkpoint-000120` whole and durably, then removes all but the newest `keep`.

    Raises StoreError when the disk does not take it; the checkpoints before it are then untouched. It never replaces one of that step.
    """
    path = folder / f"checkpoint-{snapshot.step:06d}"
    try:
        for litter in folder.glob(f"{TEMPORARY}checkpoint-*"):  # of a run that was killed
            shutil.rmtree(litter)
        if not path.exists():  # a run told to stop right after it resumed stands where it stood
            with atomic_folder(path) as temporary:
                save_file(snapshot.tensors, temporary / TENSORS)
                body = {"format": FORMAT, "step": snapshot.step, "about": snapshot.about, "numbers": snapshot.numbers}
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
    _, path = max(_checkpoints(folder), default=(0, None))
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
    except StoreError:
        raise StoreError(f"{path / STATE}: not valid JSON; {advice}") from None
    if not isinstance(body, dict) or body.pop("sha256", None) != hash_json(body):
        raise StoreError(f"{path / STATE}: fails its checksum; {advice}")
    if body["format"] != FORMAT:
        raise StoreError(f"{path / STATE}: format {body['format']}, this version reads {FORMAT}; resume with the version that wrote it")
    if hash_file(path / TENSORS) != body["tensors_sha256"]:
        raise StoreError(f"{path / TENSORS}: fails its checksum; {advice}")
    return Snapshot(body["step"], load_file(path / TENSORS), body["about"], body["numbers"])


def check_same(then: Mapping[str, Any], now: Mapping[str, Any], overridable: Collection[str]) -> None:
    """Refuses to go on with other settings, or from another store, model or data, than the checkpoint was made with.

    `overridable`: names (the last part of a dotted one) that may differ, because they change no result. Raises ConfigError naming the
    field, both values, and how to give the old one. Settings come first: they are the user's words for what a fingerprint stands for.
    """
    old, new = _flat(then), _flat(now)
    for name in sorted(old.keys() | new.keys(), key=lambda n: (not n.startswith(SETTINGS), n)):
        last = name.rpartition(".")[2]
        before, after = old.get(name), new.get(name)
        if before == after or last in overridable:
            continue
        if name.startswith(SETTINGS):
            raise ConfigError(f"--resume: {last} is {_shown(after)}, but the run was started with {_shown(before)}; "
                              f"{_way_back(name.removeprefix(SETTINGS), before)}, or start anew with another --out")  # fmt: skip
        what = name.replace("_", " ")
        raise ConfigError(f"--resume: the {what} is {_shown(after)}, but the run was started with {_shown(before)}; "
                          f"give the {what} it was started with, or start anew with another --out")  # fmt: skip


def _way_back(field: str, before: Any) -> str:
    """What to type to get the old value."""
    table, dot, entry = field.partition(".")
    if before is None:
        return f"leave out {entry or field}"
    if dot and table == "options":
        return f"--option {entry}={before}"
    text = before if isinstance(before, str) else json.dumps(before, ensure_ascii=False)
    return f"--set {shlex.quote(f'{field}={text}')}"


def _shown(value: Any) -> str:
    """Of a sha256, enough to tell two apart."""
    if value is None:
        return "not given"
    return value[:12] if isinstance(value, str) and SHA256.fullmatch(value) else repr(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names; tuples as lists, which is what JSON gives back."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{prefix}{name}.")
        else:
            out[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return out
