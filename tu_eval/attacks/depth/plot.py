"""The picture of a depth: what each model's layers cost the fact, and the logit lens beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLOURS = {"full": "#5c626c", "retain": "#b4560f", "model": "#1f5fa8"}
NAMES = {"full": "before unlearning", "retain": "retain model", "model": "after unlearning"}
MARKS = {"full": "s", "retain": "^", "model": "o"}


def draw(about: Mapping[str, Any], path: Path) -> None:
    """A PNG of means by layer; without a lens the left panel alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers = about["layers"]
    lens = layers[0]["lens_full"] is not None
    figure = Figure(figsize=(9.6 if lens else 5.2, 4.2), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2 if lens else 1, squeeze=False)[0]
    _panel(panels[0], layers, "delta", ("retain", "model"), "Δ log-probability of the fact (nats a token)")
    panels[0].axhline(about["threshold"], color="0.6", linewidth=0.9, linestyle=(0, (5, 4)), label=f"threshold {about['threshold']:g}")
    panels[0].set_title("put into the full model", fontsize=10)
    panels[0].legend(frameon=False, fontsize=8)
    if lens:
        _panel(panels[1], layers, "lens", ("full", "retain", "model"), "log-probability of the fact (nats a token)")
        panels[1].set_title("logit lens", fontsize=10)
        panels[1].legend(frameon=False, fontsize=8)
    depth = "none" if about["depth"] is None else f"{about['depth']:.3f}"
    figure.suptitle(
        f"depth {depth} (1: as the retain model, 0: as before), {about['rows_with_depth']} of {about['rows']} rows", fontsize=10
    )
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": "token-unlearn"})


def _panel(axes: Any, layers: list[Mapping[str, Any]], kind: str, roles: tuple[str, ...], label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for role in roles:
        values = [layer[f"{kind}_{role}"] for layer in layers]
        places = [layer["layer"] for layer in layers]
        axes.plot(places, values, color=COLOURS[role], marker=MARKS[role], markersize=4, linewidth=1.4, label=NAMES[role])
    axes.set_xlabel("layer")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
