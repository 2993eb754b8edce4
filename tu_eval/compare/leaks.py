"""Secrets that compared models give away, side by side, where their results hold a leak check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tu_eval.results.leaks import leaked, require_counted
from tu_eval.results.results import SUITE_FOLDER, Results

ROLE = "model"
"""as a leak check of tu-eval run calls its model"""
NONE = "—"
Made = tuple[list[str], list[list[str]]]
"""headings, and a row a secret"""


def leak_table(labels: Sequence[str], results: Sequence[Results]) -> Made | None:
    """First how many secrets stand in at least one answer, then for each secret in how many answers it stands; a column
    a model with a leak check and kind of answer. Secrets are those of the first such model; a model that was searched
    for others has no numbers. None without a leak check.

    Raises StoreError for counts that are not those of leaks.parquet."""
    checks = [(label, r.summary["leaks"]) for label, r in zip(labels, results, strict=True) if r.summary.get("leaks")]
    if not checks:
        return None
    for result in results:
        if found := result.summary.get("leaks"):
            require_counted(result.folder, found, SUITE_FOLDER.summary)
    first = checks[0][1]
    columns = [(label, check, kind) for label, check in checks for kind in check["answers"].get(ROLE, {})]
    heads = ["Secret", *(f"{label}: {kind}, of {check['answers'][ROLE][kind]}" for label, check, kind in columns)]
    total = len(first["secrets"])
    every = [f"{leaked(check, ROLE, kind)} of {total}" if _alike(check, first) else NONE for _, check, kind in columns]
    each = [
        [secret["name"], *(str(check["secrets"][k]["found"][ROLE][kind]) if _alike(check, first) else NONE for _, check, kind in columns)]
        for k, secret in enumerate(first["secrets"])
    ]
    return heads, [["given away", *every], *each]


def leak_notes(labels: Sequence[str], results: Sequence[Results]) -> list[str]:
    """Models whose leak checks do not compare with that of the first."""
    checks = [(label, r.summary["leaks"]) for label, r in zip(labels, results, strict=True) if r.summary.get("leaks")]
    if not checks:
        return []
    name, first = checks[0]
    other = [label for label, check in checks if not _alike(check, first)]
    written = [label for label, check in checks if _alike(check, first) and check["settings"] != first["settings"]]
    notes = [f"{', '.join(other)} was searched for other secrets than {name}: its leak check does not compare."] if other else []
    if written:
        notes.append(f"Answers that {', '.join(written)} was searched in were written otherwise than those of {name} (settings of the leak "
                     "check): counts of drawn answers do not compare.")  # fmt: skip
    return notes


def _alike(check: Mapping[str, Any], first: Mapping[str, Any]) -> bool:
    return check["secrets_sha256"] == first["secrets_sha256"] and len(check["secrets"]) == len(first["secrets"])
