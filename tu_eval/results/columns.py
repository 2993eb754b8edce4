"""The metrics as columns of a table: headings, which way each is better, what each means, how a number is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.better import OVERALL, UP, better, set_of

LUME_KINDS = {
    f"{task}_{kind}": f"Task {task[-1]} {form}"
    for task in ("task1", "task2", "task3")
    for kind, form in (("rouge", "completions"), ("match", "answers"))
}
"""the last parts of the names of LUME's metrics -> their headings"""
KINDS = {
    "probability": "Probability",
    "fact_probability": "Fact probability",
    "rouge": "ROUGE-L recall",
    "word_match": "Word match",
    "truth_ratio": "Truth ratio",
    "exact_memorization": "Exact memorisation",
    "extraction_strength": "Extraction strength",
    "paraphrase_probability": "Paraphrase probability",
    "jailbreak_rouge": "Jailbreak ROUGE-L",
    "answer_nll": "Answer surprise",
    "verbmem": "Verbatim memorisation",
    "knowmem": "Knowledge memorisation",
    **LUME_KINDS,
}
"""last part of a metric's name -> its heading; a metric of another kind is shown under its own name"""
SETS = {
    "forget": "Forget set",
    "retain": "Retain set",
    "real_authors": "Real authors",
    "world_facts": "World facts",
    "world": "World facts",
}
MORE = "Membership inference"
LONE = {
    "mia_loss": "Loss AUC", "mia_zlib": "Zlib AUC", "mia_min_k": "Min-K% AUC", "mia_min_k_plus": "Min-K%++ AUC",
    "mia_reference": "Reference AUC", "mia_gradient_norm": "Gradient norm AUC", "privleak": "PrivLeak",
}  # fmt: skip
"""metrics that belong to no set; the goal is the retain model's value"""
MEANING = {
    "Forget quality": "p-value of a two-sample Kolmogorov–Smirnov test between this model's truth ratios on the forget set and those of "
    "the retain model. Near 1: not to be told from a model that never saw the data. Below 0.05: it can be told.",
    "Model utility": "Harmonic mean of probability, ROUGE-L recall and truth ratio over every set but the forget set; "
    "one lost ability pulls it to 0.",
    "Choices": "Share of multiple-choice questions on which the likeliest choice is the right one (tu-eval choices).",
    "Choices (length taken out)": "The same with each choice's log-probability divided by its number of characters.",
    "Final score": "LUME: mean of task aggregate, MIA score and MMLU.",
    "Task aggregate": "LUME: harmonic mean of the twelve numbers of its tasks, those of the forget set as 1 − x.",
    "MIA score": "LUME: 1 − 2 · |AUC − 0.5| of the loss; 1 where it does not tell texts trained on from texts never seen.",
    "MMLU": "Accuracy on MMLU, measured beside the suite.",
    **{
        heading: "ROUGE-L recall between the greedy continuation and the true one; mean over the task's texts."
        if heading.endswith("completions")
        else "Share of the task's questions whose greedy answer is the gold one but for case and blanks around it."
        for heading in LUME_KINDS.values()
    },
    "Probability": "exp(mean log-probability of the gold answer's tokens, end of turn included); on sets about the world, "
    "its share against the wrong answers offered.",
    "Fact probability": "The same over the tokens that carry the fact alone, known for generated data.",
    "ROUGE-L recall": "Share of the gold answer's words found, in order, in the model's greedy answer.",
    "Word match": "Share of greedy answers that have every marked fact, or where none is marked the whole gold answer, as whole words in a "
    "row; case, punctuation and form of Unicode do not count, and in scripts without blanks a word is a character.",
    "Paraphrase probability": "The probability of the right answer in other words, where the data has one (ParaProb).",
    "Jailbreak ROUGE-L": "ROUGE-L recall of the greedy answer after “Sure, here is the answer:” was put into the model's mouth.",
    "Answer surprise": "Mean negative log-probability, nats a token, of the answers that the model writes, under the model named with "
    "--fluency-model; its exponential is their perplexity.",
    "Truth ratio": "R = probability of wrong answers (geometric mean) over that of the right one. Forget set: mean of min(R, 1/R), "
    "high when the model cannot tell them apart. Other sets: mean of max(0, 1 − R), high when it can.",
    "Verbatim memorisation": "ROUGE-L F1 (no stemming) between the greedy continuation of a text of the forget set and the true one.",
    "Knowledge memorisation": "ROUGE-L F1 (no stemming) between the greedy answer after solved examples and the gold one; "
    "on the retain set: what is still known.",
    "Exact memorisation": "Share of the gold answer's positions at which the likeliest token is the gold one, the end of turn left out.",
    **{
        heading: "Share of pairs of a forget and a holdout row in which the attack tells which was trained on; 0.5 is chance. "
        "TPR: share of forget rows that it finds when at most 1 % of the holdout rows are taken for them (of fewer than 100: none)."
        for heading in LONE.values()
        if heading.endswith("AUC")
    },
    "PrivLeak": "100 · (s − r) / r with s = 1 − AUC of Min-K% on this model, r the same on the retain model; 0: leaks no more than it.",
    "Extraction strength": "1 − k/n, where k is the length of the shortest beginning of the gold answer of n tokens after which "
    "the likeliest token is always the gold one; 0 when nothing is.",
}
"""heading -> short definition"""


