"""What a leak check leaves in a results folder: leaks.parquet, every answer that was searched and which secrets it
holds, and in the summary under `leaks` how many answers gave each secret away.

A secret is named by its line or its row, never by its text; the answers hold what the model said. One that the question
names itself is not given away by the answer that repeats it: it stands in `told`, and does not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.console import number_of
from shared.errors import StoreError, printable
from shared.files.shape import PLAIN, Count, Named, Text
from tu_eval.results.folder import ResultRow
from tu_eval.results.parquet_file import read_table, rows_of

if TYPE_CHECKING:
    import pyarrow

LEAKS = "leaks.parquet"
KINDS = ("greedy", "reworded", "sampled")
"""answers to the questions as they stand, to the same in other words, and drawn"""
COUNTS = Named(Named(Count()))
"""model -> kind -> a number of answers"""
FORM = {
    "secrets_sha256": Text(), "settings": Named(PLAIN), "answers": COUNTS,
    "secrets": [{"name": Text(), "rows": Count(), "found": COUNTS}],
}  # fmt: skip
"""of the field `leaks`"""


def alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two leak checks looked for the same secrets in answers written in the same way."""
    return all(one[name] == other[name] for name in ("secrets_sha256", "settings"))


def schema() -> pyarrow.Schema:
    """`secrets`, `told`: indexes into the list of secrets."""
    import pyarrow as pa

    text, numbers = pa.string(), pa.list_(pa.int32())
    names = ("model", "set", "example_id", "kind", "prompt", "question", "answer")
    return pa.schema([*((name, text) for name in names), ("secrets", numbers), ("told", numbers)])


def count_leaks(rows: Sequence[ResultRow], secrets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """-> `answers` searched, and for each of `secrets` (its `name` and in how many `rows` of the data it stands)
    `found`: how many answers hold it. Raises IndexError for a secret that there is not."""
    answers = Counter((row["model"], row["kind"]) for row in rows)
    found = Counter((k, row["model"], row["kind"]) for row in rows for k in row["secrets"])
    if any(not 0 <= k < len(secrets) for k, _, _ in found):
        raise IndexError("a secret that is not in the list")
    roles = list(dict.fromkeys(row["model"] for row in rows))
    kinds = {role: [kind for kind in KINDS if answers[role, kind]] for role in roles}
    counted = {role: {kind: answers[role, kind] for kind in kinds[role]} for role in roles}
    each = [
        {**secret, "found": {role: {kind: found[k, role, kind] for kind in kinds[role]} for role in roles}}
        for k, secret in enumerate(secrets)
    ]
    return {"answers": counted, "secrets": each}


def require_counted(folder: Path, leaks: Mapping[str, Any], summary: str) -> None:
    """Counts the secrets again in the rows of a finished folder. Raises StoreError where the summary says otherwise."""
    rows = leak_rows(folder)
    secrets = [{"name": secret["name"], "rows": secret["rows"]} for secret in leaks["secrets"]]
    try:
        again = count_leaks(rows, secrets)
    except (IndexError, TypeError):
        again = None
    if again != {key: leaks[key] for key in ("answers", "secrets")}:
        raise StoreError(f"{folder / summary}: its leaks are not what {LEAKS} gives; it was edited, evaluate again")


def leak_rows(folder: Path) -> list[ResultRow]:
    """The answers that were searched. Raises StoreError naming the file."""
    path = folder / LEAKS
    return read_table(path, schema(), rows=rows_of(path), required=frozenset(schema().names))


def leaked(leaks: Mapping[str, Any], role: str, kind: str) -> int:
    """How many secrets stand in at least one answer."""
    return sum(secret["found"].get(role, {}).get(kind, 0) > 0 for secret in leaks["secrets"])


def print_leaks(leaks: Mapping[str, Any], folder: Path) -> None:
    """On stdout: each secret that was found, and in how many answers of which kind; then how many were."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, columns = Console(), [(role, kind) for role, kinds in leaks["answers"].items() for kind in kinds]
    shown = [secret for secret in leaks["secrets"] if any(n for kinds in secret["found"].values() for n in kinds.values())]
    heads = [f"{kind}, of {leaks['answers'][role][kind]}" if len(leaks["answers"]) == 1 else f"{role}: {kind}" for role, kind in columns]
    table = Table("secret", *heads)
    for secret in shown:
        table.add_row(Text(printable(secret["name"])), *(str(secret["found"][role][kind]) for role, kind in columns))
    if shown:
        console.print(table)
    total = len(leaks["secrets"])
    for role in leaks["answers"]:
        said = ", ".join(f"{leaked(leaks, role, kind)} in {kind} answers" for kind in leaks["answers"][role])
        console.print(f"leaks of {role}: of {number_of(total, 'secret')} {said}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"answers searched: {folder / LEAKS}", soft_wrap=True, markup=False, highlight=False)
