"""The folders of one or more unlearned models -> a verdict each: lines under two questions, what was not measured, one
sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from shared.better import OVERALL
from shared.errors import StoreError
from tu_eval.compare.comparison import Comparison, load_comparison
from tu_eval.compare.fluency import babbling_said
from tu_eval.evidence.verdict import lines, suite
from tu_eval.evidence.verdict.lines import Line
from tu_eval.evidence.verdict.measured import Number
from tu_eval.evidence.verdict.pareto import front
from tu_eval.evidence.verdict.rules import BAD, GOOD, forgotten, kept
from tu_eval.results.folder import Finished, read_folder


class Missing(NamedTuple):
    """What nobody measured."""

    question: str
    """forgotten or kept: under which it would stand"""
    what: str
    """behind `What is still there` under the first, behind `What was kept` under the second"""
    command: str
    """that would measure it"""


WRITING = Missing("kept", "in fluency", "tu-eval run, with answers written (generate)")
BENCHMARKS = Missing("kept", "in benchmarks", "tu-eval benchmarks --tasks mmlu")
NO_RETAIN = "No retain model was given (--retain), so nothing says where forgetting ends."


@dataclass(frozen=True)
class Verdict:
    label: str
    about: str
    forgotten: list[Line]
    kept: list[Line]
    missing: list[Missing]
    elsewhere: list[str]
    """what was measured too and has no line here"""
    note: str
    """what must be known before anything of it is believed"""
    point: tuple[float, float] | None
    """(what is still known, what is kept) for the front"""
    on_front: bool = True
    retain: bool = False
    """whether there was a retain model; depth is told without one too"""


def load(folders: Sequence[Path], target: Path | None, retain: Path | None) -> tuple[Comparison, dict[str, int], list[Finished]]:
    """-> the results of all models, the index of target and retain model among them, folders of attacks and choices.

    Raises StoreError for folders that do not go together, and where no unlearned model is left."""
    more = beside(folders)
    results = [f for f in folders if f not in {one.folder for one in more}]
    named = {"target": target, "retain": retain}
    every = list(dict.fromkeys(f for f in (*results, target, retain) if f is not None))
    if not every:
        raise StoreError("report: no results of a model were given, only what was made beside them; name its folder of tu-eval run too")
    comparison = load_comparison(every)
    roles = {role: every.index(folder) for role, folder in named.items() if folder is not None}
    for role in ("target", "retain"):
        found = [i for group in comparison.groups if group.role == role for i in group.members]
        if len(found) > 1 and role not in roles:
            flag = {"target": "--before", "retain": "--retain"}[role]
            raise StoreError(f"report: {len(found)} results of a {role} model were given; say with {flag} which one to compare with")
        if found:
            roles.setdefault(role, found[0])
    if len(_ends(comparison, roles)) == len(every):
        raise StoreError("report: only a target and a retain model were given; name the results of an unlearned model as well")
    require_of(comparison, more)
    return comparison, roles, more


def beside(folders: Sequence[Path]) -> list[Finished]:
    """Those that hold no results of tu-eval run but what was made beside them."""
    return [read_folder(f, kind) for f in folders for kind in lines.KINDS if (f / kind.summary).exists()]


def require_of(comparison: Comparison, more: Sequence[Finished]) -> None:
    """Raises StoreError for a folder that speaks of none of the compared models."""
    known = {result.summary["model_fingerprint"] for result in comparison.results}
    for one in more:
        if not known & set(lines.fingerprints(one)):
            raise StoreError(f"{one.folder}: was made with none of the models whose results were given; name that model's results too")


def _ends(comparison: Comparison, roles: Mapping[str, int]) -> set[int]:
    """Targets and retain models, which are compared with and not judged."""
    return {i for group in comparison.groups if group.role is not None for i in group.members} | set(roles.values())


def verdicts(comparison: Comparison, roles: Mapping[str, int], more: Sequence[Finished]) -> list[Verdict]:
    """One a model that is neither target nor retain model, those that nothing dominates marked."""
    titles = {i: (g.title if len(g.members) == 1 else comparison.labels[i], g.about) for g in comparison.groups for i in g.members}
    ends = _ends(comparison, roles)
    judged = [i for i in range(len(comparison.results)) if i not in ends]
    axes = _axes([comparison.results[i].summary["metrics"] for i in judged])
    made = [verdict_of(comparison, i, roles, more, *titles[i], axes) for i in judged]
    points = [v.point for v in made if v.point is not None]
    on = iter(front(points))
    return [v if v.point is None else replace(v, on_front=next(on)) for v in made]


def verdict_of(comparison: Comparison, index: int, roles: Mapping[str, int], more: Sequence[Finished], label: str, about: str = "",
               axes: tuple[str, str] | None = None) -> Verdict:  # fmt: skip
    """Of the result at `index`, against those of `roles` (target and retain)."""
    summary = comparison.results[index].summary
    metrics, sets = summary["metrics"], list(summary["rows"])

    def line(how: str, metric: str, rule: Any) -> Line:
        found = {role: suite.measured(comparison, i, metric) for role, i in (("model", index), *roles.items())}
        model, target, retain = found["model"], found.get("target"), found.get("retain")
        assert model is not None, "only metrics with a value are asked for"
        return Line(how, suite.title(metric, sets), model, target, retain, rule(model, target, retain))

    ways = {
        **dict.fromkeys(suite.direct(metrics), "direct"),
        **dict.fromkeys(suite.otherwise(metrics, sets, summary["suite"]), "in questions nobody trained on"),
        **dict.fromkeys(suite.membership(metrics), "by membership inference"),
    }
    staying = suite.kept(metrics, sets)
    gone = [line(how, metric, partial(forgotten, chance=0.5 if metric.startswith("mia_") else 0.0)) for metric, how in ways.items()]
    held = [line("overall" if m in OVERALL else "retain set" if m.startswith("retain_") else "elsewhere", m, kept) for m in staying]
    found = lines.tried(comparison, index, roles, more)
    asked = lines.benchmarks(comparison, index, roles, more)
    gone += [*lines.secrets(comparison, index, roles, more), *found.values(), *(one for to_go, one in asked if to_go)]
    gone = [_without_retain(x) if "retain" in roles and x.retain is None and x.said.state == "fell" else x for x in gone]
    written, still = lines.writing(comparison, index, roles), [one for to_go, one in asked if not to_go]
    held += [*written, *lines.stayed(comparison, index, roles, more), *lines.choices(comparison, index, roles, more), *still]
    missing = [Missing("forgotten", *told) for name, told in lines.TRIED.items() if name not in found]
    missing += ([] if written else [WRITING]) + ([] if still else [BENCHMARKS])
    point = (metrics[axes[0]], metrics[axes[1]]) if axes is not None else None
    broken = comparison.babbling.get(index)
    note = f"It {babbling_said(comparison.fluency[index], broken)}" if broken else ""
    return Verdict(
        label, about, gone, held, missing, suite.elsewhere(metrics, {*ways, *staying}, sets), note, point, retain="retain" in roles
    )


def _without_retain(line: Line) -> Line:
    """Where other lines have the retain model's number."""
    said = f"{line.said.sentence.removesuffix('.')}; the retain model was not measured so."
    return replace(line, said=replace(line.said, sentence=said))


