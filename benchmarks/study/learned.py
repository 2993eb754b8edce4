"""The learned importance beside the default of before: what is kept at matched forgetting, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks.study.after import DRAWN, STEPS
from benchmarks.study.matched import Measure, utility
from benchmarks.study.plan import Job, read_study
from benchmarks.study.results import DEFAULT, RESULTS, TRIED, Run, Study, load, markdown, paired, reached, retained, share, spread, steps
from benchmarks.study.results import mean as mean_of
from benchmarks.study.runs import lacks

WORLDS = {"learned-tofu": utility, "learned-forget05": utility, "learned-atlas": retained, "learned-lume": retained,
          "learned-documents": retained, "learned-gemma-atlas": retained, "learned-gemma-tofu": retained, "learned-qwen-atlas": retained,
          "learned-qwen-tofu": retained, "learned-dev-tofu": utility, "learned-dev-atlas": retained,
          "learned-dev-documents": retained}  # fmt: skip
"""study -> what its table compares: model utility where the target knows what it asks about, else retain probability"""
PAPER = "paper"
"""the recipe of TokenUnlearn, with the whole question masked"""
CHOICES = {
    "all": {"source": "all"},
    "random 30 %": {"source": "random"},
    "paper, 30 %": {"source": PAPER, "tokens": "hard", "keep": TRIED},
    "before, 30 %": {"source": DEFAULT, "tokens": "hard", "keep": TRIED},
    "learned, auto": {"source": "learned", "tokens": "hard", "auto": True},
    "learned, soft": {"source": "learned", "tokens": "soft"},
    "given (the facts)": {"source": "given"},
}
OURS, SOFT, WORST, BEST, RANDOM = "learned, auto", "learned, soft", "all", "given (the facts)", "random 30 %"
LESS, WAYS = (WORST, RANDOM, "paper, 30 %", "before, 30 %"), ("before, 30 %", OURS)
BACK = {
    "facts": "facts, untouched", "relearned_shown": f"relearned {STEPS} steps: rows shown", "relearned_rest": "rows not shown",
    "int4_group": "4 bits, groups of 64", "int4_channel": "4 bits, whole channels", "sampled": f"in one of {DRAWN} samples",
}  # fmt: skip


def finished() -> dict[str, Study]:
    """The studies of WORLDS that have results."""
    return {name: load(name) for name in WORLDS if (RESULTS / f"{name}.parquet").exists()}


def chosen(study: Study, method: str) -> dict[str, list[Run]]:
    """-> title of the tokens -> runs."""
    return {title: found for title, how in CHOICES.items() if (found := study.of(method=method, **how))}


def methods(study: Study) -> list[str]:
    return list(dict.fromkeys(run["method"] for run in study.runs))


def levels(studies: Mapping[str, Study]) -> str:
    """Of each world: how probable its facts are under the target and under the retain model, and how well the learned
    importance, the default of before and the paper's find the facts of its forget rows."""
    rows = []
    for name, study in studies.items():
        agreement, ends = study.about.get("agreement", {}), [f"{level:.2g}" for level in study.levels]
        found = [f"{agreement[source]['per_answer_auc']:.3f}" if source in agreement else "—" for source in ("learned", DEFAULT, PAPER)]
        shares = [f"{agreement['learned'][share]:.2f}" if share in agreement.get("learned", {}) else "—" for share in ("true", "auto")]
        utility_of_target = study.about.get("ends", {}).get("target", {}).get("model_utility")
        known = f"{utility_of_target:.3f}" if WORLDS[name] is utility and utility_of_target is not None else "—"
        rows.append([name.removeprefix("learned-"), *ends, known, *found, *shares, str(len(study.runs))])
    head = ["World", "facts under the target", "under the retain model (the level)", "model utility of the target", "ROC-AUC, learned",
            "ROC-AUC, before", "ROC-AUC, paper", "share of facts", "share by auto", "runs"]  # fmt: skip
    return markdown(head, rows)


def importance_by_share(studies: Mapping[str, Study]) -> dict[str, dict[str, float]]:
    """World -> F1 of the learned importance by the share of tokens that is taken."""
    return {name.removeprefix("learned-"): study.about.get("agreement", {}).get("learned", {}) for name, study in studies.items()}


def arrivals(runs: Sequence[Run]) -> str:
    """`; 2 of 3` where not every run came to the level."""
    count = sum(run["reached"] for run in runs)
    return f"; {count} of {len(runs)}" if count < len(runs) else ""


