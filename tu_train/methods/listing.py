"""The text of `tu-train methods`."""

from __future__ import annotations

from collections.abc import Iterator

from shared.console import print_table
from shared.errors import ConfigError
from shared.extensions import OURS, offered
from tu_train.methods.table import METHOD, METHODS, Method

COLUMNS = ("name", "per", "options", "needs", "paper", "formula", "from")


def method_rows() -> Iterator[tuple[str, ...]]:
    """One tuple of COLUMNS a method: those of the table, then those of installed packages."""
    yield from (_row(name, method, OURS) for name, method in METHODS.items())
    for name, found in offered(METHOD, METHODS):
        if isinstance(found, ConfigError):
            yield name, "", "", "", "", "cannot be used", str(found)
        else:
            yield _row(name, found.object, found.source)


def _row(name: str, m: Method, source: str) -> tuple[str, ...]:
    options = " ".join(f"{k}={v:g}" for k, v in m.options.items())
    return name, m.per, options, ", ".join(sorted(m.needs)), m.paper, m.formula, source


def print_methods() -> None:
    print_table(COLUMNS, method_rows())
