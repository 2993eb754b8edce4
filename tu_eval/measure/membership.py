"""Membership inference on one model: can its forget rows be told from rows like them that it never saw (the holdout)?

A row each for both sides, with a column a metric (tu_eval/metrics/membership.py); then how well each column separates
the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from shared.data.examples import Example
from tu_eval.metrics.membership import loss, min_k, min_k_plus, reference_difference, zlib_ratio
from tu_eval.metrics.separation import separation
from tu_eval.results.folder import MEMBERSHIP_METRICS, ResultRow
from tu_eval.suites.variants import answer_length

OFF = {
    "reference": "needs a model that never saw the forget set (--set reference_model=MODEL)",
    "gradient_norm": "gradients were off (--set gradients=true)",
}


def membership_rows(
    groups: Mapping[str, Sequence[Example]],
    scores: Mapping[str, ResultRow],
    tokenizer: Any,
    *,
    references: Mapping[str, float] | None,
    norms: Mapping[str, float] | None,
) -> list[ResultRow]:
    """Rows of membership.parquet: forget, then holdout. A column is null throughout where its metric was not
    measured."""
    out = []
    for name, examples in groups.items():
        for e in examples:
            scored = scores[e.id]
            n = answer_length(e, tokenizer)
            own = loss(scored["logprob"])
            out.append(
                {
                    "set": name,
                    "example_id": e.id,
                    "loss": own,
                    "zlib": zlib_ratio(scored["logprob"], e.row.answer.strip()),
                    "min_k": min_k(scored["logprob"][:n]),
                    "min_k_plus": min_k_plus(scored["logprob"][:n], scored["entropy"][:n], scored["second"][:n]),
                    "reference": None if references is None else reference_difference(own, references[e.id]),
                    "gradient_norm": None if norms is None else norms[e.id],
                }
            )
    return out


def separations(rows: Sequence[ResultRow], *, seed: int) -> dict[str, dict[str, float]]:
    """For each metric that was measured: auc, low, high, true_positives."""
    out = {}
    for metric in MEMBERSHIP_METRICS:
        members, others = ([r[metric] for r in rows if r["set"] == side and r[metric] is not None] for side in ("forget", "holdout"))
        if members and others:
            out[metric] = asdict(separation(members, others, seed=seed))
    return out
