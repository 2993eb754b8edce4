"""What somebody adds without changing these packages: a method, signal, span plan, metric, attack or suite.

It is named where it is used, as `package.module:NAME`, or by the name that an installed package gives it through an
entry point (docs/extending.md). Only what a command line or a configuration names, or an installed package offers, is
imported, and only from Python's own path, which for installed commands is not the current folder. A name that stands
in a store, a checkpoint or results is compared and shown, and never imported: such code takes `asked`, which knows only
what was imported already.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import traceback
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points, packages_distributions
from pathlib import Path
from typing import Any, Generic, TypeVar

from shared.errors import ConfigError, UserError, nearest
from shared.files.fs import hash_file

T = TypeVar("T")
PLACE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
"""package.module:NAME"""
OURS = "token-unlearn"
"""where listings say that what stands in these packages comes from"""


@dataclass(frozen=True)
class Kind(Generic[T]):
    """A kind of extension."""

    group: str
    """of entry points"""
    flag: str
    """where it is named"""
    expected: str
    """what it must be, in words"""
    fits: Callable[[Any], bool]
    """whether it is that"""
    lists: str = ""
    """the command that lists those that there are"""


@dataclass(frozen=True)
class Extension(Generic[T]):
    object: T
    place: str
    """module:NAME"""
    package: str
    """the installed package it came with, and its version; empty for a loose file"""
    sha256: str
    """of the module's source file"""

    @property
    def source(self) -> str:
        """For people: `my_methods:clipped (my-package 1.0)`."""
        return f"{self.place} ({self.package})" if self.package else self.place

    @property
    def identity(self) -> str:
        """What results say of it; another text, another extension."""
        return f"{self.source} sha256:{self.sha256}"


_imported: dict[tuple[str, str], Extension[Any]] = {}
"""by group and name, in this process"""


def find(kind: Kind[T], name: str, known: Mapping[str, T]) -> T:
    """One of `known`, else the extension of that name. Raises ConfigError for a name that is neither, for a module that
    cannot be imported, and for an object that is not what `kind` expects."""
    return known[name] if name in known else load(kind, name, known).object


def load(kind: Kind[T], name: str, known: Iterable[str] = ()) -> Extension[T]:
    """Imports what a user named, once in a process. `known`: names for the suggestion in the error."""
    if (kind.group, name) not in _imported:
        _imported[kind.group, name] = _load(kind, name, known)
    return _imported[kind.group, name]


def asked(kind: Kind[T], name: str) -> Extension[T] | None:
    """What `load` has imported in this process under that name; imports nothing."""
    return _imported.get((kind.group, name))


def identity(kind: Kind[Any], name: str) -> str | None:
    """Of an extension that was imported; None for what these packages hold themselves."""
    found = asked(kind, name)
    return found.identity if found else None


@contextmanager
def running(kind: Kind[Any], name: str) -> Iterator[None]:
    """Around a call of what `load` has found: whatever it raises becomes a ConfigError that names its line. Errors for
    users come through, and so does everything where the name is one of these packages' own."""
    found = asked(kind, name)
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if found is None:
            raise
        raise ConfigError(f"{kind.flag} {name}: raised {_told(error, found.place.partition(':')[0])}") from error


def names(kind: Kind[Any]) -> list[str]:
    """Under which installed packages offer something; imports nothing."""
    return sorted(_entries(kind.group))


def offered(kind: Kind[T], known: Container[str]) -> Iterator[tuple[str, Extension[T] | ConfigError]]:
    """What installed packages offer beside `known`, each imported, or with the reason why it cannot be."""
    for name in names(kind):
        if name in known:
            continue
        try:
            yield name, load(kind, name)
        except ConfigError as error:
            yield name, error


