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


LAST_OF_MLP = ".mlp.down_proj."
"""the layer that writes a block's MLP into the hidden states, as Llama calls it and methods name it …"""
ELSEWHERE = (
    ".mlp.experts.down_proj", ".mlp.shared_expert*.down_proj.", ".feed_forward.down_proj.", ".feed_forward.w2.", ".mlp.dense_4h_to_h.",
    ".mlp.fc2.", ".mlp.c_proj.",
)  # fmt: skip
"""… and as others do: experts, Falcon-H1, LFM2, GPT-NeoX, Phi, GPT-2"""
BLOCKS = (".layers.", ".h.")


def in_this_model(model: nn.Module, globs: Sequence[str]) -> list[str]:
    """A method's own globs, in the names of this model where it has the layer that they mean under another name; as
    they are where it has not."""
    names, out = [name for name, _ in model.named_parameters()], []
    for glob in globs:
        other = [glob.replace(BLOCKS[0], block).replace(LAST_OF_MLP, layer) for block in BLOCKS for layer in ELSEWHERE]
        tries = [glob] if any(fnmatchcase(name, glob) for name in names) else other
        out += [t for t in tries if any(fnmatchcase(name, t) for name in names)] or [glob]
    return out


def near(wanted: str, names: Sequence[str]) -> str:
    """The names that look most like it, or else the first few."""
    close = difflib.get_close_matches(wanted.strip("*."), names, n=3, cutoff=0.4)
    last = [name for name in names if name.split(".")[-2:-1] == wanted.strip("*.").split(".")[-2:-1]]
    return f"near names: {', '.join(close or last[:3] or list(names)[:3])}"
