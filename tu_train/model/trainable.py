"""Which parameters train: those whose names match a glob."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from shared.errors import ConfigError


def freeze_all_but(model: nn.Module, globs: Sequence[str], *, named_by: str = "--set train_only") -> int:
    """Only parameters whose names match one of `globs` train; returns how many numbers they hold. No globs: all.

    Raises ConfigError for a glob that matches nothing, with near names and who `named_by` it.
    """
    names = [name for name, _ in model.named_parameters()]
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names):
            raise ConfigError(f"{named_by}: {glob!r} matches no parameter; {near(glob, names)}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not globs or any(fnmatchcase(name, glob) for glob in globs))
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def near(wanted: str, names: Sequence[str]) -> str:
    """The names that look most like it, or else the first few."""
    close = difflib.get_close_matches(wanted.strip("*."), names, n=3, cutoff=0.4)
    last = [name for name in names if name.split(".")[-2:-1] == wanted.strip("*.").split(".")[-2:-1]]
    return f"near names: {', '.join(close or last[:3] or list(names)[:3])}"
