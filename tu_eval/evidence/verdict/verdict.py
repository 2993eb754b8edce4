"""The folders of one or more unlearned models -> a verdict each: lines under two questions, what was not measured, one
sentence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import StoreError
from tu_eval.attacks.run import ATTACK_FOLDER
from tu_eval.choices.run import CHOICES_FOLDER
from tu_eval.compare.comparison import Comparison, load_comparison
from tu_eval.evidence.verdict import attacked, suite
from tu_eval.evidence.verdict.measured import Number
from tu_eval.evidence.verdict.pareto import front
from tu_eval.evidence.verdict.rules import BAD, GOOD, Ruling, forgotten, kept
from tu_eval.results.folder import Finished, read_folder

ATTACKS = {
    "paraphrase": ("in other words", "tu-eval attack --attack paraphrase"),
    "sample": ("by asking often", "tu-eval attack --attack sample"),
    "relearn": ("after relearning", "tu-eval attack --attack relearn"),
    "quantise": ("after rounding the weights", "tu-eval attack --attack quantise"),
}
"""attack -> its place on the page, and the command that makes it"""
Z = 1.96


@dataclass(frozen=True)
class Line:
    """One measure of one model."""

    how: str
    """`direct`, `in other words`, ..."""
    name: str
    model: Number
    target: Number | None
    retain: Number | None
    said: Ruling


@dataclass(frozen=True)
class Verdict:
    label: str
    about: str
    forgotten: list[Line]
    kept: list[Line]
    missing: list[tuple[str, str]]
    """what nobody measured, and the command that would"""
    point: tuple[float, float] | None
    """(what is still known, what is kept) for the front"""
    on_front: bool = True


def load(folders: Sequence[Path], target: Path | None, retain: Path | None) -> tuple[Comparison, dict[str, int], list[Finished]]:
    """-> the results of all models, the index of target and retain model among them, folders of attacks and choices.

    Raises StoreError for folders that do not go together, and where no unlearned model is left."""
    results = [f for f in folders if not any((f / kind.summary).exists() for kind in (ATTACK_FOLDER, CHOICES_FOLDER))]
    more = [read_folder(f, kind) for f in folders for kind in (ATTACK_FOLDER, CHOICES_FOLDER) if (f / kind.summary).exists()]
    named = {"target": target, "retain": retain}
    every = list(dict.fromkeys(f for f in (*results, target, retain) if f is not None))
    comparison = load_comparison(every)
    roles = {role: every.index(folder) for role, folder in named.items() if folder is not None}
    for group in comparison.groups:
        if group.role is not None and len(group.members) == 1:
            roles.setdefault(group.role, group.members[0])
    if len(roles) == len(every):
        raise StoreError("report: only a target and a retain model were given; name the results of an unlearned model as well")
    known = {result.summary["model_fingerprint"] for result in comparison.results}
    for one in more:
        if not known & set(_fingerprints(one)):
            raise StoreError(f"{one.folder}: was made with none of the models whose results were given; name that model's results too")
    return comparison, roles, more


def verdicts(comparison: Comparison, roles: Mapping[str, int], more: Sequence[Finished]) -> list[Verdict]:
    """One a model that is neither target nor retain model, those that nothing dominates marked."""
    titles = {i: (g.title if len(g.members) == 1 else comparison.labels[i], g.about) for g in comparison.groups for i in g.members}
    made = [_verdict(comparison, i, roles, more, *titles[i]) for i in range(len(comparison.results)) if i not in roles.values()]
    points = [v.point for v in made if v.point is not None]
    on = iter(front(points))
    return [v if v.point is None else Verdict(**{**vars(v), "on_front": next(on)}) for v in made]


def _verdict(comparison: Comparison, index: int, roles: Mapping[str, int], more: Sequence[Finished], label: str, about: str) -> Verdict:
    summary = comparison.results[index].summary
    metrics, sets = summary["metrics"], list(summary["rows"])

    def line(how: str, metric: str, rule: Any) -> Line:
        found = {role: suite.measured(comparison, i, metric) for role, i in (("model", index), *roles.items())}
        model, target, retain = found["model"], found.get("target"), found.get("retain")
        assert model is not None, "only metrics with a value are asked for"
        return Line(how, suite.title(metric, sets), model, target, retain, rule(model, target, retain))

    lines = [line("direct", metric, forgotten) for metric in suite.direct(metrics)]
    lines += [line("by membership inference", metric, forgotten) for metric in suite.membership(metrics)]
    held = [line("retain set" if m.startswith("retain_") else "elsewhere", m, kept) for m in suite.kept(metrics, sets)]
    by_attack = _attacks(comparison, index, roles, more)
    lines += list(by_attack.values())
    held += _choices(comparison, index, roles, more)
    missing = [(how, command) for name, (how, command) in ATTACKS.items() if name not in by_attack]
    return Verdict(label, about, lines, held, missing, _point(comparison, index))


def _point(comparison: Comparison, index: int) -> tuple[float, float] | None:
    metrics = comparison.results[index].summary["metrics"]
    known = suite.direct(metrics)[:1]
    keeping = [m for m in ("model_utility", "retain_probability", "retain_rouge", "retain_knowmem") if metrics.get(m) is not None]
    return (metrics[known[0]], metrics[keeping[0]]) if known and keeping else None


def _attacks(comparison: Comparison, index: int, roles: Mapping[str, int], more: Sequence[Finished]) -> dict[str, Line]:
    """A line an attack that was made on this model; of an attack that was made twice the later folder's."""
    prints = {role: comparison.results[i].summary["model_fingerprint"] for role, i in (("model", index), *roles.items())}
    folders = [f for f in more if f.kind is ATTACK_FOLDER]
    lines: dict[str, Line] = {}
    for folder in folders:
        if prints["model"] not in _fingerprints(folder):
            continue
        alike = [folder, *(f for f in folders if f is not folder and _content(f) == _content(folder))]
        rows = {role: attacked.rows_of(alike, fingerprint) for role, fingerprint in prints.items()}
        for name, (what, found) in attacked.measures(rows).items():
            model, target, retain = (found.get(role) for role in ("model", "target", "retain"))
            assert model is not None, "attacks that were not made on the model are left out"
            lines[name] = Line(ATTACKS[name][0], what, model, target, retain, forgotten(model, target, retain))
    return {name: lines[name] for name in ATTACKS if name in lines}


