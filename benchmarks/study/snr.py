"""Does the gradient's signal-to-noise ratio predict what a token source keeps? One measurement for all sources of a
study.

    python -m benchmarks.study.snr benchmarks/study/dev-atlas.toml --out WORK [--rows 20]

The token gradients are those of `tu-train diagnose` (same functions, same estimators); each source's hard tokens are a
weighting. They are computed once, in the last blocks of the model (--train-only), because each target token costs a
backward pass. The numbers go to snr.json in the world's folder, and with the results to its Parquet file.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np

from benchmarks.study.plan import WITHOUT_SCORES, read_study
from benchmarks.study.prepare import Made, prepare
from shared.lm.models import load_model, load_tokenizer, locate
from shared.store.scores import open_store
from tu_train.diagnose.config import DiagnoseConfig
from tu_train.diagnose.gradients import all_gradients
from tu_train.diagnose.measures import measure_all
from tu_train.diagnose.run import given_weights, retain_rows, sampled_rows, targets_of, weightings

BLOCKS = ("model.layers.2[0-9].*",)


def measure(made: Made, sources: list[str], rows: int, train_only: tuple[str, ...]) -> dict:
    import torch

    def config(scores: Path) -> DiagnoseConfig:
        return DiagnoseConfig(model=made.target, scores=str(scores), retain=made.retain, rows=rows, retain_rows=rows,
                              given_key=made.world.facts, train_only=train_only)  # fmt: skip

    own = config(made.scores)
    store, tokenizer = open_store(made.scores), load_tokenizer(locate(made.target))
    drawn = sampled_rows(store, own)
    first = weightings(drawn, own, own.selections)
    weights: dict[str, np.ndarray] = {"all": first["all"], "random": first["random"], "given": given_weights(store, drawn, tokenizer, own)}
    for name in sources:
        if name not in WITHOUT_SCORES:
            scored = config(made.folder / "stores" / name)
            weights[name] = weightings(sampled_rows(open_store(str(scored.scores)), scored), scored, scored.selections)["hard"]
    others = retain_rows(own, drawn, locate(made.target), tokenizer)
    model = load_model(locate(made.target), dtype=torch.float32, device=torch.device("cpu"))
    forget = [(row["input_ids"], targets_of(row)) for row in drawn]
    gradients = all_gradients(model, forget, others, train_only=train_only, numbers=own.sketch, seed=own.seed)
    return measure_all(gradients, weights, ["other"] * len(first["all"]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Gradient signal-to-noise of all token sources of a study.")
    parser.add_argument("study", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--train-only", nargs="*", default=list(BLOCKS))
    settings = parser.parse_args()
    world, _, jobs = read_study(settings.study)
    made = prepare(world, settings.out)
    sources = list(dict.fromkeys(job.source for job in jobs if job.method == "npo"))
    found = measure(made, sources, settings.rows, tuple(settings.train_only))
    (made.folder / "snr.json").write_text(json.dumps(found), encoding="utf-8")
    for name, numbers in found["weightings"].items():
        print(
            f"{name:28}",
            {k: v if v is None or isinstance(v, float) else v[0] for k, v in numbers.items() if k not in ("classes", "tokens")},
        )


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
