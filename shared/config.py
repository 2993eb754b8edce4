"""Frozen dataclass <-> TOML, and how a command line fills one: defaults, then --config FILE.toml, then flags and --set
field=value.

Every value is checked against its field's type; an unknown name is an error that suggests the nearest known one. What
could not be written down again beside the output (infinite numbers, text that is not UTF-8) is refused here, before any
work.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from shared.errors import ConfigError, StoreError, nearest
from shared.files.fs import open_regular, write_text
from shared.secret import without_secrets_in
from shared.settings import one_or_more, words_of

T = TypeVar("T")
LISTED = "the _config.toml beside every output shows those in use, docs and --help say what they do"
UNIONS = (typing.Union, types.UnionType)
LARGEST_INT = 2**63 - 1
"""of TOML, and of what a library below takes as a count or a seed"""
LARGEST_FILE = 10_000_000
"""bytes of a configuration that are read"""
SHOWN = 80
"""characters of a value that an error repeats"""


def resolve(kind: type[T], *, config: Path | None = None, sets: Sequence[str] = (), flags: Mapping[str, Any] | None = None) -> T:
    """Builds `kind` from a TOML file, `--set` strings and flags (None = not given). Raises ConfigError naming the
    source and field."""
    values: dict[str, Any] = {}
    if config is not None:
        values.update(checked(kind, read_toml(config), str(config)))
    given = {k: v for k, v in (flags or {}).items() if v is not None}
    hints = typing.get_type_hints(kind)
    for text in sets:
        name, equals, raw = text.partition("=")
        name = name.strip()
        if not equals:
            raise ConfigError(f"--set {text}: expected field=value")
        if name in given:
            raise ConfigError(f"--set {name}: the field is given twice on this command line")
        given[name] = _parse(raw.strip(), hints.get(name))
    for name, value in checked(kind, given, "command line").items():
        values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value  # tables are joined entry by entry
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"--{field.name.replace('_', '-')} is missing (or set {field.name} in --config FILE.toml)")
    return kind(**values)


def as_dict(config: Any) -> dict[str, Any]:
    """Plain JSON / TOML values; fields that are None are left out (TOML has no null)."""
    return {k: _as_lists(v) for k, v in dataclasses.asdict(config).items() if v is not None}


def _as_lists(value: Any) -> Any:
    """Tuples as lists, also those of a table."""
    if isinstance(value, dict):
        return {name: _as_lists(entry) for name, entry in value.items()}
    return list(value) if isinstance(value, tuple) else value


def write_config(path: Path, config: Any) -> None:
    """The resolved configuration as TOML that `--config` reads back."""
    write_text(path, as_toml(config))


def as_toml(config: Any) -> str:
    """Tables come last: in TOML every line after a table's head belongs to the table. Credentials in URLs are cut
    out."""
    return toml_of(without_secrets_in(as_dict(config)))


def toml_of(values: Mapping[str, Any]) -> str:
    """A table of plain values, and tables of such."""
    tables = {k: v for k, v in values.items() if isinstance(v, dict)}
    lines = [f"{k} = {_toml(v)}\n" for k, v in values.items() if k not in tables]
    for name, table in tables.items():
        lines += [f"\n[{name}]\n", *(f"{json.dumps(k)} = {_toml(v)}\n" for k, v in table.items())]
    return "".join(lines)


def pairs(texts: Sequence[str], flag: str) -> dict[str, Any]:
    """`name=value` of a flag that may be repeated. Raises ConfigError naming the flag."""
    out = {}
    for text in texts:
        name, equals, raw = text.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"{flag} {text}: expected name=value")
        if name.strip() in out:
            raise ConfigError(f"{flag} {name.strip()}: given twice on this command line")
        out[name.strip()] = _parse(raw.strip(), None)
    return out


def assignment(name: str, value: Any) -> str:
    """`name=value` as --set takes it to give a value of JSON, on one line."""
    plain = isinstance(value, str) and value.isprintable() and _parse(value.strip(), str | tuple[str, ...]) == value
    return f"{name}={value if plain else _toml(value)}"


def _toml(value: Any) -> str:
    """On one line."""
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    # Literals of JSON are TOML literals too, but for escapes of surrogates, the raw control character 7F, and
    # infinities.
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def read_toml(path: Path, flag: str = "--config ") -> dict[str, Any]:
    """Raises ConfigError, beginning with the flag and the file."""
    try:
        piped = path.parent.as_posix() in ("/dev/fd", "/proc/self/fd")  # a shell's <(command)
        with open(path, "rb") if piped else open_regular(path) as handle:
            text = handle.read(LARGEST_FILE + 1)
    except StoreError:
        raise ConfigError(f"{flag}{path}: is no ordinary file; expected a TOML file") from None
    except FileNotFoundError:
        raise ConfigError(f"{flag}{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{flag}{path}: cannot be read: {error.strerror}") from None
    if len(text) > LARGEST_FILE:
        raise ConfigError(f"{flag}{path}: more than {LARGEST_FILE // 1_000_000} MB, which is no configuration")
    try:
        return _loads(text.decode())
    except ValueError as error:
        raise ConfigError(f"{flag}{path}: not valid TOML: {error}") from None


def _loads(text: str) -> dict[str, Any]:
    """Raises ValueError, also for nesting and numbers that Python's reader gives up on in other ways."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _parse(raw: str, hint: Any) -> Any:
    """A TOML value, or the bare text: where it is no TOML (--set replacement=pad), or text is wanted (a revision such
    as 1e5)."""
    try:
        values = _loads(f"x = {raw}")
    except ValueError:
        return raw
    if len(values) > 1:  # a line end in the text, and more after it
        return raw
    value = values["x"]
    text = hint is str or (typing.get_origin(hint) in UNIONS and str in typing.get_args(hint))
    listed = isinstance(value, list) and one_or_more(hint) is not None
    return raw if text and not listed and not isinstance(value, str) else value