def _content(folder: Finished) -> dict[str, Any]:
    """What two folders of attacks share when they asked the same in the same way, of whichever models."""
    return {k: v for k, v in folder.summary.items() if k in ("suite", "data_fingerprint", "settings", "attack_code")}


def _choices(comparison: Comparison, index: int, roles: Mapping[str, int], more: Sequence[Finished]) -> list[Line]:
    """Accuracy on questions with choices, where the same questions were asked of this model."""
    folders = [f for f in more if f.kind is CHOICES_FOLDER]
    by_model = {(f.summary["model_fingerprint"], f.summary.get("data_fingerprint")): f for f in folders}
    prints = {role: comparison.results[i].summary["model_fingerprint"] for role, i in roles.items()}
    lines = []
    for (model, data), folder in by_model.items():
        if model == comparison.results[index].summary["model_fingerprint"]:
            found = {role: _accuracy(by_model[own, data]) for role, own in prints.items() if (own, data) in by_model}
            mine = _accuracy(folder)
            lines.append(Line("multiple choice", f"Accuracy ({folder.folder.name})", mine, found.get("target"), found.get("retain"),
                              kept(mine, found.get("target"), found.get("retain"))))  # fmt: skip
    return lines


def _accuracy(folder: Finished) -> Number:
    rows = {row["example_id"]: float(row["picked"] == row["answer"]) for row in folder.rows()}
    value = math.fsum(rows.values()) / len(rows)
    half = Z * (folder.summary["metrics"].get("accuracy_stderr") or 0.0)
    return Number(value, rows, (max(0.0, value - half), min(1.0, value + half)), len(rows))


def _fingerprints(folder: Finished) -> list[str]:
    if folder.kind is ATTACK_FOLDER:
        return [about["model_fingerprint"] for about in folder.summary["models"].values()]
    return [folder.summary.get("model_fingerprint", "")]


def headline(verdict: Verdict) -> str:
    """One sentence: how many measures say what."""
    return f"Forgotten: {_count(verdict.forgotten, GOOD[0])}. Kept: {_count(verdict.kept, GOOD[1])}."


def _count(lines: Sequence[Line], good: str) -> str:
    if not lines:
        return "nothing was measured"
    states = Counter(line.said.state for line in lines)
    telling = len(lines) - states["silent"] - states["alone"]
    if not telling:
        return "no measure tells"
    others = [f"{states[state]} {word}" for state, word in WORDS.items() if states[state]]
    return f"{states[good]} of {telling} measures say so" + (f"; {', '.join(others)}" if others else "")


WORDS = {"partly": "partly", "fell": "lower than before, with nothing to compare with", "there": "not at all", "lost": "less than before",
         "unclear": "too few rows to tell"}  # fmt: skip
assert set(BAD) <= set(WORDS)
