"""Several results side by side: which columns there are, which way each is better, and what does not go together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import StoreError
from tu_eval.metrics.forget_quality import forget_quality
from tu_eval.results import IDENTITY, Results, load_results, require_comparable

UP, DOWN = "↑", "↓"
KINDS = {
    "probability": "Probability",
    "fact_probability": "Fact probability",
    "rouge": "ROUGE-L recall",
    "truth_ratio": "Truth ratio",
}
"""last part of a metric's name -> its heading"""
SETS = {
    "forget": "Forget set",
    "retain": "Retain set",
    "real_authors": "Real authors",
    "world_facts": "World facts",
    "world": "World facts",
}
OVERALL = {"forget_quality": "Forget quality", "model_utility": "Model utility"}
MEANING = {
    "Forget quality": "p-value of a two-sample Kolmogorov–Smirnov test between this model's truth ratios on the forget set and those of "
    "the retain model. Near 1: not to be told from a model that never saw the data. Below 0.05: it can be told.",
    "Model utility": "Harmonic mean of probability, ROUGE-L recall and truth ratio over every set but the forget set; "
    "one lost ability pulls it to 0.",
    "Probability": "exp(mean log-probability of the gold answer's tokens, end of turn included); on sets about the world, "
    "its share against the wrong answers offered.",
    "Fact probability": "The same over the tokens that carry the fact alone, known for generated data.",
    "ROUGE-L recall": "Share of the gold answer's words found, in order, in the model's greedy answer.",
    "Truth ratio": "R = probability of wrong answers (geometric mean) over that of the right one. Forget set: mean of min(R, 1/R), "
    "high when the model cannot tell them apart. Other sets: mean of max(0, 1 − R), high when it can.",
}


@dataclass(frozen=True)
class Column:
    metric: str
    """name in summary.json's metrics"""
    group: str
    heading: str
    better: str
    """UP or DOWN. On the forget set the goal is the retain model's value, and this is the way that leads there."""


@dataclass(frozen=True)
class Comparison:
    results: list[Results]
    labels: list[str]
    """unique; the folder's name is added where two results share a label"""
    columns: list[Column]
    notes: list[str]
    """what a reader must know before comparing"""

    def value(self, index: int, metric: str) -> float | None:
        """A metric of one result. The result that the others were tested against is tested against itself: it belongs in the plot."""
        result = self.results[index]
        value = result.summary["metrics"].get(metric)
        if value is None and metric == "forget_quality" and result.summary["rows_sha256"] in references(self.results):
            ratios = [row["log_truth_ratio"] for row in result.rows("forget")]
            return forget_quality(ratios, ratios)
        return value


def load_comparison(folders: Sequence[Path]) -> Comparison:
    """Raises StoreError for a folder that is no finished result, or that was measured on another suite, data or tokenizer."""
    results = [load_results(folder) for folder in folders]
    first = results[0]
    for other in results[1:]:
        require_comparable({k: first.summary[k] for k in IDENTITY}, other, what=f"{first.folder} and")
    counts = Counter(r.label for r in results)
    labels = [r.label if counts[r.label] == 1 else f"{r.label} ({r.folder.name})" for r in results]
    if len(set(labels)) < len(labels):
        labels = [f"{r.label} ({r.folder})" for r in results]
    if len(set(labels)) < len(labels):
        raise StoreError(f"{Counter(labels).most_common(1)[0][0]}: the same results folder is given twice")
    return Comparison(results, labels, columns_of(first.summary), notes_on(results))


def columns_of(summary: dict[str, Any]) -> list[Column]:
    """Overall, then set by set, as the suite has them."""
    overall = [Column(metric, "Overall", heading, UP) for metric, heading in OVERALL.items()]
    rest = []
    for name in summary["rows"]:
        for kind, heading in KINDS.items():
            if f"{name}_{kind}" in summary["metrics"]:
                better = DOWN if name == "forget" and kind != "truth_ratio" else UP
                rest.append(Column(f"{name}_{kind}", SETS.get(name, name), heading, better))
    return overall + rest


def notes_on(results: Sequence[Results]) -> list[str]:
    notes = []
    for field, effect in (("max_new_tokens", "ROUGE and model utility"), ("dtype", "small differences"), ("long", "lengths")):
        values = sorted({str(r.summary["settings"].get(field)) for r in results})
        if len(values) > 1:
            notes.append(f"The runs differ in {field} ({', '.join(values)}): mind that when comparing {effect}.")
    if len(references(results)) > 1:
        notes.append("Forget quality was computed against different retain results; the p-values do not compare.")
    if results[0].summary["limit"] is not None:
        notes.append(f"Only the first {results[0].summary['limit']} rows of each set were measured (--limit): a quick look, not a result.")
    return notes


def references(results: Sequence[Results]) -> set[str]:
    """Hashes of the retain results that forget quality was computed against."""
    return {r.summary["retain_results"]["rows_sha256"] for r in results if r.summary["retain_results"]}


def role(result: Results) -> str | None:
    """`target` and `retain` are the two ends that the others are read against, known by their label."""
    return result.label if result.label in ("target", "retain") else None


def show(value: float | None) -> str:
    """For people: three decimals, powers of ten below that."""
    if value is None:
        return "—"
    return f"{value:.3f}" if value == 0 or value >= 0.001 else f"{value:.1e}"
