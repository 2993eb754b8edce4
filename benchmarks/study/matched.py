"""Model utility, its parts and other measures, each where the facts are as far forgotten."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from benchmarks.study.results import BARE, DEFAULT, TRIED, Run, Study, markdown, mean, paired, reached, retained, spread, steps

TOFU = ("tofu", "tofu-known", "dev-tofu", "dev-tofu-known")
PARTS = {
    "retain_rouge": "retain ROUGE-L",
    "real_authors_rouge": "real authors ROUGE-L",
    "world_facts_rouge": "world facts ROUGE-L",
    "retain_truth_ratio": "retain truth ratio",
    "forget_truth_ratio": "forget truth ratio",
    "forget_quality": "forget quality",
}
SOURCES = {
    "all": ("all", "all"),
    "random 30 %": ("random", "random"),
    "default, hard": (DEFAULT, "hard"),
    "given (the facts)": ("given", "given"),
    "without a base model": (BARE, "hard"),
    "gain, as phrases": ("gain", "hard"),
    "entropy, as phrases": ("entropy", "hard"),
    "the paper's": ("paper", "hard"),
}
UTILITY = [(about, part) for about in ("retain", "real_authors", "world_facts") for part in ("probability", "rouge", "truth_ratio")]
SETTINGS = {"keep": "hard, keep", "threshold": "hard, importance from", "temperature": "soft, temperature"}
OTHER_LEVELS = {
    "facts at the whole answer's level": ("forget", "answer_level_nll", "forget_fact"),
    "retain probability there": ("forget", "answer_level_nll", "retain"),
    "retain probability at the paraphrase's level": ("forget_paraphrase", "paraphrase_level_nll", "retain"),
}

Measure = Callable[[Run], float | None]


def from_suite(name: str) -> Measure:
    return lambda run: run.get(f"suite_{name}")


utility = from_suite("model_utility")


def harmonic(run: Run, parts: Sequence[tuple[str, str]]) -> float | None:
    """Model utility over some of its parts; None where one is missing."""
    values = [value for about, part in parts if (value := run.get(f"suite_{about}_{part}")) is not None]
    return len(values) / sum(1 / max(value, 1e-12) for value in values) if len(values) == len(parts) else None


def rest_of_utility(run: Run) -> float | None:
    """Without the one of the nine parts that rules it where a model knows few real authors."""
    return harmonic(run, [part for part in UTILITY if part != ("real_authors", "rouge")])


def retain_utility(run: Run) -> float | None:
    """On atlas six parts, of which the three about 20 questions of general knowledge rule where a model answers few of
    them."""
    return harmonic(run, [part for part in UTILITY if part[0] == "retain"])


MEASURES: dict[str, Measure] = {
    "model utility": utility,
    "the same without real authors' ROUGE-L": rest_of_utility,
    "retain probability": retained,
}
ON_ATLAS: dict[str, Measure] = {
    "model utility": utility,
    "the same over the retain set": retain_utility,
    "world probability": from_suite("world_probability"),
    "retain truth ratio": from_suite("retain_truth_ratio"),
    "forget truth ratio": from_suite("forget_truth_ratio"),
    "retain probability": retained,
}


def at_level_of_facts(study: Study, measures: Mapping[str, Measure] = MEASURES) -> str:
    """Each method and token source, where the facts have come down to the level; rows for what was run."""
    rows = []
    for method, title, runs in by_tokens(study):
        ours = study.of(method=method, source=DEFAULT, tokens="hard", keep=TRIED)
        won = [[spread(reached(runs, value)), "" if runs == ours else spread(paired(ours, runs, value))] for value in measures.values()]
        left = [math.exp(-run["forget_fact_nll"]) for run in runs if not run["reached"]]
        arrived = f"{sum(run['reached'] for run in runs)} of {len(runs)}" + (f"; facts left at {mean(left)}" if left else "")
        rows.append([method, title, arrived, steps(runs), *(cell for pair in won for cell in pair)])
    head = ["Method", "tokens", "came to the level", "steps", *(cell for name in measures for cell in (name, "default less this"))]
    return markdown(head, rows)


def parts_on_tofu(study: Study) -> str:
    """What stands behind it at the same point, means over the seeds; and what holds where other numbers come to their
    own level."""
    rows, world = [], study.about["world"]
    for method, title, runs in by_tokens(study):
        answers = [mean([math.exp(-v) for v in reached(runs, lambda r, n=n: r.get(n))]) for n in ("forget_nll", "forget_paraphrase_nll")]
        parts = [mean(reached(runs, from_suite(c))) for c in PARTS]
        others = [mean([v for run in runs if (v := at_level(run, watched, world[level], wanted)) is not None])
                  for watched, level, wanted in OTHER_LEVELS.values()]  # fmt: skip
        rows.append([method, title, *answers, *parts, *others])
    for name in ("target", "retain"):
        parts = [mean([v] if (v := study.about["ends"][name].get(c)) is not None else []) for c in PARTS]
        rows.append([f"{name} model", "", "", "", *parts, *[""] * len(OTHER_LEVELS)])
    return markdown(["Method", "tokens", "whole answer", "paraphrase", *PARTS.values(), *OTHER_LEVELS], rows)


def by_tokens(study: Study) -> Iterator[tuple[str, str, list[Run]]]:
    """-> method, title of the tokens, runs."""
    for method in dict.fromkeys(run["method"] for run in study.runs):
        for title, (source, tokens) in SOURCES.items():
            runs = study.of(method=method, source=source, tokens=tokens, keep=None if source in ("all", "given") else TRIED)
            if runs:
                yield method, title, runs


def by_setting(study: Study, method: str) -> Iterator[tuple[str, float, list[Run]]]:
    """-> name of the setting, its value, runs by the default's scores."""
    ours = study.of(method=method, source=DEFAULT)
    for name in SETTINGS:
        for value in sorted({run[name] for run in ours if run[name] is not None}):
            yield name, value, [run for run in ours if run[name] == value]


