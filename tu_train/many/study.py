"""A study: a TOML file with the fields of `tu-train run`, a list where a field takes several values -> its
combinations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from shared.config import checked, resolve
from shared.errors import ConfigError
from shared.weighting.weights import Selection
from tu_train.config import UnlearnConfig
from tu_train.methods.table import find_method

LORA = ("lora_alpha", "lora_targets")
PIECE_LENGTH = 40
OPTION = "options."

Values = dict[str, Any]
"""settings of one combination; an option of the method is `options.NAME`"""


def read_study(study: Path, given: Mapping[str, Any]) -> Iterator[tuple[str, UnlearnConfig]]:
    """(readable name, configuration without out) of each combination of what the file gives, those that are equal too.
    Raises ConfigError."""
    axes = _axes(study, given)
    for values in _combinations(axes, study):
        name = _name(values, axes)
        yield name, _config(values, study, name)


def _axes(study: Path, fields_of_file: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The values of each field of the file, in the file's order."""
    axes: dict[str, list[Any]] = {}
    hints = get_type_hints(UnlearnConfig)
    for field, given in fields_of_file.items():
        if field in ("out", "resume"):
            raise ConfigError(f"{study}: {field} is not for a study: --out is the folder of all runs, and unfinished runs are resumed")
        table = given if field == "options" and isinstance(given, dict) else None
        for name, value in {f"{OPTION}{k}": v for k, v in table.items()}.items() if table is not None else [(field, given)]:
            lists = get_origin(hints.get(name)) is tuple
            several = isinstance(value, list) and (not lists or any(isinstance(v, list) for v in value))
            if several and not value:
                raise ConfigError(f"{study}: {name} is an empty list, expected at least one value")
            checks = [checked(UnlearnConfig, _nested({name: v}), str(study)) for v in (value if several else [value])]
            axes[name] = [c["options"][name.removeprefix(OPTION)] if table is not None else c[field] for c in checks]
    return axes


def _combinations(axes: Mapping[str, list[Any]], study: Path) -> list[Values]:
    """The product, each combination without what it cannot use. Raises ConfigError for a value that none can use."""
    out: list[Values] = []
    refused: dict[tuple[str, Any], str] = {}
    for chosen in product(*axes.values()):
        values = dict(zip(axes, chosen, strict=True))
        if values.get("tokens") == "random" and values.get("keep") == "auto":
            refused["keep", "auto"] = "random tokens need a share"  # left out whole: without it they would take the default share
            continue
        out.append(_usable(values, refused))
    used = {item for values in out for item in values.items()}
    for (name, value), why in refused.items():
        if (name, value) not in used:
            raise ConfigError(f"{study}: {name} = {value}: no combination of the study can use it: {why}")
    return out


def _usable(values: Values, refused: dict[tuple[str, Any], str]) -> Values:
    """`values` without what it has no use for, which goes to `refused` with the reason."""
    defaults = {f.name: f.default for f in fields(UnlearnConfig)}
    settings = {f.name for f in fields(Selection)} - {"tokens", "seed"}
    method = values.get("method", defaults["method"])
    selection: dict[str, Any] = {"tokens": values.get("tokens", defaults["tokens"])}
    kept: Values = {}
    for name, value in values.items():
        if name in settings:
            try:
                Selection(**selection, **{name: value})
            except ConfigError as error:
                refused[name, value] = str(error)
                continue
            selection[name] = value
        elif name.startswith(OPTION) and name.removeprefix(OPTION) not in find_method(method).options:
            refused[name, value] = f"{method} has the options: {', '.join(find_method(method).options) or 'none'}"
            continue
        elif name in LORA and not values.get("lora"):
            refused[name, value] = "it is for a LoRA rank above 0"
            continue
        kept[name] = value
    return kept


def _config(values: Values, study: Path, name: str) -> UnlearnConfig:
    try:
        return resolve(UnlearnConfig, flags={**_nested(values), "out": "-"})
    except ConfigError as error:
        raise ConfigError(f"{study}: {name}: {error}") from None


def _nested(values: Values) -> dict[str, Any]:
    """As UnlearnConfig has it: options in one mapping."""
    options = {k.removeprefix(OPTION): v for k, v in values.items() if k.startswith(OPTION)}
    return {k: v for k, v in values.items() if not k.startswith(OPTION)} | ({"options": options} if options else {})


def _name(values: Values, axes: Mapping[str, list[Any]]) -> str:
    """Method, tokens, then every other field that varies: npo-hard-keep0.3-seed1."""
    varying = [k for k, v in axes.items() if len(v) > 1 and k in values and k not in ("method", "tokens")]
    pieces = [(name, str(values[name])) for name in ("method", "tokens") if name in values]
    return "-".join([_piece("", value) for _, value in pieces] + [_piece(k.removeprefix(OPTION), values[k]) for k in varying]) or "run"


def _piece(name: str, value: Any) -> str:
    """As a part of a file's name; of a path its last part."""
    parts = [str(each).rstrip("/").rsplit("/", 1)[-1] for each in (value if isinstance(value, tuple) else (value,))]
    text = "+".join(parts)
    return re.sub(r"[^A-Za-z0-9._+]", "_", name + text)[:PIECE_LENGTH]
