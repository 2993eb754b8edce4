"""What a setting says of itself, once: `name: Annotated[type, About(...)] = default`, and the docstring under it.

Flags, help, --fields, docs/configuration/, ranges, and the list of settings that change no result are all read from
here. Only the standard library is imported, and no source is read before it is asked for.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import math
import sys
import types
import typing
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from shared.errors import ConfigError

MANY = 2**31 - 1
"""of what is counted: rows, steps, tokens; products of two are below 2^63"""
SEED = 2**63 - 1
"""torch takes seeds below 2^64, TOML numbers below 2^63"""
LARGEST_NUMBER = 1e300
"""of any setting that is no count: no reader of what is written down takes larger ones (shared/files/shape.py)"""
REQUIRED = "required"


@dataclass(frozen=True, kw_only=True)
class About:
    """Of one field of a configuration, or of the arguments of a command."""

    unit: str = ""
    """of a number: tokens, rows, steps, MiB, nats, share, ..."""
    flag: bool | str = False
    """whether it has a flag of its own, --its-name, or which (`--rows/--no-rows`); without one it is advanced: for
    --set and --config"""
    positional: bool = False
    """given by its place on the command line, not by a flag"""
    commas: bool = False
    """one use of the flag may hold several values, with commas between"""
    metavar: str = ""
    """stands for the value in the help; the type's name unless given"""
    default: str = ""
    """what the default comes to, where the field itself says None"""
    changes: bool | str = True
    """whether another value gives another result; paths of output, memory and bookkeeping do not. Names of other
    settings, with blanks between: only where one of them is given"""
    content: bool = False
    """names what is compared by its fingerprint, so that the name itself changes nothing"""
    least: float | None = None
    """smallest value"""
    most: float | None = None
    """largest value"""
    above: float | None = None
    """values are larger than this"""
    expected: str = ""
    """what an error expects, in place of the bounds"""

    def lacks(self, value: Any) -> str | None:
        """What is expected of a number that is out of range or not finite; None for one inside."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        if isinstance(value, float) and not math.isfinite(value):
            return self.expected or "a finite number"
        if isinstance(value, float) and abs(value) > LARGEST_NUMBER:
            return self.expected or f"at most {LARGEST_NUMBER:g}"
        if self.above is not None and value <= self.above:
            return self.expected or f"more than {self.above:g}"
        if self.least is not None and value < self.least:
            return self.expected or (f"at least {self.least:g}" if self.least else "0 or more")
        if self.most is not None and value > self.most:
            return self.expected or f"at most {self.most}"
        return None


COUNT: typing.Final[dict[str, Any]] = {"least": 1, "most": MANY}
"""range of what there must be one of: About(unit="rows", **COUNT)"""
NONE_OR_MORE: typing.Final[dict[str, Any]] = {"least": 0, "most": MANY}


@dataclass(frozen=True)
class Setting:
    """One field, as it is shown."""

    name: str
    hint: Any
    """its type, without `Annotated`"""
    default: Any
    """dataclasses.MISSING where it must be given"""
    about: About
    defined: tuple[type, ...]
    """the classes that define it, the one that counts first"""

    @property
    def group(self) -> type:
        """The class that defined it first."""
        return self.defined[-1]

    @property
    def meaning(self) -> str:
        """The docstring under the field, on one line."""
        return next((_meanings(c)[self.name] for c in self.defined if self.name in _meanings(c)), "")

    @property
    def flag(self) -> str | None:
        """`--its-name`; None for an advanced setting, and for one that is given by its place."""
        if isinstance(self.about.flag, str):
            return self.about.flag
        return f"--{self.name.replace('_', '-')}" if self.about.flag else None

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def kind(self) -> type:
        """int, float, bool, str, Path, tuple or dict: what one value is; text where it is a number or a word."""
        return str if words_of(self.hint) else _kind(self.hint)

    @property
    def item(self) -> type:
        """What one value of a list is; text in a table, which flags fill by NAME=VALUE."""
        if self.kind is dict:
            return str
        return _kind(typing.get_args(_others(self.hint)[0])[0]) if self.kind is tuple else self.kind

    @property
    def one_or_more(self) -> bool:
        """Whether a list of values may stand in the place of one: `str | tuple[str, ...]`."""
        return one_or_more(self.hint) is not None

    @property
    def choices(self) -> tuple[str, ...]:
        """The values it may have, where they can be listed."""
        return _choices(self.hint)

    @property
    def shown(self) -> str:
        """The default in words: "" for nothing."""
        if self.required:
            return REQUIRED
        if self.default is None or self.default in ((), {}):
            return self.about.default
        if isinstance(self.default, bool):
            return "true" if self.default else "false"  # as in TOML
        return ", ".join(map(str, self.default)) if isinstance(self.default, tuple) else str(self.default)


@functools.cache
def settings_of(kind: type) -> tuple[Setting, ...]:
    """The fields of a dataclass: first those that it defines itself, then those of its bases, one base after
    another."""
    classes = [c for c in kind.__mro__ if dataclasses.is_dataclass(c)]
    hints = {c: typing.get_type_hints(c, include_extras=True) for c in classes}
    plain, found = typing.get_type_hints(kind), []
    for field in dataclasses.fields(kind):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        defined = tuple(c for c in classes if field.name in c.__annotations__)
        about = next((a for c in defined if (a := _about(hints[c][field.name])) is not None), About())
        found.append(Setting(field.name, plain[field.name], default, about, defined))
    return tuple(sorted(found, key=lambda setting: classes.index(setting.group)))  # in a class as they are written


def harmless(config: Any) -> frozenset[str]:
    """Names of the settings that change no result of this configuration."""

    def changes(about: About) -> bool:
        if isinstance(about.changes, str):
            return any(getattr(config, name) is not None for name in about.changes.split())
        return about.changes

    return frozenset(setting.name for setting in settings_of(type(config)) if not changes(setting.about))


def named_by_content(config: Any) -> frozenset[str]:
    """Names of the settings that are compared by the fingerprint of what they name."""
    return frozenset(setting.name for setting in settings_of(type(config)) if setting.about.content)


def check_ranges(config: Any) -> None:
    """Raises ConfigError for the first number, also of a list, outside of its range, by its flag where it has one; None
    is no value."""
    for setting in settings_of(type(config)):
        value = getattr(config, setting.name)
        for item in value if isinstance(value, tuple) else (value,):
            if (expected := setting.about.lacks(item)) is not None:
                raise ConfigError(f"{setting.flag or setting.name} is {_written(item)}, expected {expected}")


def _written(value: Any) -> str:
    return f"a number of {value.bit_length()} bits" if isinstance(value, int) and abs(value) > SEED else str(value)


def _about(hint: Any) -> About | None:
    return next((m for m in getattr(hint, "__metadata__", ()) if isinstance(m, About)), None)


def one_or_more(hint: Any) -> Any:
    """The tuple of a type such as `str | tuple[str, ...] | None`: one value, or a list of them; None for other
    types."""
    others = _others(hint)
    return next((t for t in others[1:] if typing.get_origin(t) is tuple), None)


def _others(hint: Any) -> list[Any]:
    """The types of a union but None; of another type itself."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return [t for t in typing.get_args(hint) if t is not type(None)] if union else [hint]