def weights_on_tofu(study: Study, method: str) -> str:
    """Hard by share and by threshold, soft by temperature, and between what they lie: all tokens and the facts."""
    found = [(f"{SETTINGS[name]} {value:g}", runs) for name, value, runs in by_setting(study, method)]
    found += [(source, study.of(method=method, source=source)) for source in ("all", "given")]
    rows = [[title, steps(runs), *(spread(reached(runs, value)) for value in MEASURES.values())] for title, runs in found]
    return markdown(["Weights", "steps", *MEASURES], rows)


def earlier_on_tofu(study: Study) -> str:
    """Runs of one seed in other settings and at another matched point, before those that are reported."""
    titles = {source: title for title, (source, _) in SOURCES.items()}
    rows = [[run["world"], run["matched"], run["settings"], run["method"],
             titles[run["source"]] if run["tokens"] != "soft" else "default, soft", "" if run["keep"] is None else f"{run['keep']:g}",
             f"{run['steps']:.0f}", f"{retained(run):.3f}", spread(reached([run], utility))]
            for run in study.runs]  # fmt: skip
    head = ["World", "matched at", "batch, learning rate", "Method", "tokens", "keep", "steps", "retain probability", "model utility"]
    return markdown(head, rows)


def at_level(run: Run, watched: str, level: float, wanted: str) -> float | None:
    """Probability of `wanted` where the NLL of `watched` first comes to the level, on the line between two evaluations;
    None: never."""
    for before, after in pairwise(run["curve"]):
        low, high = before[f"eval_{watched}_nll"], after[f"eval_{watched}_nll"]
        if low <= level <= high:
            first, last = before[f"eval_{wanted}_nll"], after[f"eval_{wanted}_nll"]
            return math.exp(-(first + (level - low) / (high - low) * (last - first)))
    return None


def utilities(study: Study) -> dict[str, dict[str, list[float]]]:
    """-> method -> source -> model utility of each seed that came to the level, for a picture."""
    names = {source: "default" if source == DEFAULT else source for source, _ in SOURCES.values()}
    found: dict[str, dict[str, list[float]]] = {}
    for method, _, runs in by_tokens(study):
        found.setdefault(method, {})[names[runs[0]["source"]]] = reached(runs, utility)
    return found