def as_json(verdict: Verdict) -> dict[str, Any]:
    """Headline, note, what is missing, and the lines under both questions with their numbers."""

    def number(one: Number | None) -> dict[str, Any] | None:
        return one and {"value": one.value, "span": one.span and list(one.span), "rows": one.n}

    lines = [
        {"question": question, "how": x.how, "name": x.name, "state": x.said.state, "sentence": x.said.sentence,
         **{role: number(getattr(x, role)) for role in ("model", "target", "retain")}}
        for question, some in (("forgotten", verdict.forgotten), ("kept", verdict.kept)) for x in some
    ]  # fmt: skip
    missing = [one._asdict() for one in verdict.missing]
    return {"headline": headline(verdict), "note": verdict.note, "lines": lines, "missing": missing}


def _axes(every: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Of the front: what is still known and what is kept, the first metrics that all models have."""
    known = [m for m in (suite.direct(every[0]) if every else []) if all(metrics.get(m) is not None for metrics in every)]
    kept_ones = ("model_utility", "retain_probability", "retain_rouge", "retain_knowmem")
    keeping = [m for m in kept_ones if all(metrics.get(m) is not None for metrics in every)]
    return (known[0], keeping[0]) if known and keeping else None


def headline(verdict: Verdict) -> str:
    """One sentence: how many measures say what."""
    return f"Forgotten: {_count(verdict.forgotten, GOOD[0])}. Kept: {_count(verdict.kept, GOOD[1])}."


def _count(shown: Sequence[Line], good: str) -> str:
    if not shown:
        return "nothing was measured"
    states = Counter(line.said.state for line in shown)
    telling = len(shown) - states["silent"] - states["alone"]
    if not telling:
        return "no measure tells"
    if states["fell"] and states["fell"] + states["there"] == telling:
        return f"lower than before in {states['fell']} of {telling} measures"
    others = [f"{states[state]} {word}" for state, word in WORDS.items() if states[state]]
    return f"{states[good]} of {telling} measures say so" + (f"; {', '.join(others)}" if others else "")


WORDS = {"partly": "partly", "fell": "lower than before, with nothing to compare with", "there": "not at all", "lost": "less than before",
         "unclear": "too few rows to tell"}  # fmt: skip
assert set(BAD) <= set(WORDS)
