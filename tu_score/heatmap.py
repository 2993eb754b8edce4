"""The same examples as one self-contained page (no script, no font, no picture from elsewhere)."""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from shared.errors import ConfigError
from shared.fs import write_text
from shared.scores import Store
from tu_score.shading import TOP_SHARE, ShadedExample

READING = {
    "importance": "how much a token carries of the knowledge, by the store's recipe",
    "delta": "log-probability lost when the context that matters most is masked (size)",
    "delta_mean": "log-probability lost when context is masked, mean over spans (size)",
    "gain": "log-probability gained over the base model (size)",
    "entropy": "how unsure the model is before this token",
    "masked_entropy": "how unsure the model is with the context masked",
    "logprob": "how likely the model finds this token",
    "base_logprob": "how likely the base model finds this token",
    "base_entropy": "how unsure the base model is before this token",
}


def write_heatmap(path: Path, store: Store, examples: Sequence[ShadedExample], signal: str) -> None:
    if not path.resolve().parent.is_dir() or path.is_dir():
        raise ConfigError(f"--html {path}: expected a file name in a folder that exists")
    source = importlib.resources.files("tu_score").joinpath("templates/heatmap.html.j2").read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(source)
    manifest = store.manifest
    cards = [
        {
            "id": e.id, "prompt": e.prompt, "answer": e.answer, "probability": f"{math.exp(e.mean_logprob):.3f}",
            "targets": len(e.answer), "masked": any(t.masked for t in e.tokens),
        }
        for e in examples
    ]  # fmt: skip
    facts = {
        "data": manifest["options"]["data"], "spans": manifest["options"]["spans"], "model": manifest["fingerprints"]["model"][:12],
        "engine": f"{manifest['engine']['name']}, {manifest['engine']['dtype']}", "rows": f"{len(store):,}",
        "tokens": f"{manifest['tokens']:,}",
    }  # fmt: skip
    write_text(path, template.render(cards=cards, facts=facts, signal=signal, reading=READING[signal], top=f"{TOP_SHARE:.0%}"))
