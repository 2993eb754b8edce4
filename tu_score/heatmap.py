"""The same examples as one self-contained page (no script, font or picture from elsewhere), with any signal and a
histogram of each.

The template shades the tokens by one signal, so that the page says something without JavaScript; values and shades of
the others lie beside it as JSON (about 150 bytes a target token). Histograms are of the whole store, which is read once
for them; of a large one they are of evenly spaced parts, which the page says.
"""

from __future__ import annotations

import importlib.resources
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from shared.errors import ConfigError, StoreError
from shared.files.fs import write_text
from shared.secret import without_secrets
from shared.store.scores import Store
from shared.weighting.importance import describe
from tu_score.shading import SIGNALS, Shade, ShadedExample, missing, pushed, shade_rows, strongest
from tu_score.survey import Histogram, drawn_parts, histograms

WIDTH, HEIGHT = 160, 48
"""of a histogram's bars, in units of its drawing"""
STEPS = 100
"""shades between 0 and 1"""


def write_heatmap(path: Path, store: Store, rows: Sequence[dict[str, Any]], signal: str, *, drawn: bool = False) -> None:
    """Writes the page. Raises ConfigError for a path that cannot be written, and what `render` does."""
    page = render(store, rows, signal, drawn=drawn)
    try:
        write_text(path, page)
    except OSError as error:
        raise ConfigError(f"--html {path}: cannot be written: {error.strerror}") from None


def render(store: Store, rows: Sequence[dict[str, Any]], signal: str, *, drawn: bool = False) -> str:
    """The page. `drawn`: the rows are evenly spaced ones of the store. Raises StoreError when the store holds no value
    of `signal`."""
    parts = drawn_parts(store)
    found = histograms(store, parts)
    held = [name for name, histogram in found.items() if histogram.number]
    if signal not in held:
        raise StoreError(f"{store.folder}: {missing(signal)}")
    selection = pushed(store, held)
    examples = shade_rows(rows, held, selection)
    texts = {i: token.text for e in examples for i, token in zip(e.ids, e.tokens, strict=True)}
    source = importlib.resources.files("tu_score").joinpath("templates/heatmap.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source).render(
        facts=_facts(store) | _sampled(store, parts, len(rows) if drawn else None), signal=signal,
        signals=[_about(name, found.get(name)) for name in SIGNALS],
        cards=[_card(e, signal) for e in examples], data=_json([_values(e, texts) for e in examples]),
        marked={name: strongest(name, selection) for name in held},
        masked=any(e.spans for e in examples), units={name: SIGNALS[name].unit for name in held},
        width=WIDTH, height=HEIGHT,
    )  # fmt: skip


def _facts(store: Store) -> dict[str, str]:
    manifest, options = store.manifest, store.manifest["options"]
    check, engine = manifest["self_check"], manifest["engine"]
    return {
        "data": without_secrets(str(options["data"])),
        "model": manifest["fingerprints"]["model"][:12],
        "spans": _spans(options),
        "replacement": _replacement(manifest["replacement"]),
        "engine": f"{engine['name']} {engine['version']}",
        "dtype": engine["dtype"],
        "recipe": describe(manifest["recipe"]) if manifest["recipe"] else "none",
        "rows": f"{len(store):,}",
        "tokens": f"{manifest['tokens']:,}",
        "self-check": f"ok: {len(check['rows'])} rows scored again differ by at most {check['largest_nats']:.2g} nats "
        f"(bound {check['bound_nats']:g})",
    }


def _sampled(store: Store, parts: Sequence[int], shown: int | None) -> dict[str, str]:
    """What the page says of a store of which it shows a part."""
    counted, said = sum(store.manifest["parts"][index]["rows"] for index in parts), {}
    if len(parts) < len(store.manifest["parts"]):
        said["histograms"] = f"{counted:,} of {len(store):,} rows, drawn evenly"
    if shown is not None:
        said["shown"] = f"{shown:,} of {len(store):,} rows, drawn evenly"
    return said


def _replacement(how: dict[str, Any]) -> str:
    return {"token": f"{how.get('token')} (token {how.get('id')})", "delete": "deletion"}.get(
        how["kind"], f"random tokens, seed {how.get('seed')}"
    )