def in_short(studies: Mapping[str, Study]) -> str:
    """Means of what is kept with all tokens, random ones, the learned importance and exactly the facts, the difference
    from all tokens, and how much of the way that is; over the seeds of each choice that came to the level."""
    rows = []
    titles = {WORST: "all", RANDOM: "random", OURS: "learned", BEST: "given"}
    for name, study in studies.items():
        value = WORLDS[name]
        for method in methods(study):
            runs = chosen(study, method)
            if not {WORST, OURS} <= set(runs):
                continue
            ours, worst = runs[OURS], runs[WORST]
            cells = [f"{mean_of(found)} ({len(found)})" if (found := reached(runs.get(title, []), value)) else "—" for title in titles]
            way = share(ours, worst, runs.get(BEST, []), value)
            rows.append([name.removeprefix("learned-"), method, *cells, spread(paired(ours, worst, value)), way])
    return markdown(["World", "Method", *titles.values(), f"learned − {WORST}", "recovered"], rows)


def kept(studies: Mapping[str, Study]) -> str:
    """What is kept with each choice of tokens where the facts are as far forgotten, and how much of the way from all
    tokens to exactly the facts that is."""
    rows = []
    for name, study in studies.items():
        value = WORLDS[name]
        for method in methods(study):
            runs = chosen(study, method)
            cells = [
                f"{spread(reached(runs[title], value))}; {steps(runs[title])}{arrivals(runs[title])}" if title in runs else ""
                for title in CHOICES
            ]
            less = [spread(paired(runs.get(OURS, []), runs.get(other, []), value)) for other in LESS]
            less.append(spread(paired(runs.get(SOFT, []), runs.get(OURS, []), value)))
            ways = [share(runs.get(title, []), runs.get(WORST, []), runs.get(BEST, []), value) for title in WAYS]
            rows.append([name.removeprefix("learned-"), method, *cells, *less, *ways])
    head = ["World", "Method", *(f"{title}; steps" for title in CHOICES), *(f"learned − {title}" for title in LESS), "soft − auto",
            *(f"recovered, {title}" for title in WAYS)]  # fmt: skip
    return markdown(head, rows)


def came_back(studies: Mapping[str, Study]) -> str:
    """Probability of the facts after attacks on the same runs, means over the seeds (of sampling: the share of facts
    that were found); and the same of the models that no run changed."""
    rows = []
    for name, study in studies.items():
        world = name.removeprefix("learned-")
        for title, end in (("target model", "target"), ("retain model", "retain")):
            found = study.about.get("ends", {}).get(end, {})
            if "after_facts" in found:
                rows.append([world, "", title, *(f"{found[f'after_{column}']:.3f}" for column in BACK)])
        for method in methods(study):
            for title, runs in chosen(study, method).items():
                if any(run.get("after_facts") is not None for run in runs):
                    rows.append([world, method, title, *(mean_of(reached(runs, attacked(column))) for column in BACK)])
    return markdown(["World", "Method", "tokens", *BACK.values()], rows) if rows else "Not run yet."


def attacked(name: str) -> Measure:
    return lambda run: run.get(f"after_{name}")


def planned(folder: Path = Path(__file__).parent) -> dict[str, list[Job]]:
    """Study -> the runs that its file asks for."""
    return {name: read_study(folder / f"{name}.toml")[2] for name in WORLDS}


def plans(asked: Mapping[str, Sequence[Job]], studies: Mapping[str, Study]) -> str:
    """What was planned and what of it has run, with the hours of its runs (one thread each), and how many the rest
    takes if its runs are as long as those that there are."""
    rows = []
    for name, jobs in asked.items():
        runs = {as_job(run).key: run for run in studies[name].runs} if name in studies else {}
        there = [job for job in jobs if job.key in runs]
        again = [job for job in there if lacks(runs[job.key], job)]
        hours, left = sum(run["seconds"] for run in runs.values()) / 3600, len(jobs) - len(there)
        rest = f"{hours / len(runs) * (left + len(again)):.1f}" if runs else "not known"
        cells = [len(jobs), len(there), len(again), f"{hours:.1f}", rest if left or again else "0"]
        rows.append([name.removeprefix("learned-"), *map(str, cells)])
    head = [
        "World",
        "runs planned",
        "have run",
        "of these not evaluated or attacked as planned",
        "hours they took",
        "hours left",
    ]
    return markdown(head, rows)


def as_job(run: Run) -> Job:
    values: dict[str, Any] = {field.name: run.get(field.name) for field in fields(Job)}
    return Job(**values)


def points(studies: Mapping[str, Study]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """-> world -> method -> title -> a value a seed, for the picture."""
    return {
        name.removeprefix("learned-"): {
            method: {title: reached(runs, WORLDS[name]) for title, runs in chosen(study, method).items()} for method in methods(study)
        }
        for name, study in studies.items()
    }
