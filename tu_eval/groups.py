"""Which results belong together: seeds of one recipe; and which are the target and the retain model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any

from tu_eval.columns import plain
from tu_eval.results import Results
from tu_eval.training import Training

EVALUATION = ("dtype", "long", "generate", "max_new_tokens", "verbmem_tokens", "knowmem_tokens")
"""settings of an evaluation; results that differ in one are no seeds of each other"""


@dataclass(frozen=True)
class Group:
    """The results of one recipe, one a seed; any other result is alone."""

    title: str
    members: list[int]
    """indices of results"""
    role: str | None
    """`target`: the model that others were unlearned from; `retain`: the one that never saw the data. The others are read against these."""
    training: Training | None
    """of the first member"""

    @property
    def about(self) -> str:
        """Method and tokens, as far as they are known."""
        return " · ".join(x for x in (self.training and self.training.method, self.training and self.training.tokens) if x)


def group_results(results: Sequence[Results], labels: Sequence[str], trainings: Sequence[tuple[Training | None, str]]) -> list[Group]:
    """In the order of their first result. Two results of the same weights are no two seeds: the second stands alone."""
    members: dict[Any, list[int]] = {}
    for i, (result, (training, _)) in enumerate(zip(results, trainings, strict=True)):
        key: Any = i
        if training is not None:
            key = (training.key, role(result, results, trainings), *(str(result.summary["settings"].get(k)) for k in EVALUATION))
            if any(results[k].summary["model_fingerprint"] == result.summary["model_fingerprint"] for k in members.get(key, [])):
                key = i
        members.setdefault(key, []).append(i)
    titles = _titles([[labels[i] for i in m] for m in members.values()], [trainings[m[0]][0] for m in members.values()])
    return [
        Group(title, m, role(results[m[0]], results, trainings), trainings[m[0]][0])
        for title, m in zip(titles, members.values(), strict=True)
    ]


def _titles(labels: list[list[str]], trainings: list[Training | None]) -> list[str]:
    """A lone result keeps its label; seeds are called by method and tokens, and by settings where those do not tell recipes apart."""
    titles = []
    for names, training in zip(labels, trainings, strict=True):
        if len(names) == 1 or training is None:
            titles.append(names[0])
        elif training.method:
            same = [t for t in trainings if t is not None and (t.method, t.tokens) == (training.method, training.tokens)]
            differing = [k for k in training.recipe if len({str(t.recipe.get(k)) for t in same}) > 1]
            parts = [training.method, training.tokens, *(f"{plain(k).lower()} {training.recipe[k]}" for k in differing)]
            titles.append(" · ".join(str(p) for p in parts if p))
        else:
            stem = commonprefix(names)  # noqa: RUF071 — labels, no paths
            titles.append(re.sub(r"[\s._=-]*(seed|s)?[\s._=-]*$", "", stem) or names[0])
    counts = Counter(titles)
    return [t if counts[t] == 1 else f"{t} ({names[0]})" for t, names in zip(titles, labels, strict=True)]


def role(result: Results, results: Sequence[Results], trainings: Sequence[tuple[Training | None, str]]) -> str | None:
    """`target` and `retain` are known by their label, or by content: the others were unlearned from it, or tested against it."""
    if result.label in ("target", "retain"):
        return result.label
    if is_reference(result, results):
        return "retain"
    starts = {t.about.get("start_model") for t, _ in trainings if t is not None and t.about.get("task") == "unlearn"}
    return "target" if result.summary["model_fingerprint"] in starts else None


def references(results: Sequence[Results]) -> set[tuple[str, str | None]]:
    """Hashes of the rows and weights of the retain results that the others were measured against."""
    named = [r.summary["retain_results"] or {} for r in results]
    return {(n["rows_sha256"], n.get("model_fingerprint")) for n in named if n.get("rows_sha256")}


def is_reference(result: Results, results: Sequence[Results]) -> bool:
    # Rows alone do not tell: without generation those of MUSE are the same for every model.
    return (result.summary["rows_sha256"], result.summary["model_fingerprint"]) in references(results)