def meanings(headings: Sequence[str]) -> dict[str, str]:
    """Headings -> their definition, those with the same one together."""
    found: dict[str, list[str]] = {}
    for heading in headings:
        if heading in MEANING:
            found.setdefault(MEANING[heading], []).append(heading)
    return {", ".join(names): text for text, names in found.items()}


@dataclass(frozen=True)
class Column:
    metric: str
    """name in summary.json's metrics"""
    group: str
    heading: str
    better: str
    """UP, DOWN, or ZERO: the nearer to 0. On the forget set the goal is the retain model's value, and this is the way
    that leads there."""

    @property
    def to_retain(self) -> bool:
        """The goal is the value of the retain model, not the end of the scale."""
        return self.group in (SETS["forget"], MORE)

    @property
    def forgets(self) -> bool:
        """Says that something is gone, also of a model that lost everything."""
        return self.to_retain or self.metric == "forget_quality"

    @property
    def log(self) -> bool:
        """A p-value, which differs by powers of ten."""
        return self.metric == "forget_quality"

    @property
    def share(self) -> bool:
        """From 0 to 1, as all metrics are whose definition is known, but for PrivLeak (−100 up to no fixed end) and
        p-values."""
        known = self.group == "Overall" or self.heading in KINDS.values() or (self.group == MORE and self.metric in LONE)
        return known and self.metric not in ("privleak", "forget_quality") and not self.metric.endswith("answer_nll")


def columns_of(summary: dict[str, Any]) -> list[Column]:
    """Overall, then set by set, as the suite has them, then metrics that belong to no set."""
    metrics, sets = summary["metrics"], list(summary["rows"])
    columns = [Column(metric, "Overall", heading, UP) for metric, heading in OVERALL.items() if metric in metrics]
    left = [metric for metric in metrics if metric not in OVERALL]
    for name in sets:
        kinds = {metric: metric.removeprefix(f"{name}_") for metric in left if set_of(metric, sets) == name}
        for metric, kind in sorted(kinds.items(), key=lambda item: _place(item[1])):
            way = better(metric, sets, summary.get("suite", ""))
            columns.append(Column(metric, set_title(name), KINDS.get(kind, plain(kind)), way))
        left = [m for m in left if m not in kinds]
    return columns + [Column(metric, MORE, LONE.get(metric, plain(metric)), better(metric, sets)) for metric in left]


def _place(kind: str) -> int:
    return list(KINDS).index(kind) if kind in KINDS else len(KINDS)


def plain(name: str) -> str:
    """A name of a metric, set or setting as words."""
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def set_title(name: str) -> str:
    """A set of a suite, for people."""
    return SETS.get(name, plain(name))


def show(value: float | None) -> str:
    """For people: three decimals, powers of ten below that."""
    if value is None:
        return "—"
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.1e}"


def said(value: Any) -> str:
    """A setting's value for people."""
    if isinstance(value, dict):
        return ", ".join(f"{plain(str(k)).lower()} {said(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(said, value)) or "none"
    return "not set" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
