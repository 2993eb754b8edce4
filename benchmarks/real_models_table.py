"""What benchmarks.real_models has finished, as the tables of docs/real_models.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MODELS = {"smollm2": "SmolLM2-135M-Instruct", "gemma": "Gemma 3 270M", "qwen": "Qwen2.5-Coder-0.5B-Instruct"}
SETS = {"tofu": "TOFU forget01", "lume": "LUME task 2", "atlas": "atlas"}
RUNS = ("LoRA-hard", "LoRA-all", "full-hard", "full-all")


def table(work: Path) -> str:
    """Probabilities before and after each run, and what was kept for what was lost; then the engines' differences."""
    lines = ["| model | set | rows | run | forget P | retain P | retain kept | seconds |", "|---|---|---|---|---|---|---|---|"]
    engines = ["| model | set | tokens | largest difference, nats | mean |", "|---|---|---|---|---|"]
    for data in SETS:
        for model in MODELS:
            folder = work / f"{model}-{data}"
            before = _read(folder / "before.json")
            if before is not None:
                learned = (_read(folder / "learn.json") or {}).get("seconds", 0)
                rows = (_read(folder / "before" / "summary.json") or {}).get("rows", {}).get("forget", "?")
                lines.append(_line(model, data, rows, "before", before["metrics"], 1.0, learned))
                for run in RUNS:
                    found = _read(folder / f"{run}.json")
                    if found is not None:
                        kept = found["metrics"]["retain_probability"] / before["metrics"]["retain_probability"]
                        lines.append(_line(model, data, rows, run.replace("-", ", "), found["metrics"], kept, found["seconds"]))
            gaps = _read(folder / "engines.json")
            if gaps is not None:
                engines.append(f"| {MODELS[model]} | {SETS[data]} | {gaps['tokens']:,} | {gaps['largest']:.1e} | {gaps['mean']:.1e} |")
    return "\n".join([*lines, "", *engines])


def _read(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _line(model: str, data: str, rows: object, run: str, metrics: dict[str, Any], kept: float, seconds: float) -> str:
    values = f"{metrics['forget_probability']:.3f} | {metrics['retain_probability']:.3f} | {kept:.2f} | {seconds:.0f}"
    return f"| {MODELS[model]} | {SETS[data]} | {rows} | {run} | {values} |"
