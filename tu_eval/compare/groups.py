"""Which results belong together: seeds of one recipe; and which are the target and the retain model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any

from tu_eval.compare.training import Training
from tu_eval.results.columns import plain, said
from tu_eval.results.results import Results

EVALUATION = ("dtype", "long", "generate", "max_new_tokens", "verbmem_tokens", "knowmem_tokens", "completion_tokens", "rounding")
"""settings of an evaluation; results that differ in one are no seeds of each other"""


@dataclass(frozen=True)
class Group:
    """The results of one recipe, one a seed; any other result is alone."""

    title: str
    members: list[int]
    """indices of results"""
    role: str | None
    """`target`: the model that others were unlearned from; `retain`: the one that never saw the data. The others are
    read against these."""
    training: Training | None
    """of the first member"""
    apart: str = ""
    """the settings that tell it from the other groups of its method and tokens, `keep 0.1 · gamma 2`; empty if there
    are no others"""

    @property
    def about(self) -> str:
        """Method, tokens and the settings that tell it apart, as far as they are known."""
        known = (self.training.method, self.training.tokens, self.apart) if self.training else ()
        return " · ".join(x for x in known if x)


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
    held, made = list(members.values()), [trainings[m[0]][0] for m in members.values()]
    apart = _apart(made, [results[m[0]].summary["settings"] for m in held])
    titles = _titles([[labels[i] for i in m] for m in held], made, apart)
    return [
        Group(title, m, role(results[m[0]], results, trainings), training, told)
        for title, m, training, told in zip(titles, held, made, apart, strict=True)
    ]


def _apart(trainings: Sequence[Training | None], evaluations: Sequence[Mapping[str, Any]]) -> list[str]:
    """[groups] settings, of training and evaluation, in which groups of one method and tokens differ; empty where no
    method is known."""
    told = [
        {**t.told, **{k: (str(e.get(k)), said(e.get(k))) for k in EVALUATION}} if t is not None and t.method else None
        for t, e in zip(trainings, evaluations, strict=True)
    ]
    out = []
    for one in told:
        if one is None:
            out.append("")
            continue
        same = [t for t in told if t is not None and all(t.get(k) == one.get(k) for k in ("method", "tokens"))]
        # What differs and reads the same (two stores in folders of one name) tells nothing.
        names = [n for n in dict.fromkeys(n for t in same for n in t) if all(len({str(_of(t, n)[k]) for t in same}) > 1 for k in (0, 1))]
        out.append(" · ".join(f"{plain(name).lower()} {_of(one, name)[1]}" for name in names))
    return out


def _of(told: Mapping[str, tuple[Any, str]], name: str) -> tuple[Any, str]:
    return told.get(name, (None, said(None)))


def _titles(labels: list[list[str]], trainings: list[Training | None], apart: list[str]) -> list[str]:
    """A lone result keeps its label; seeds are called by method and tokens, and by settings where those do not tell
    recipes apart."""
    titles = []
    for names, training, told in zip(labels, trainings, apart, strict=True):
        if len(names) == 1 or training is None:
            titles.append(names[0])
        elif training.method:
            titles.append(" · ".join(p for p in (training.method, training.tokens, told) if p))
        else:
            stem = commonprefix(names)  # noqa: RUF071 — labels, no paths
            titles.append(re.sub(r"[\s._=-]*(seed|s)?[\s._=-]*$", "", stem) or names[0])
    counts = Counter(titles)
    return [t if counts[t] == 1 else f"{t} ({names[0]})" for t, names in zip(titles, labels, strict=True)]


def role(result: Results, results: Sequence[Results], trainings: Sequence[tuple[Training | None, str]]) -> str | None:
    """`target` and `retain` are known by their label, or by content: the others were unlearned from it, or tested
    against it."""
    if result.label in ("target", "retain"):
        return result.label
    if is_reference(result, results):
        return "retain"
    starts = {t.record.start_model for t, _ in trainings if t is not None and t.record.task == "unlearn"}
    return "target" if result.summary["model_fingerprint"] in starts else None


def references(results: Sequence[Results]) -> set[tuple[str, str | None]]:
    """Hashes of the rows and weights of the retain results that the others were measured against."""
    named = [r.summary["retain_results"] or {} for r in results]
    return {(n["rows_sha256"], n.get("model_fingerprint")) for n in named if n.get("rows_sha256")}


def is_reference(result: Results, results: Sequence[Results]) -> bool:
    # Rows alone do not tell: without generation those of MUSE are the same for every model.
    return (result.summary["rows_sha256"], result.summary["model_fingerprint"]) in references(results)
