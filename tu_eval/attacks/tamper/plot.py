"""The picture of tampering: a panel for each kind of data, a line for each rate and amount."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tu_eval.attacks.relearn import REST

COLOURS = ("#1f5fa8", "#b4560f", "#2d7a3a", "#7b3fa0", "#5c626c", "#a8324e")
STYLES = ("-", "--", ":", "-.")


def draw(about: Mapping[str, Any], path: Path) -> None:
    """A PNG: knowledge of the rest by step; colour says the amount of data, the line's form the rate; thin lines are
    the retain model's."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = [c for c in about["curves"] if c["set"] == REST]
    runs = [c for c in curves if c["on"] is not None]
    kinds = list(dict.fromkeys(c["on"] for c in runs))
    known = next(c["probability"] for c in curves if c["model"] == "before")
    figure = Figure(figsize=(0.6 + 3.6 * len(kinds), 4.6), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    amounts, rates = about.get("amounts") or sorted({c["rows"] for c in runs}), sorted({c["rate"] for c in runs})
    named: dict[str, Any] = {}
    for axes, kind in zip(panels, kinds, strict=True):
        own = [c for c in runs if c["on"] == kind]
        _panel(axes, own, known, amounts, rates)
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
        axes.set_title(f"trained on {kind} ({own[0]['domain']})", fontsize=9)
    panels[0].set_ylabel("probability of the answers that no run shows")
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": "token-unlearn"})


def _panel(axes: Any, curves: list[Mapping[str, Any]], known: float, amounts: list[int], rates: list[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    for model, width in (("retain", 0.8), ("model", 1.8)):
        for a, amount in enumerate(amounts):
            for r, rate in enumerate(rates):
                own = sorted((c["step"], c["probability"]) for c in curves if (c["model"], c["rows"], c["rate"]) == (model, amount, rate))
                if own:
                    name = f"{amount} row{'s' * (amount > 1)}, rate {rate:g}"
                    axes.plot(
                        *zip(*own, strict=True), color=COLOURS[a % len(COLOURS)], linestyle=STYLES[r % len(STYLES)], linewidth=width,
                        alpha=1 if model == "model" else 0.6, label=name if model == "model" else None,
                    )  # fmt: skip
    axes.axhline(known / 2, color="0.45", linewidth=0.9, label="half of what was known before")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("steps")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