def _spans(options: dict[str, Any]) -> str:
    window = f", length {options['window_length']}, stride {options['window_stride']}"
    more = ", answers too" if options["window_over"] == "answer" else ""
    return options["spans"] + (window + more if options["spans"] == "window" else "")


def _about(name: str, histogram: Histogram | None) -> dict[str, Any]:
    """What the page says of a signal, and the drawing of its histogram; `bars` is None when the store holds no value of
    it."""
    signal = SIGNALS[name]
    about = {"name": name, **asdict(signal), "bars": None, "scale": "0 to 1"}
    if name != "importance":
        about["scale"] = f"lowest to highest {'size (either sign) ' if signal.signed else ''}of each answer"
    if histogram is None or not histogram.number:
        return about
    counts, edges = histogram.bars()
    step = WIDTH / len(counts)
    # A bin that holds anything is drawn at least one unit high.
    heights = np.where(counts > 0, np.maximum(1, HEIGHT * counts / counts.max()), 0)
    bars = "".join(f"M{k * step:.2f} {HEIGHT}v{-h:.2f}h{step * 0.9:.2f}v{h:.2f}z" for k, h in enumerate(heights) if h)
    return {
        **about, "bars": bars, "low": f"{edges[0]:g}", "high": f"{edges[-1]:g}", "peak": f"{counts.max():,}",
        "zero": -edges[0] / (edges[-1] - edges[0]) * WIDTH if edges[0] < 0 < edges[-1] else None,
        "number": f"{histogram.number:,}", "nulls": f"{histogram.nulls:,}", "mean": f"{histogram.mean:.4g}",
        "least": f"{histogram.low:.4g}", "most": f"{histogram.high:.4g}",
    }  # fmt: skip


def _card(example: ShadedExample, signal: str) -> dict[str, Any]:
    """An example as alternating groups of prompt and answer, each a list of runs."""
    shade, of_target = example.shades[signal], {position: k for k, position in enumerate(example.targets)}
    steps = _steps(shade)
    groups: list[dict[str, Any]] = []
    for at, token in enumerate(example.tokens):
        if not groups or groups[-1]["answer"] != token.target:
            groups.append({"answer": token.target, "runs": []})
        runs, end = groups[-1]["runs"], "\n" if token.breaks else ""
        if token.target:
            k = of_target[at]
            runs.append({"at": at, "text": token.text, "end": end, "shade": steps[k], "top": bool(shade.top[k])})
        elif token.masked:
            runs.append({"at": at, "text": token.text, "end": end})
        elif runs and runs[-1]["at"] is None:  # nothing points at these tokens: one element for all
            runs[-1]["text"] += token.text + end
        else:
            runs.append({"at": None, "text": token.text + end, "end": ""})
    return {"id": example.id, "groups": groups, "probability": f"{math.exp(example.mean_logprob):.3f}", "targets": len(example.targets)}


def _values(example: ShadedExample, texts: Mapping[int, str]) -> dict[str, Any]:
    """What the page's script looks up: one entry a target token in `at`, `ids`, `span`, `drops`, `likeliest` and in
    each list of `values` and `shades`. `texts`: tokens by id, as far as the page holds them (a store has no
    vocabulary)."""
    shades, more = example.shades.items(), {}
    if example.drops is not None:
        more["drops"] = [[None if v is None else _short(v) for v in row] for row in example.drops]
    if example.likeliest is not None:
        more["likeliest"] = [[[texts.get(i, i), _short(math.exp(p))] for i, p in row] for row in example.likeliest]
    return more | {
        "id": example.id, "at": example.targets, "ids": [example.ids[i] for i in example.targets], "spans": example.spans,
        "span": example.matters, "values": {name: [_short(v) for v in shade.values.tolist()] for name, shade in shades},
        "shades": {name: _steps(shade) for name, shade in shades},
        "top": {name: np.flatnonzero(shade.top).tolist() for name, shade in shades},
    }  # fmt: skip


def _steps(shade: Shade) -> list[int | None]:
    return [None if math.isnan(s) else round(s * STEPS) for s in shade.strength.tolist()]


def _short(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.4g}")


def _json(value: Any) -> Markup:
    """JSON for inside a script element: no `<`, so that no text of the data can end the element or open a comment."""
    return Markup(json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"))  # noqa: S704
