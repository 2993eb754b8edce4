"""The tables and plots of docs/attribution.md, docs/attribution_results.md and docs/attribution/, from the committed
results.

    python -m benchmarks.study.tables [--docs docs]

Each table stands between `<!-- NAME -->` and `<!-- /NAME -->`. Probabilities are geometric means over tokens,
exp(−NLL). Intervals are 95 %, Student's t over seeds; differences are paired by seed.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.learning import found as found_facts
from benchmarks.learning import shares
from benchmarks.study import learned, matched, plots
from benchmarks.study.candidates import described
from benchmarks.study.matched import TOFU, Measure, at_level_of_facts, utilities, utility
from benchmarks.study.plan import WITHOUT_SCORES
from benchmarks.study.results import (
    DEFAULT,
    RESULTS,
    TRIED,
    Run,
    Study,
    load,
    markdown,
    of_same_seeds,
    paired,
    reached,
    retained,
    share,
    spread,
    steps,
    write_runs,
)

ELSEWHERE = {"atlas": "on other people", "dev-tofu": "on dev-tofu", "tofu-known": "on tofu-known"}
"""worlds whose facts candidates are compared with, too"""
FAMILY = ("neox", "dev-neox")
METHODS = ("npo", "graddiff", "kl", "simnpo")
"""in the order of tables and pictures"""


def methods(study: Study) -> list[str]:
    return [method for method in METHODS if study.of(method=method)]


def worlds(studies: dict[str, Study]) -> str:
    rows = []
    for name, study in studies.items():
        rows.append([name, *(f"{level:.3f}" for level in study.levels), str(len(study.runs))])
    return markdown(["World", "facts under the target", "under the retain model (the level)", "runs"], rows)


def recovered(study: Study, value: Measure = retained) -> str:
    """How much of the way from all tokens to the true ones the default goes, over the seeds that all three have."""
    rows = []
    for method in methods(study):
        found = [study.of(method=method, source="all"), study.of(method=method, source=DEFAULT, tokens="hard", keep=TRIED),
                 study.of(method=method, source="given")]  # fmt: skip
        every, ours, best = of_same_seeds(*found)
        kept = [f"{spread(reached(runs, value))}; {steps(runs)}" for runs in (every, ours, best)]
        gaps = [spread(paired(other, every, value)) for other in (ours, best)]
        rows.append([method, str(len(every)), *kept, *gaps, share(ours, every, best, value)])
    head = ["Method", "seeds", "all; steps", "default, hard; steps", "given; steps", "default − all", "given − all", "recovered"]
    return markdown(head, rows)


def candidates(dev: Study, elsewhere: Mapping[str, Study]) -> str:
    """Every candidate: agreement where they were tried and elsewhere, and what hard tokens by it kept."""
    rows = []
    found, others = dev.about["agreement"], [study.about.get("agreement", {}) for study in elsewhere.values()]
    for name, figures in sorted(found.items(), key=lambda item: -item[1]["per_answer_auc"]):
        runs = dev.of(method="npo", source=name, tokens="hard", keep=TRIED)
        kept = reached(runs, retained)
        outcome = f"{spread(kept)}; {steps(runs)}" if kept else ("not reached" if runs else "")
        again = [f"{other[name]['per_answer_auc']:.3f}" if name in other else "" for other in others]
        rows.append([f"`{name}`", described(name) if described(name) != name else "", f"{figures['per_answer_auc']:.3f}", *again,
                     f"{figures['per_answer_ap']:.3f}", f"{figures['per_answer_p_30']:.3f}", outcome])  # fmt: skip
    for name in ("given", "all", "random"):
        runs = dev.of(method="npo", source=name, keep=TRIED if name == "random" else None)
        rows.append([f"`{name}`", *[""] * (4 + len(others)), f"{spread(reached(runs, retained))}; {steps(runs)}"])
    head = ["Source", "recipe", "ROC-AUC", *elsewhere, "average precision", "precision of the top 30 %", "retain probability; steps"]
    return markdown(head, rows)


def curves(dev: Study) -> str:
    """Hard by share and by threshold, soft by temperature; beside each share as many tokens at random."""
    rows, figures = [], dev.about["agreement"][DEFAULT]
    for setting, value, runs in matched.by_setting(dev, "npo"):
        covered = f" ({figures[f'share_{value:g}']:.0%} of the tokens)" if setting == "threshold" else ""
        drawn = spread(reached(dev.of(method="npo", source="random", keep=value), retained)) if setting == "keep" else ""
        rows.append([f"{matched.SETTINGS[setting]} {value:g}{covered}", spread(reached(runs, retained)), drawn])
    return markdown(["Weights", "default scores", "random"], rows)


NUMBERS = {"gain": "SNR gain over all", "aimed_gain": "aimed gain", "ideal_gain": "ideal gain", "conflict_share": "conflict share"}


def ratios(dev: Study) -> str:
    """Signal-to-noise of each source's weights beside what it keeps, and how they go together."""
    found, kept = dev.about["snr"]["weightings"], {}
    for name in found:
        kept[name] = kept_by(dev, name)
    rows = []
    for name, numbers in sorted(found.items(), key=lambda item: -(kept[item[0]] or 0)):
        shown = ["—" if (value := number(numbers, key)) is None else f"{value:.3f}" for key in NUMBERS]
        rows.append([f"`{name}`", "not reached" if kept[name] is None else f"{kept[name]:.3f}", *shown])
    return markdown(["Source", "retain probability", *NUMBERS.values()], rows) + "\n\n" + correlations(found, kept)


