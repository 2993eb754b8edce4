"""What a checkpoint must hold, looked at before any of it is used: a hash says that the bytes are those that were
written, not by whom."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from shared.errors import StoreError
from shared.files.shape import Maybe, misfit
from shared.records import RunRecord
from tu_train.stopping.landing import VALUE, WEIGHTS

FOREIGN = (KeyError, ValueError, TypeError, IndexError, AttributeError, RuntimeError, OverflowError)
"""what torch raises for content that it cannot use"""
KINDS = ("model", "optimizer", "state", "landing", "rng")
LARGEST = 2**53
FORM = {"numbers": {"stopped_early": Maybe((str, None))}, "about": dict}
"""of state.json, beside its step …"""
FILES = {1: {"tensors_sha256": str}, 2: {"ranks": int, "files": dict}}
"""… and what it says of its files, by its format"""
FILE = re.compile(r"[\w.-]+\.safetensors")


def about_of(body: Mapping[str, Any], step: int) -> RunRecord | None:
    """What the run of a checkpoint is made from; None where state.json lacks something that is read of it. `step`: as
    the folder's name says."""
    if type(body.get("step")) is not int or body["step"] != step or misfit(body, {**FORM, **FILES[body["format"]]}):
        return None
    if not all(FILE.fullmatch(name) and isinstance(sha256, str) for name, sha256 in body.get("files", {}).items()):
        return None
    try:
        return RunRecord.from_json(body["about"])
    except StoreError:
        return None


def snapshot_parts(
    step: int, tensors: Mapping[str, Tensor], trained: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """The tensors by kind. Raises StoreError where those of the model, of the method or of landing are not those of
    this run."""
    parts: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS}
    for name, value in tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "state" and rest not in state:
            kind, rest = _as_landing(rest)
        if kind not in parts:
            raise StoreError(f"checkpoint of step {step}: holds {name[:80]!r}, which no checkpoint has; delete it")
        parts[kind][rest] = value
    for name in sorted(trained.keys() ^ parts["model"].keys()):
        where = "the checkpoint lacks it" if name in trained else "this run does not train it"
        raise StoreError(f"checkpoint of step {step}: parameter {name[:80]}: {where}; resume with the settings it was made with")
    for name, parameter in trained.items():
        _same_form(step, f"parameter {name}", parts["model"][name], parameter)
    before = {VALUE: torch.zeros((), dtype=torch.float64), **{WEIGHTS + name: p for name, p in trained.items()}}
    for kind, expected in (("state", state), ("landing", before)):
        for name, value in parts[kind].items():
            if name not in expected:
                raise StoreError(f"checkpoint of step {step}: {kind} {name[:80]!r} is none of this run; delete it")
            _same_form(step, f"{kind} {name}", value, expected[name])
    return parts


def _as_landing(name: str) -> tuple[str, str]:
    """Kind and name of what stands in a method's state; earlier versions put there what landing keeps."""
    if name == "before":
        return "landing", VALUE
    return ("landing", WEIGHTS + name.removeprefix("before/")) if name.startswith("before/") else ("state", name)


def _same_form(step: int, name: str, saved: Tensor, like: Tensor) -> None:
    if saved.shape != like.shape:
        raise StoreError(f"checkpoint of step {step}: {name} has shape {tuple(saved.shape)}, the model's has {tuple(like.shape)}; "
                         "resume with the model it was made with")  # fmt: skip
    if saved.dtype != like.dtype:
        raise StoreError(f"checkpoint of step {step}: {name} is {saved.dtype}, the run's is {like.dtype}; "
                         "resume with the settings it was made with")  # fmt: skip


def check_numbers(step: int, numbers: Mapping[str, Any], optimizer: torch.optim.Optimizer, schedule: Any) -> None:
    """Options of the optimizer and the schedule have the names and kinds that those of this run have. Raises
    StoreError."""
    groups, now = numbers["groups"], optimizer.state_dict()["param_groups"]
    alike = isinstance(groups, list) and len(groups) == len(now) and all(map(_same_group, groups, now))
    counters = numbers["counters"]
    alike = alike and isinstance(counters, dict) and all(isinstance(c, dict) and all(map(_number, c.values())) for c in counters.values())
    then = numbers["schedule"]
    goes_on = then is None if schedule is None else _alike(then, schedule.state_dict()) and then.get("last_epoch") == step
    if not alike or not goes_on:
        raise StoreError(f"checkpoint of step {step}: options of its optimizer or schedule are not those of a checkpoint; delete it")


def _same_group(then: Any, now: Mapping[str, Any]) -> bool:
    """Options follow from the settings, which are compared: only the rate moves, and how kernels are fused depends on
    the device."""
    if not isinstance(then, dict):
        return False
    fixed = {name: list(v) if isinstance(v, tuple) else v for name, v in now.items() if name != "params"}
    return all(name in fixed and _moved(name, value, fixed[name]) for name, value in then.items())


def _moved(name: str, value: Any, now: Any) -> bool:
    if name == "lr":
        return _number(value)
    if name in ("fused", "foreach"):
        return value is None or isinstance(value, bool)
    return type(value) is type(now) and value == now  # or True would pass for 1


def _alike(then: Any, now: Mapping[str, Any]) -> bool:
    """No other names than now, and values of the same kind; a number stays a number. Some names are newer than some
    checkpoints."""
    return isinstance(then, dict) and all(name in now and _kind(value, now[name]) for name, value in then.items())


def _kind(value: Any, now: Any) -> bool:
    if isinstance(now, (list, tuple)):
        return isinstance(value, list) and len(value) == len(now) and all(map(_kind, value, now))
    if isinstance(now, bool) or now is None:
        return value is None or isinstance(value, bool)
    return _number(value) if isinstance(now, (int, float)) else type(value) is type(now)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and abs(value) <= LARGEST


def check_entries(step: int, entries: Mapping[int, Mapping[str, Any]], optimizer: torch.optim.Optimizer) -> None:
    """What AdamW keeps of each parameter is whole, and of the parameter's form. Raises StoreError."""
    if not isinstance(optimizer, torch.optim.AdamW):
        return  # torch itself looks at the rest
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, entry in entries.items():
        like = parameters[index]
        moments = [entry.get(key) for key in ("exp_avg", "exp_avg_sq")]
        whole = entry.keys() == {"step", "exp_avg", "exp_avg_sq"} and isinstance(entry["step"], Tensor) and entry["step"].numel() == 1
        if not whole or not all(isinstance(m, Tensor) and m.shape == like.shape and m.dtype == like.dtype for m in moments):
            raise StoreError(f"checkpoint of step {step}: what it holds of the optimizer does not fit parameter {index}; delete it")
