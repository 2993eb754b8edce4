"""What the answers themselves say: whether a model still writes, and which secrets it gives away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tu_eval.evidence.verdict.measured import Clusters, Number, of_rows
from tu_eval.metrics.fluency import babbles
from tu_eval.results.leaks import KINDS

SAID = {"greedy": "its answers", "reworded": "answers to other words", "sampled": "answers drawn"}


def writing(by_set: Mapping[str, Sequence[Mapping[str, Any]]], clusters: Clusters) -> dict[str, Number]:
    """Set -> the share of its answers that are neither empty nor repeat themselves, for sets with answers written: who
    babbles on the forget set alone is not who babbles everywhere."""
    written = {name: [row for row in rows if row.get("generation") is not None] for name, rows in by_set.items()}
    return {
        name: of_rows({row["example_id"]: float(not babbles(row["generation"])) for row in rows}, clusters)
        for name, rows in written.items() if rows
    }  # fmt: skip


def secrets(leaks: Mapping[str, Any] | None, role: str) -> dict[str, Number]:
    """Kind of answer -> the share of secrets that stand in at least one answer of that kind, a row a secret."""
    if leaks is None:
        return {}
    kinds = [kind for kind in KINDS if leaks["answers"].get(role, {}).get(kind)]
    return {
        kind: of_rows({secret["name"]: float(secret["found"].get(role, {}).get(kind, 0) > 0) for secret in leaks["secrets"]})
        for kind in kinds if leaks["secrets"]
    }  # fmt: skip
