"""Commands from dataclasses: the one place that turns fields into typer's flags and arguments.

    @command(app, config="tu_score.config:ScoreConfig")
    def run(settings: ScoreConfig) -> None: ...

A command has a configuration, given by --config, --set and flags, or arguments of its own, a small dataclass, or both.
It is called with the resolved configuration or with its arguments; one that has both, with `Asked` and its arguments.
A configuration is imported when its command is asked for, so that the help of a program answers at once.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import typer
from typer.core import TyperCommand

from shared.cli import HELP
from shared.settings import Setting, check_ranges, settings_of

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., None])


@dataclass(frozen=True)
class Asked(Generic[T]):
    """What a command line says of a configuration, before it is one."""

    kind: type[T]
    flags: Mapping[str, Any]
    """those that were given"""
    sets: Sequence[str] = ()
    file: Path | None = None

    def resolved(self, **more: Any) -> T:
        """The configuration; `more` is added to the flags. Raises ConfigError."""
        from shared.config import resolve

        return resolve(self.kind, config=self.file, sets=self.sets, flags={**self.flags, **more})


def command(app: typer.Typer, *, config: str | None = None, arguments: type | None = None) -> Callable[[Function], Function]:
    """Adds a function to the program, under its name (of `list_`: list) and with its docstring as the help. `config`:
    `module:Class`."""

    def add(function: Function) -> Function:
        own = type("Own", (Late,), {"call": staticmethod(function), "path": config, "arguments": arguments})
        app.command(function.__name__.rstrip("_"), cls=own, help=function.__doc__)(lambda: None)
        return function

    return add


class Late(TyperCommand):
    """A command whose flags are made when it is asked for."""

    call: Callable[..., None]
    path: str | None
    """of its configuration, `module:Class`"""
    arguments: type | None

    def make_context(self, *given: Any, **more: Any) -> Any:
        return self.whole.make_context(*given, **more)

    @functools.cached_property
    def config(self) -> type | None:
        """The class of its configuration."""
        if self.path is None:
            return None
        module, _, name = self.path.partition(":")
        return getattr(importlib.import_module(module), name)

    @functools.cached_property
    def whole(self) -> Any:
        """The command with its flags, as typer makes it."""
        alone = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
        alone.command(self.name, help=self.help, context_settings=HELP)(_with_flags(self.call, self.config, self.arguments))
        return typer.main.get_command(alone)


def commands_of(app: typer.Typer) -> dict[str, Late]:
    """The commands of a program, in order."""
    return typer.main.get_command(app).commands  # type: ignore[attr-defined]


def _with_flags(function: Callable[..., None], config: type | None, arguments: type | None) -> Callable[..., None]:
    """A function that calls the command, and whose signature typer reads as the command's flags and arguments."""
    fields = sorted(settings_of(config), key=lambda s: not s.required) if config else []  # what must be given comes first
    own = settings_of(arguments) if arguments else ()

    def call(**values: Any) -> None:
        given = {s.name: v for s in (*fields, *own) if (v := _as_field(s, values.get(s.name))) not in (None, (), {})}
        mine = arguments(**{s.name: given[s.name] for s in own if s.name in given}) if arguments else None
        if mine is not None:
            check_ranges(mine)
        if config is None:
            return function(mine) if arguments else function()
        flags = {s.name: given[s.name] for s in fields if s.name in given}
        asked = Asked(config, flags, values["sets"] or (), values["config"])
        return function(asked, mine) if arguments else function(asked.resolved())

    parameters = [_parameter(s, later=True) for s in fields if s.flag] + [_parameter(s) for s in own]
    parameters += _of_every_configuration(config) if config else []
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    return call


def _as_field(setting: Setting, value: Any) -> Any:
    """The value of a flag as the field has it: lists as tuples, NAME=VALUE as tables."""
    if setting.kind is dict and value:
        from shared.config import pairs

        return pairs(value, str(setting.flag))
    if setting.about.commas:
        value = [name.strip() for text in value or () for name in text.split(",") if name.strip()]
    if setting.one_or_more and value and len(value) == 1:
        return value[0]
    return tuple(value) if isinstance(value, list) else value


def _parameter(setting: Setting, *, later: bool = False) -> inspect.Parameter:
    """`later`: the default comes when the configuration is resolved; until then a flag that was not given is None."""
    several = setting.kind in (tuple, dict) or setting.one_or_more
    default = None if later or setting.default == () else setting.default
    switch = setting.kind is bool and "/" not in (setting.flag or "")
    shown = False if setting.required or switch else setting.shown or False
    metavar = setting.about.metavar or "|".join(setting.choices) or None
    how: dict[str, Any] = {"help": setting.meaning, "metavar": None if setting.kind is bool else metavar, "show_default": shown}
    declared = typer.Argument(**how) if setting.about.positional else typer.Option(setting.flag, **how)
    hint: Any = list[setting.item] if several else setting.item
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is dataclasses.MISSING else default,
        annotation=Annotated[hint | None if default is None else hint, declared],
    )


def _of_every_configuration(config: type) -> list[inspect.Parameter]:
    def show(asked: bool) -> None:
        if asked:
            from shared.fields import print_fields

            print_fields(config)
            raise typer.Exit

    file = typer.Option("--config", help="TOML file with any of the fields", show_default=False)
    sets = typer.Option("--set", metavar="FIELD=VALUE", help="any field, also one without a flag of its own", show_default=False)
    fields = typer.Option("--fields", help="show every field: default, unit, meaning", show_default=False, is_eager=True, callback=show)
    hints = {"config": Annotated[Path | None, file], "sets": Annotated[list[str] | None, sets], "fields": Annotated[bool, fields]}
    defaults = {"config": None, "sets": None, "fields": False}
    return [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=hints[name]) for name in hints]
