"""The depth of forgetting (UDS, arXiv 2605.24614), from what patched outputs cost.

Layer l's output of a source model is put in the place of the full model's, for all tokens, and the full model goes on
from there. With s the mean log-probability of a fact's tokens:

    Δ_l(source) = s(full) − s(full with layer l of source)
    K           = layers with Δ_l(retain) > threshold: there the retain model lacks what the full one knows
    depth       = Σ_K Δ_l(retain) · clip(Δ_l(model) / Δ_l(retain), 0, 1)  /  Σ_K Δ_l(retain)

1: at every such layer the model says as little of the fact as the retain model; 0: it says as much as the full model. A
row without such a layer has no depth, for the full model does not know its fact better than the retain model does.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

THRESHOLD = 0.05
COLUMNS = ("delta_retain", "delta_model", "lens_full", "lens_retain", "lens_model")


def row_depth(retain: Sequence[float], model: Sequence[float], threshold: float = THRESHOLD) -> float | None:
    """Of one fact, 0 to 1; None without a layer that counts. Both are [L], nats."""
    counted = [(r, m) for r, m in zip(retain, model, strict=True) if r > threshold]
    if not counted:
        return None
    return math.fsum(r * min(1.0, max(0.0, m / r)) for r, m in counted) / math.fsum(r for r, _ in counted)


def summarise(rows: Iterable[Mapping[str, Any]], threshold: float) -> dict[str, Any]:
    """Of rows (a fact and layer each): the mean depth with its standard error, rows with and without one, and means of
    each layer; all None where no row has a depth."""
    by_fact: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_fact.setdefault(row["example_id"], []).append(row)
    facts = [sorted(own, key=lambda r: r["layer"]) for own in by_fact.values()]
    found = [row_depth([r["delta_retain"] for r in own], [r["delta_model"] for r in own], threshold) for own in facts]
    depths = [d for d in found if d is not None]
    layers = [
        {
            "layer": same[0]["layer"],
            "counted": sum(r["delta_retain"] > threshold for r in same),
            **{name: None if same[0][name] is None else math.fsum(r[name] for r in same) / len(same) for name in COLUMNS},
        }
        for same in zip(*facts, strict=True)
    ]
    return {
        "depth": math.fsum(depths) / len(depths) if depths else None,
        "depth_stderr": statistics.stdev(depths) / math.sqrt(len(depths)) if len(depths) > 1 else None,
        "rows": len(found),
        "rows_with_depth": len(depths),
        "layers": layers,
    }