def checked(kind: type, values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The values as the fields' types. Raises ConfigError naming the source and field, for an unknown field also the
    nearest."""
    hints = typing.get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]
    out = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{source}: unknown field {name!r}{nearest(name, known, listed=LISTED)}")
        out[name] = _coerce(value, hints[name], f"{source}: {name}")
    return out


def writable(text: str, where: str) -> str:
    """The text, where it can stand in UTF-8 files and names. Raises ConfigError."""
    bad = "a NUL character" if "\0" in text else None
    try:
        text.encode()
    except UnicodeEncodeError:
        bad = "bytes that are not UTF-8"
    if bad:
        raise ConfigError(f"{where}: {_shown(text)} has {bad}, so it could not be written down beside the output; choose another")
    return text


def _shown(value: Any) -> str:
    text = ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _coerce(value: Any, hint: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in UNIONS:
        if value is None:
            return None
        if isinstance(value, str) and (words := words_of(hint)):
            return _number_or_word(value, words, args[0], where)
        others = [a for a in args if a is not type(None)]
        if (several := one_or_more(hint)) is not None and isinstance(value, (list, tuple)):
            return _one_or_more(value, several, where)
        literals = all(typing.get_origin(a) is typing.Literal for a in others)
        hint = typing.Literal[tuple(v for a in others for v in typing.get_args(a))] if literals else others[0]
        origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        if value not in args:
            raise ConfigError(f"{where}: got {_shown(value)}{nearest(str(value)[:SHOWN], map(str, args))}")
        return value
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: got {_shown(value)}, expected a table of name = value")
        return {writable(name, where): _coerce(entry, args[1], f"{where}.{name}") for name, entry in value.items()}
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_coerce(v, args[0], where) for v in items)
    return _any(value, where) if hint is Any else _plain(value, hint, where)


def _number_or_word(text: str, words: Sequence[str], number: type, where: str) -> Any:
    """Of a flag, which gives text, or of a file."""
    if text in words:
        return text
    try:
        value = number(text)
    except ValueError:
        raise ConfigError(f"{where}: got {_shown(text)}, expected a number or {' or '.join(words)}") from None
    return _plain(value, number, where)


def _one_or_more(values: Sequence[Any], several: Any, where: str) -> Any:
    """A list of one is that one, so that it is written down as it always was."""
    if not values:
        raise ConfigError(f"{where}: got an empty list, expected at least one value")
    found = tuple(_coerce(v, typing.get_args(several)[0], where) for v in values)
    return found[0] if len(found) == 1 else found


def _any(value: Any, where: str) -> Any:
    """Where a field takes values of any kind: those that TOML and JSON both know, so no dates."""
    if isinstance(value, dict):
        return {writable(str(name), where): _any(entry, f"{where}.{name}") for name, entry in value.items()}
    if isinstance(value, list):
        return [_any(entry, where) for entry in value]
    if not isinstance(value, (str, int, float)):
        raise ConfigError(f"{where}: got {_shown(value)}, expected a text, a number, true, false, a list or a table")
    return _plain(value, type(value), where)


def _plain(value: Any, hint: type, where: str) -> Any:
    """A number, truth value or text."""
    if isinstance(value, int) and not isinstance(value, bool) and hint in (int, float) and abs(value) > LARGEST_INT:
        raise ConfigError(f"{where}: got a number of {len(f'{abs(value):x}') * 4} bits, expected one within -2^63 and 2^63")
    if isinstance(value, float) and hint is float and not math.isfinite(value):
        raise ConfigError(f"{where}: got {value}, expected a finite number")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)  # a path or name that happens to look like a number
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where}: got {_shown(value)}, expected {hint.__name__}")
    return writable(value, where) if isinstance(value, str) else value
