"""`tu-eval many STUDY.toml --out DIR`: what the [eval], [benchmarks] and [choices] of a study measure, on its [models]
and on every finished run of `tu-train many STUDY.toml --out DIR`, and the page that compares them.

    DIR/results/LABEL       of a model of [models]; benchmarks/LABEL and choices/LABEL likewise
    DIR/RUN/results         of a run; RUN/benchmarks and RUN/choices likewise
    DIR/page.html           as tu-eval compare writes it, with table.md and table.csv
    DIR/benchmarks.md       the numbers of benchmarks and choices

Finished measurements of the same settings and weights are skipped; those of others are refused. What fails on one run
is noted, and the next one begins.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.config import read_toml, resolve
from shared.console import say
from shared.errors import ConfigError, StoreError, UserError
from shared.files.fs import write_text
from shared.lm.models import model_fingerprint
from shared.process import check_measures, resolved, run_command
from shared.records import INDEX
from shared.study import MEASURES, Study, load_study
from tu_eval.choices.config import ChoicesConfig
from tu_eval.choices.run import fingerprint as choices_fingerprint
from tu_eval.compare.comparison import Comparison, load_comparison
from tu_eval.compare.export import write_exports
from tu_eval.compare.report import write_report
from tu_eval.compare.training import read_index
from tu_eval.measure.config import EvalConfig, kind_of_suite
from tu_eval.measure.lume_score import BENCHMARKS, CHOICES, MMLU, read_mmlu
from tu_eval.measure.model_folder import find_model
from tu_eval.measure.questions import fingerprint as questions_fingerprint
from tu_eval.measure.run import evaluate
from tu_eval.results.columns import show
from tu_eval.results.folder import CONFIG, FolderKind, read_folder
from tu_eval.results.results import SUITE_FOLDER, load_results

RETAIN = "retain"
"""label of the model that the others are compared with"""
FOLDERS = {"eval": "results", "benchmarks": "benchmarks", "choices": "choices"}
KINDS: dict[str, FolderKind] = {"eval": SUITE_FOLDER, "benchmarks": BENCHMARKS, "choices": CHOICES}
ELSEWHERE = ("model", "label", "retain_results", "mmlu")
"""settings that are compared by what they name"""


@dataclass(frozen=True)
class MeasuredModel:
    label: str
    model: str
    places: dict[str, Path]
    """by table, where its numbers go"""


@dataclass
class Outcome:
    comparison: Comparison | None
    """None where no suite is measured"""
    pages: list[Path] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    """label and error"""


def measure_all(path: Path, out: Path, sets: tuple[str, ...] = ()) -> Outcome:
    """Raises UserError for a file that measures nothing, for settings that do not fit, and where the retain model
    cannot be measured."""
    study = load_study(path, out, sets)
    if not study.measures:
        raise ConfigError(f"{path}: measures nothing; add a table [eval], [benchmarks] or [choices]")
    check_measures(study)
    subjects = _subjects(study, out)
    if not subjects:
        raise ConfigError(f"{path}: nothing to measure in {out}: no [models], and no finished run; start with tu-train many")
    outcome = Outcome(None)
    for number, subject in enumerate(subjects, 1):
        say(f"model {number} of {len(subjects)}: {subject.label}")
        try:
            _measure(study, subject, subjects)
        except Exception as error:  # whatever it is, the other models do not depend on it
            if subject.label == RETAIN:
                raise
            if not isinstance(error, UserError):
                traceback.print_exc()
            outcome.failed.append((subject.label, " ".join(str(error).split()) or type(error).__name__))
            say(f"{subject.label} failed: {outcome.failed[-1][1]}")
    failed = {label for label, _ in outcome.failed}
    _write_pages(study, [s for s in subjects if s.label not in failed], out, outcome)
    return outcome


def _subjects(study: Study, out: Path) -> list[MeasuredModel]:
    """The retain model first: the others are measured against its results."""
    models = sorted(study.models.items(), key=lambda item: item[0] != RETAIN)
    named = [MeasuredModel(label, model, {t: out / FOLDERS[t] / label for t in study.measures}) for label, model in models]
    runs = [held for held in read_index(out / INDEX) if held.run.status == "finished"] if (out / INDEX).is_file() else []
    return named + [MeasuredModel(r.run.name, str(r.folder), {t: r.folder / FOLDERS[t] for t in study.measures}) for r in runs]


def _measure(study: Study, subject: MeasuredModel, subjects: list[MeasuredModel]) -> None:
    for table in reversed(MEASURES):  # the suite last: LUME's final score reads MMLU
        if table not in study.measures:
            continue
        settings = {**study.measures[table], "model": subject.model, "out": str(subject.places[table])}
        if table == "eval":
            settings = _of_suite(settings, study, subject, subjects)
        if _finished(subject, table, settings):
            say(f"{subject.places[table]}: finished already")
        elif table == "eval":
            evaluate(resolve(EvalConfig, flags=settings))
        else:
            run_command(MEASURES[table][0], settings, what=subject.label)


def _of_suite(settings: dict[str, Any], study: Study, subject: MeasuredModel, subjects: list[MeasuredModel]) -> dict[str, Any]:
    """With what depends on the model: its label, the retain results, its MMLU."""
    more: dict[str, Any] = {"label": subject.label}
    if subject.label != RETAIN and subjects[0].label == RETAIN:
        more["retain_results"] = str(subjects[0].places["eval"])
    if settings.get("suite") == "lume" and MMLU in study.measures.get("benchmarks", {}).get("tasks", ()):
        more["mmlu"] = str(subject.places["benchmarks"])
    return {**more, **settings}


def _finished(subject: MeasuredModel, table: str, settings: Mapping[str, Any]) -> bool:
    """Whether the numbers are there. Raises StoreError for those of other settings or weights."""
    place = subject.places[table]
    if not (place / KINDS[table].summary).exists():
        return False
    summary = load_results(place).summary if table == "eval" else read_folder(place, KINDS[table]).summary
    mine, theirs = (resolved(MEASURES[table][1], values, what=str(place)) for values in (settings, read_toml(place / CONFIG, flag="")))
    differ = sorted(k for k in {*mine, *theirs} if mine.get(k) != theirs.get(k) and k not in ELSEWHERE)
    fingerprint = model_fingerprint(find_model(subject.model))
    if summary["model_fingerprint"] != fingerprint:
        differ.append("the model")
    if (data := _data_now(table, settings)) is not None and summary["data_fingerprint"] != data:
        differ.append("the data")
    if table == "eval":
        retain = settings.get("retain_results")
        expected = load_results(Path(retain)).summary["rows_sha256"] if retain and Path(retain).is_dir() else None
        if expected is not None and (summary["retain_results"] or {}).get("rows_sha256") != expected:
            differ.append("the retain results")
        if settings.get("mmlu") and summary["metrics"].get("mmlu") != read_mmlu(settings["mmlu"], fingerprint):
            differ.append("mmlu")
    if differ:
        raise StoreError(f"{place}: its numbers are of another run, which differs in {', '.join(differ)}; delete it to measure again")
    return True


def _data_now(table: str, settings: Mapping[str, Any]) -> str | None:
    """Fingerprint of what questions a measurement would ask now; None where that takes more than reading them: MUSE and
    LUME, whose data is published, and benchmarks."""
    if table == "choices":
        return choices_fingerprint(resolve(ChoicesConfig, flags=settings))
    if table == "eval" and kind_of_suite(settings.get("suite")) not in ("muse", "lume"):
        return questions_fingerprint(resolve(EvalConfig, flags=settings))
    return None


def _write_pages(study: Study, subjects: list[MeasuredModel], out: Path, outcome: Outcome) -> None:
    if "eval" in study.measures and subjects:
        index = out / INDEX if (out / INDEX).is_file() else None
        # Those that were refused stand in the folders of their runs.
        comparison = outcome.comparison = load_comparison([s.places["eval"] for s in subjects], index, search=False)
        page, table, numbers = (out / name for name in ("page.html", "table.md", "table.csv"))
        write_report(page, comparison)
        write_exports(comparison, to_markdown=table, to_csv=numbers, to_png=None)
        outcome.pages += [page, table, numbers]
    if rows := {s.label: _numbers(study, s) for s in subjects if set(study.measures) - {"eval"}}:
        columns = list(dict.fromkeys(name for found in rows.values() for name in found))
        lines = [f"| model | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 1)}"]
        lines += [f"| {label} | {' | '.join(show(found.get(name)) for name in columns)} |" for label, found in rows.items()]
        write_text(out / "benchmarks.md", "\n".join(lines) + "\n")
        outcome.pages.append(out / "benchmarks.md")


def _numbers(study: Study, subject: MeasuredModel) -> dict[str, float]:
    """Accuracies of benchmarks and choices, by task and metric."""
    out: dict[str, float] = {}
    for table in ("benchmarks", "choices"):
        if table in study.measures:
            found = read_folder(subject.places[table], KINDS[table]).summary["metrics"]
            nested = found if table == "benchmarks" else {"choices": found}
            out |= {f"{task} {k}": v for task, numbers in nested.items() for k, v in numbers.items()
                    if "stderr" not in k and isinstance(v, float | int)}  # fmt: skip
    return out
