"""The text of `tu-train methods`."""

from __future__ import annotations

from tu_train.methods.table import METHODS

COLUMNS = ("name", "per", "options", "needs", "paper", "formula")


def method_rows() -> list[tuple[str, ...]]:
    """One tuple of COLUMNS a method."""
    return [
        (name, m.per, " ".join(f"{k}={v:g}" for k, v in m.options.items()), ", ".join(sorted(m.needs)), m.paper, m.formula)
        for name, m in METHODS.items()
    ]


def print_methods() -> None:
    """A table on a terminal; tab-separated lines with a head line elsewhere."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        print("\n".join("\t".join(row) for row in [COLUMNS, *method_rows()]))
        return
    table = Table(*COLUMNS)
    for row in method_rows():
        table.add_row(*row)
    console.print(table)