def listed(kind: Kind[T], known: Mapping[str, str], meaning: Callable[[T], str | None]) -> Iterator[tuple[str, str, str]]:
    """Name, meaning and origin of what there is: `known` with its meanings, then what installed packages offer."""
    yield from ((name, text, OURS) for name, text in known.items())
    for name, found in offered(kind, known):
        if isinstance(found, ConfigError):
            yield name, "cannot be used", str(found)
        else:
            yield name, first_sentence(meaning(found.object)), found.source


def first_sentence(text: str | None) -> str:
    """Of a docstring, on one line."""
    return " ".join((text or "").split()).partition(". ")[0].rstrip(".")


def is_function(value: Any) -> bool:
    """For kinds that are functions."""
    return callable(value) and not isinstance(value, type)


def _load(kind: Kind[T], name: str, known: Iterable[str]) -> Extension[T]:
    place, package = name, None
    if ":" not in name:
        offers = _entries(kind.group)
        entry = offers.get(name)
        if entry is None:
            there = [*known, *offers]
            own = "" if _meant(name, there) else "; one of your own is named package.module:NAME"
            lists = f"; {kind.lists} lists them" if kind.lists else ""
            raise ConfigError(f"{kind.flag} {name}: unknown{nearest(name, there)}{lists}{own}")
        place, package = entry.value, entry.dist
    if not PLACE.fullmatch(place):
        raise ConfigError(f"{kind.flag} {name}: {place!r} is no place of an object, expected package.module:NAME")
    module_name, _, attribute = place.partition(":")
    module = _module(module_name, f"{kind.flag} {name}", _meant(name, known))
    file = getattr(module, "__file__", None)
    if file is None:
        raise ConfigError(f"{kind.flag} {name}: {module_name} is a folder without code, or built into Python; name the module in it")
    if attribute not in vars(module):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise ConfigError(f"{kind.flag} {name}: {file} has no {attribute}{nearest(attribute, public) if public else ''}")
    found = vars(module)[attribute]
    if not kind.fits(found):
        raise ConfigError(f"{kind.flag} {name}: {attribute} in {file} is of type {type(found).__name__}, expected {kind.expected}")
    return Extension(found, place, _version(package or _holding(module_name, Path(file))), hash_file(Path(file)))


def _meant(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` where a name is near, else nothing."""
    hint = nearest(name, known)
    return hint if hint.startswith(" (did you mean") else ""


def _module(name: str, where: str, hint: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            way_on = "install its package, or set PYTHONPATH to the folder that holds it (PYTHONPATH=. for this one)"
            raise ConfigError(f"{where}: there is no module {error.name} on Python's path{hint}; {way_on}") from None
        raise ConfigError(f"{where}: the module {name} imports {error.name}, which is not installed") from error
    except (Exception, SystemExit) as error:  # whatever foreign code does when it is imported
        raise ConfigError(f"{where}: the module {name} cannot be imported: {_told(error, name)}") from error


def _told(error: BaseException, module: str) -> str:
    """The error and where it came up: the last line of the module that is on the way to it, else the last line."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).stem == module.rpartition(".")[2]]
    at = (ours or frames)[-1]
    try:
        said = str(error)
    except Exception:
        said = "without a readable text"
    where = "" if isinstance(error, SyntaxError) else f" ({at.filename}, line {at.lineno})"
    return f"{type(error).__name__}: {said[:500]}{where}"


@cache
def _entries(group: str) -> dict[str, EntryPoint]:
    """By name. Raises ConfigError for a name that two packages offer."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise ConfigError(
                f"entry points {group}: {_version(other.dist)} and {_version(entry.dist)} both offer {entry.name}; uninstall one"
            )
    return found


def _holding(module: str, file: Path) -> Distribution | None:
    """The installed package that a module belongs to; none for a file that only has the name of one."""
    for name in packages_distributions().get(module.partition(".")[0], ()):
        package = importlib.metadata.distribution(name)
        if file.resolve().is_relative_to(Path(str(package.locate_file(""))).resolve()):
            return package
    return None


def _version(package: Distribution | None) -> str:
    return f"{package.name} {package.version}" if package else ""
