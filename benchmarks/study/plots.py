"""The pictures of docs/attribution.md, docs/attribution_results.md and docs/attribution/."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

Run = dict[str, Any]
BESIDE = {"base-entropy": (-70, 2), "tempered": (6, 0), "gain": (-28, -4), "rarity": (-34, -3), "rarity*tempered": (-82, -11),
          "earlier-answer-phrase": (-60, 7), "entropy": (7, -3), "etw": (-18, -10), "seul": (6, -3)}  # fmt: skip
"""points between a dot and its name, where names would meet"""
TOKENS = {
    "all": "#888888", "random 30 %": "#c9a227", "paper, 30 %": "#7d5ba6", "before, 30 %": "#4b6a9b", "learned, auto": "#c2410c",
    "learned, soft": "#e8a27c", "given (the facts)": "#2a7f3f",
}  # fmt: skip
ACROSS = 4
"""worlds beside each other in the picture of what is kept"""
COLOURS = {"all": "#888888", "random": "#c9a227", "given": "#2a7f3f", "default": "#c2410c"}


def _figure(width: float, height: float, panels: int = 1, *, across: int | None = None):
    """`across`: panels of a row; None: all."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = across or panels
    figure, grid = pyplot.subplots(-(-panels // columns), columns, figsize=(width, height), layout="constrained", squeeze=False)
    axes = grid.flatten()
    for axis in axes[:panels]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    for axis in axes[panels:]:
        axis.set_visible(False)
    return figure, axes[:panels]


def _save(figure, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def paths(found: Mapping[str, Mapping[str, Sequence[Run]]], level: float, path: Path) -> None:
    """`found`: method -> source -> runs. How retain probability falls while the facts are forgotten, a line a run."""
    figure, axes = _figure(4.2 * len(found), 3.6, len(found))
    for axis, (method, sources) in zip(axes, found.items(), strict=True):
        for source, runs in sources.items():
            for number, run in enumerate(runs):
                facts = [math.exp(-point["eval_forget_fact_nll"]) for point in run["curve"]]
                kept = [math.exp(-point["eval_retain_nll"]) for point in run["curve"]]
                axis.plot(facts, kept, marker=".", linewidth=1, alpha=0.7, color=COLOURS[source], label=source if not number else None)
        axis.axvline(math.exp(-level), color="black", linestyle=":", linewidth=1)
        axis.set_xscale("log")
        axis.invert_xaxis()
        axis.set_title(method)
        axis.set_xlabel("probability of the facts (forgetting →)")
    axes[0].set_ylabel("probability of retain answers")
    axes[0].legend(frameon=False)
    _save(figure, path)


def agreement_and_outcome(points: Mapping[str, tuple[float, float, float]], ends: Mapping[str, float], path: Path) -> None:
    """`points`: candidate -> (ROC-AUC, retain probability, steps); `ends`: sources without scores -> retain
    probability."""
    figure, (axis,) = _figure(8.5, 5)
    usual = median(steps for _, _, steps in points.values())
    for name, (auc, kept, steps) in points.items():
        slow = {"markerfacecolor": "none"} if steps > 2 * usual else {}
        axis.plot(auc, kept, "o", color=COLOURS["default"] if name in ("base-entropy", "tempered") else "#4b6a9b", **slow)
        axis.annotate(name, (auc, kept), textcoords="offset points", xytext=BESIDE.get(name, (5, 3)), fontsize=8)
    for name, kept in ends.items():
        axis.axhline(kept, color=COLOURS[name], linestyle="--", linewidth=1, label=name)
    axis.set_xlabel("ROC-AUC against the true spans, mean over answers")
    axis.set_ylabel("probability of retain answers at matched forgetting")
    axis.legend(frameon=False)
    _save(figure, path)


def shares(
    lines: Mapping[str, Sequence[tuple[float, float]]], soft: Sequence[tuple[float, float]], ends: Mapping[str, float], path: Path
) -> None:
    """Retain probability over the share of tokens that is kept (`lines`), and over the temperature of soft weights."""
    figure, axes = _figure(9, 3.6, 2)
    for (name, points), colour in zip(lines.items(), (COLOURS["default"], COLOURS["random"]), strict=False):
        axes[0].plot(*zip(*points, strict=True), marker="o", color=colour, label=name)
    axes[0].set_xlabel("hard: share of tokens kept")
    axes[1].plot(*zip(*soft, strict=True), marker="o", color=COLOURS["default"], label="soft")
    axes[1].set_xscale("log")
    axes[1].set_xticks([t for t, _ in soft], [f"{t:g}" for t, _ in soft])
    axes[1].minorticks_off()
    axes[1].set_xlabel("soft: temperature")
    for axis in axes:
        for name in ("all", "given"):
            axis.axhline(ends[name], color=COLOURS[name], linestyle="--", linewidth=1, label=name)
        axis.set_ylabel("probability of retain answers")
    axes[0].legend(frameon=False, fontsize=8)
    _save(figure, path)


def utilities(found: Mapping[str, Mapping[str, Sequence[float]]], ends: Mapping[str, float], path: Path) -> None:
    """`found`: method -> source -> model utility, a point a seed and a dash at the mean; `ends`: the models that no run
    changed."""
    figure, (axis,) = _figure(7.5, 3.8)
    sources = [name for name in COLOURS if any(name in values for values in found.values())]
    for place, values in enumerate(found.values()):
        for number, name in enumerate(sources):
            at = place + (number - (len(sources) - 1) / 2) * 0.2
            points = values.get(name, ())
            axis.plot([at] * len(points), points, "o", markersize=4, alpha=0.6, color=COLOURS[name], label=None if place else name)
            if points:
                axis.hlines(sum(points) / len(points), at - 0.08, at + 0.08, color=COLOURS[name], linewidth=2)
    for (name, value), style in zip(ends.items(), ("-", ":"), strict=True):
        axis.axhline(value, color="black", linestyle=style, linewidth=1, label=name)
    axis.set_xticks(range(len(found)), list(found))
    axis.set_ylim(0, 1)
    axis.set_ylabel("model utility at matched forgetting")
    axis.legend(frameon=False, fontsize=8, ncols=3, loc="lower left")
    _save(figure, path)


def kept(found: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]], path: Path) -> None:
    """`found`: world -> method -> tokens -> what is kept, a point a seed and a dash at the mean; a panel a world."""
    across = min(ACROSS, len(found))
    figure, axes = _figure(3.4 * across, 3.0 * -(-len(found) // across) + 0.5, len(found), across=across)
    titles = [title for title in TOKENS if any(title in values for methods in found.values() for values in methods.values())]
    for axis, (world, methods) in zip(axes, found.items(), strict=True):
        for place, values in enumerate(methods.values()):
            for number, title in enumerate(titles):
                at, points = place + (number - (len(titles) - 1) / 2) * 0.13, values.get(title, ())
                axis.plot([at] * len(points), points, "o", markersize=4, alpha=0.7, color=TOKENS[title], label=title if points else None)
                if points:
                    axis.hlines(sum(points) / len(points), at - 0.05, at + 0.05, color=TOKENS[title], linewidth=2)
        axis.set_xticks(range(len(methods)), list(methods))
        middle = (len(methods) - 1) / 2
        axis.set_xlim(middle - max(1, middle + 0.6), middle + max(1, middle + 0.6))
        axis.set_ylim(0, 1)
        axis.set_title(world)
    for axis in axes[::across]:
        axis.set_ylabel("kept at matched forgetting")
    shown = {title: handle for axis in axes for handle, title in zip(*axis.get_legend_handles_labels(), strict=True)}
    named = [title for title in titles if title in shown]
    figure.legend([shown[title] for title in named], named, frameon=False, loc="outside upper center", ncols=len(shown))
    _save(figure, path)


def agreement(found: Mapping[str, tuple[float, float]], path: Path) -> None:
    """`found`: world -> ROC-AUC of the default of before, and of the learned importance."""
    figure, (axis,) = _figure(6.5, 0.6 + 0.34 * len(found))
    for place, (before, learned) in enumerate(found.values()):
        axis.plot([before, learned], [-place, -place], color="0.8", linewidth=2, zorder=0)
        for value, title in ((before, "before, 30 %"), (learned, "learned, auto")):
            name = None if place else {"before, 30 %": "default of before", "learned, auto": "learned importance"}[title]
            axis.plot([value], [-place], "o", color=TOKENS[title], label=name)
    axis.set_yticks([-place for place in range(len(found))], list(found))
    axis.set_xlim(0.5, 1)
    axis.set_xlabel("ROC-AUC against the true facts, mean over answers (0.5: chance)")
    axis.legend(frameon=False, fontsize=8, loc="lower left")
    _save(figure, path)