def words_of(hint: Any) -> tuple[str, ...]:
    """The words that may stand in the place of a number: `float | Literal["auto"] | None`; none for other types."""
    others = _others(hint)
    mixed = others[0] in (int, float)
    return tuple(word for t in others[1:] if mixed and typing.get_origin(t) is typing.Literal for word in typing.get_args(t))


def _kind(hint: Any) -> type:
    one = _others(hint)[0]
    origin = typing.get_origin(one) or one
    return type(typing.get_args(one)[0]) if origin is typing.Literal else origin


def _choices(hint: Any) -> tuple[str, ...]:
    others = _others(hint)
    if typing.get_origin(others[0]) is tuple:
        return _choices(typing.get_args(others[0])[0])
    literals = all(typing.get_origin(t) is typing.Literal for t in others)
    return tuple(str(v) for t in others for v in typing.get_args(t)) if literals else ()


@functools.cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    """The classes that a module's source defines."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


@functools.cache
def _meanings(kind: type) -> dict[str, str]:
    """Field -> the string that stands under it in the class's source."""
    body = _classes(kind.__module__)[kind.__name__].body
    out = {}
    for field, below in pairwise(body):
        named = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if named and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
            out[field.target.id] = " ".join(below.value.value.split())  # type: ignore[union-attr]
    return out
