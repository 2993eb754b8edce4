"""A configuration from the arguments of a call in Python, with the checks that a command line has."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, TypeVar

from shared.config import checked
from shared.errors import ConfigError
from shared.settings import settings_of

T = TypeVar("T")


def configured(kind: type[T], config: T | None, given: Mapping[str, Any], *, call: str) -> T:
    """`config` as it is, or a `kind` of the settings that are given by name; of both, the configuration with these in
    place of its own. Paths do as text, lists as tuples.

    Raises ConfigError, beginning with `call`, for a setting that is unknown, missing or of another type.
    """
    if config is not None and not isinstance(config, kind):
        raise ConfigError(f"{call}: its first argument is a {type(config).__name__}, expected a {kind.__name__}, or settings by name")
    values = checked(kind, {name: _plain(value) for name, value in given.items()}, call)
    if config is not None:
        return dataclasses.replace(config, **values) if values else config  # type: ignore[type-var]
    for setting in settings_of(kind):
        if setting.required and setting.name not in values:
            raise ConfigError(f"{call}: {setting.name} is missing ({setting.meaning})")
    return kind(**values)


def _plain(value: Any) -> Any:
    """A path as text, also in a list."""
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value