def number(numbers: dict[str, Any], key: str) -> float | None:
    value = numbers.get(key)
    return value[0] if isinstance(value, list) else value


def correlations(found: dict[str, Any], kept: dict[str, float | None]) -> str:
    """Spearman's rank correlation, over the sources that came to the level, of each number with what is kept."""
    import numpy as np
    from scipy.stats import rankdata

    lines = []
    for key, title in NUMBERS.items():
        pairs = [(value, k) for name, n in found.items() if (k := kept[name]) is not None and (value := number(n, key)) is not None]
        first, second = ([pair[k] for pair in pairs] for k in (0, 1))
        lines.append(f"{title} {np.corrcoef(rankdata(first), rankdata(second))[0, 1]:.2f} ({len(pairs)} sources)")
    return textwrap.fill("Rank correlation with the retain probability: " + ", ".join(lines) + ".", 119)


def arrived(dev: Study, name: str) -> Run | None:
    """The first run by this source; None where there is none or it did not come to the level."""
    tokens = name if name in WITHOUT_SCORES else "hard"
    found = dev.of(method="npo", source=name, tokens=tokens, keep=None if name in ("all", "given") else TRIED)
    return next((run for run in found if run["reached"]), None)


def kept_by(dev: Study, name: str) -> float | None:
    run = arrived(dev, name)
    return None if run is None else retained(run)


def draw(studies: dict[str, Study], out: Path) -> None:
    report, dev = studies["atlas"], studies["dev-atlas"]
    sources = {"all": ("all", "all", None), "default": (DEFAULT, "hard", TRIED), "given": ("given", "given", None)}
    curves_of = {m: {n: report.of(method=m, source=s, tokens=t, keep=k) for n, (s, t, k) in sources.items()} for m in methods(report)}
    plots.paths(curves_of, report.about["world"]["level_nll"], out / "attribution-paths.png")
    ends = {name: kept for name in ("all", "random", "given") if (kept := kept_by(dev, name)) is not None}
    found = {name: (figures["per_answer_auc"], arrived(dev, name)) for name, figures in dev.about["agreement"].items()}
    points = {name: (auc, retained(run), run["steps"]) for name, (auc, run) in found.items() if run is not None}
    plots.agreement_and_outcome(points, ends, out / "attribution-candidates.png")
    lines = {}
    for label, source, tokens in (("default", DEFAULT, "hard"), ("random", "random", "random")):
        runs = [r for r in dev.of(method="npo", source=source, tokens=tokens) if r["reached"] and r.get("threshold") is None]
        lines[label] = sorted((r["keep"], retained(r)) for r in runs)
    soft = sorted((r["temperature"], retained(r)) for r in dev.of(method="npo", source=DEFAULT, tokens="soft") if r["reached"])
    plots.shares(lines, soft, ends, out / "attribution-curves.png")
    known = studies["tofu-known"]
    models = {f"{name} model": known.about["ends"][name]["model_utility"] for name in ("target", "retain")}
    plots.utilities(utilities(known), models, out / "attribution-tofu.png")


