"""What tu-eval depth and tu-eval tamper say of a model, as measures that are higher the more it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shared.console import number_of
from tu_eval.attacks.depth.score import row_depth
from tu_eval.attacks.relearn import REST
from tu_eval.evidence.verdict.measured import Clusters, Number, mean, of_rows

ByRole = tuple[str, dict[str, Number]]
"""what exactly was measured, and the measure by role (model, target, retain)"""
ROLES = {"model": "model", "before": "target", "retain": "retain"}
"""as tamper names a model -> its role on the page"""


def depth(about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], clusters: Clusters) -> ByRole | None:
    """1 − depth, row by row: how much of the fact the layers still hold; of the full model 1, of the retain model 0, by
    definition. None where no row has a depth."""
    by_fact: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda r: r["layer"]):
        by_fact.setdefault(row["example_id"], []).append(row)
    held = {}
    for name, layers in by_fact.items():
        found = row_depth([r["delta_retain"] for r in layers], [r["delta_model"] for r in layers], about["threshold"])
        if found is not None:
            held[name] = 1 - found
    if not held:
        return None
    ends = {role: of_rows(dict.fromkeys(held, end), clusters) for role, end in (("target", 1.0), ("retain", 0.0))}
    return "facts that layers still hold", {"model": of_rows(held, clusters), **ends}


def tampered(rows: Sequence[Mapping[str, Any]], clusters: Clusters) -> ByRole | None:
    """Forget rows that no run shows, after the last step of that run on other text (out-of-domain) which brings out
    most of this model; the retain model after the same run, the target as it is. None where nothing else was trained
    on."""
    runs: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in (r for r in rows if r["set"] == REST and r["model"] == "model" and r["on"] not in (None, "forget")):
        runs.setdefault((row["on"], row["rate"], row["rows"], row["step"]), {})[row["example_id"]] = row["probability"]
    last = max((step for *_, step in runs), default=0)
    ended = {key: values for key, values in runs.items() if key[-1] == last and last > 0}
    if not ended:
        return None
    key = max(ended, key=lambda k: mean(ended[k].values()))
    on, rate, count, step = key
    found = {"model": of_rows(ended[key], clusters)}
    for name, role in ROLES.items():
        run = (on, rate, count, step) if name == "retain" else None
        own = [r for r in rows if r["model"] == name and r["set"] == REST]
        chosen = [r for r in own if (r["on"], r["rate"], r["rows"], r["step"]) == run] if run else [r for r in own if r["step"] == 0]
        values = {r["example_id"]: r["probability"] for r in chosen}
        if role != "model" and values:
            found[role] = of_rows(values, clusters)
    return f"after {number_of(step, 'step')} on {number_of(count, f'{on} row')}, rate {rate:g}", found