def write(docs: Path, tables: dict[str, str]) -> None:
    """Each table where a page has its marks."""
    places = (*sorted(docs.glob("attribution*.md")), *sorted((docs / "attribution").glob("*.md")))
    pages = {page: page.read_text(encoding="utf-8") for page in places}
    for name, table in tables.items():
        marks = f"<!-- {name} -->", f"<!-- /{name} -->"
        found = [page for page, text in pages.items() if marks[0] in text]
        if len(found) != 1:
            raise SystemExit(f"{docs}: expected one page with the line {marks[0]}, got {', '.join(map(str, found)) or 'none'}")
        pattern = re.escape(marks[0]) + ".*?" + re.escape(marks[1])
        pages[found[0]] = re.sub(pattern, lambda _, t=table, m=marks: f"{m[0]}\n{t}\n{m[1]}", pages[found[0]], flags=re.DOTALL)
    for page, text in pages.items():
        page.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the tables and plots of docs/attribution*.md from the committed results.")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the pages and pictures")
    parser.add_argument("--runs", type=Path, default=RESULTS / "runs.csv", help="CSV file of every run")
    settings = parser.parse_args()
    studies = {name: load(name) for name in ("atlas", "atlas-48", "dev-atlas", *FAMILY, *TOFU)}
    dev = studies["dev-atlas"]
    tables = {
        "worlds": worlds(studies),
        "recovered": recovered(studies["atlas"]),
        "candidates": candidates(dev, {title: studies[name] for name, title in ELSEWHERE.items()}),
        "curves": curves(dev),
        "atlas-48": recovered(studies["atlas-48"]),
        "tofu-known-recovered": recovered(studies["tofu-known"], utility),
        "dev-tofu-known-weights": matched.weights_on_tofu(studies["dev-tofu-known"], "graddiff"),
        "tofu-earlier": matched.earlier_on_tofu(load("tofu-earlier")),
        "snr": ratios(dev),
    }
    tables |= {name: at_level_of_facts(studies[name]) for name in TOFU}
    tables |= {f"{name}-parts": matched.parts_on_tofu(studies[name]) for name in ("tofu", "tofu-known")}
    tables |= {f"{name}-suite": at_level_of_facts(studies[name], matched.ON_ATLAS) for name in ("atlas", "atlas-48")}
    tables |= {name: at_level_of_facts(studies[name], {"retain probability": retained}) for name in FAMILY}
    draw(studies, settings.docs)
    found = learned.finished()
    facts = found_facts.read()
    tables |= {f"found-{name}": found_facts.table(name, worlds) for name, worlds in facts.items()}
    tables |= {
        "learned": learned.in_short(found),
        "learned-levels": learned.levels(found),
        "learned-kept": learned.kept(found),
        "learned-back": learned.came_back(found),
    }
    tables["learned-shares"] = shares.table(shares.read() | learned.importance_by_share(found))
    tables["learned-plans"] = learned.plans(learned.planned(), found)
    write(settings.docs, tables)
    write_runs(settings.runs)
    plots.kept(learned.points(found), settings.docs / "attribution-learned.png")
    agreements = {world: (figures["without"], figures["auc"]) for world, figures in facts["learned_base"].items()}
    plots.agreement(agreements, settings.docs / "attribution-found.png")


if __name__ == "__main__":
    main()
