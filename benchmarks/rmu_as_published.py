"""Does RMU with `mean_over = "padded"` give the losses of the published form?

    python -m benchmarks.rmu_as_published [--batches 6] [--json]

The published form (arXiv 2403.03218 and its code) is written below as a plain loop over transformers: two models, texts
padded on the left, means over padding too, a direction for each corpus, corpora that take turns. Ours is
recipes/wmdp.toml through the real commands, on the same documents. The model is SmolLM2-135M in float32, the corpora
are the atlas's documents, of two worlds. Lengths are shorter; the other numbers but the count of batches and the
dtype are those of the recipe. Prints both losses of every batch and the largest difference.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from shared.study import Study
    from tu_train.config import UnlearnConfig

RECIPE = Path(__file__).parents[1] / "recipes" / "wmdp.toml"
LENGTHS = (96, 128)
"""tokens that documents of the two topics are cut to, short enough for a laptop; the published run has 512 and 768"""
RETAIN_LENGTH = 96
ON_CPU = {"device": "cpu"}


@dataclass(frozen=True, kw_only=True)
class Published:
    """The numbers of a run, one of each for a topic."""

    lengths: Sequence[int]
    steering: Sequence[float]
    alpha: Sequence[float]
    seeds: Sequence[int]
    retain_length: int
    layer: int
    learning_rate: float
    batch_size: int
    batches: int


def as_published(folder: Path, forget: Sequence[Sequence[str]], retain: Sequence[str], run: Published) -> list[tuple[float, float]]:
    """(forget loss, alpha times retain loss) of every batch, before its update."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", truncation_side="right")
    tokenizer.pad_token_id = tokenizer.eos_token_id
    trained, frozen = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for _ in range(2))
    trained.train()
    learned = [list(trained.model.layers[at].parameters())[6] for at in (run.layer - 2, run.layer - 1, run.layer) if at >= 0]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in learned]
    goals = [direction(trained.config.hidden_size, seed) * c for seed, c in zip(run.seeds, run.steering, strict=True)]

    def inputs(texts: Sequence[str], longest: int) -> Any:
        return tokenizer(list(texts), return_tensors="pt", padding=True, truncation=True, max_length=longest)

    out = []
    for batch in range(run.batches):
        topic, nth = batch % len(forget), batch // len(forget)
        rows = slice(nth * run.batch_size, (nth + 1) * run.batch_size)
        here = block_output(trained, inputs(forget[topic][rows], run.lengths[topic]), run.layer)
        kept = inputs(retain[rows], run.retain_length)
        now = block_output(trained, kept, run.layer)
        with torch.no_grad():
            before = block_output(frozen, kept, run.layer)
        away = torch.nn.functional.mse_loss(here, goals[topic].expand_as(here))
        stay = run.alpha[topic] * torch.nn.functional.mse_loss(now, before)
        out.append((away.item(), stay.item()))
        gradients = torch.autograd.grad(away + stay, learned)
        update(learned, gradients, moments, batch + 1, run.learning_rate)
    return out


def direction(width: int, seed: int) -> torch.Tensor:
    """Entries uniform in [0, 1), then length 1."""
    drawn = torch.rand(width, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm()


def block_output(model: Any, inputs: Any, layer: int) -> torch.Tensor:
    """[B, T, D], at padded positions too. No position ids are given."""
    found: list[torch.Tensor] = []
    handle = model.model.layers[layer].register_forward_hook(lambda _, __, out: found.append(out if torch.is_tensor(out) else out[0]))
    try:
        model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
    finally:
        handle.remove()
    return found[0]


@torch.no_grad()
def update(learned: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor], moments: Sequence[tuple], step: int, rate: float) -> None:
    """AdamW of transformers 4, without weight decay: epsilon is added before the second moment is corrected."""
    for p, g, (m, v) in zip(learned, gradients, moments, strict=True):
        m.mul_(0.9).add_(g, alpha=0.1)
        v.mul_(0.999).addcmul_(g, g, value=0.001)
        p.addcdiv_(m, v.sqrt().add_(1e-6), value=-rate * math.sqrt(1 - 0.999**step) / (1 - 0.9**step))


def by_recipe(
    folder: Path, forget: Sequence[Sequence[str]], retain: Sequence[str], run: Published, where: Path, **settings: Any
) -> list[tuple[float, float]]:  # fmt: skip
    """The same by recipes/wmdp.toml, scored and trained by our commands in the folder `where`; `settings` replace those
    of its run."""
    from shared.config import resolve
    from tu_score.config import ScoreConfig
    from tu_score.run import run_score
    from tu_train.run import run_unlearn

    study, config = recipe(where)
    for step, texts, length in zip(study.steps, forget, run.lengths, strict=True):
        data = written(where / f"{step.name}.jsonl", texts)
        fields = {**step.settings, "model": str(folder), "data": data, "text_length": length, "dtype": "float32", **ON_CPU}
        run_score(resolve(ScoreConfig, flags={**fields, "engine": "torch"}))
    options = {**config.options, "layer": float(run.layer), "steering": tuple(run.steering), "seed": tuple(map(float, run.seeds))}
    own = {"alpha": tuple(run.alpha), "max_steps": run.batches, "batch_size": run.batch_size, "learning_rate": run.learning_rate}
    config = replace(config, model=str(folder), retain=written(where / "retain.jsonl", retain), text_length=run.retain_length,
                     out=str(where / "model"), dtype="float32", options=options, **ON_CPU, **own, **settings)  # fmt: skip
    lines = [json.loads(line) for line in (run_unlearn(config) / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(line["forget_loss"], run.alpha[line["corpus"]] * line["retain_loss"]) for line in lines]


def recipe(where: Path) -> tuple[Study, UnlearnConfig]:
    """What the file says, with `where` as the folder of what it makes: its steps, and its one run."""
    from shared.study import load_study
    from tu_train.many.study import read_study

    study = load_study(RECIPE, where)
    ((_, config),) = read_study(RECIPE, study.runs)
    return study, config


def written(path: Path, texts: Sequence[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


def documents(group: str, seed: int, people: int) -> list[str]:
    """Biographies of atlas people, of a few hundred tokens each; another seed is another world. `group`: forget or
    retain, half of the people each."""
    from shared.data.datasets import load_rows

    rows = load_rows(f"atlas:documents-{group}:people={people},forget_people={people // 2},seed={seed}")
    return [row.answer for row in rows]


def numbers(config: UnlearnConfig, batches: int) -> Published:
    """Those of the recipe."""
    steering, seeds, alpha = config.options["steering"], config.options["seed"], config.alpha
    assert isinstance(steering, tuple) and isinstance(seeds, tuple) and isinstance(alpha, tuple)
    return Published(lengths=LENGTHS, steering=steering, alpha=alpha, seeds=[int(s) for s in seeds], retain_length=RETAIN_LENGTH,
                     layer=7, learning_rate=config.learning_rate or 0.0, batch_size=config.batch_size, batches=batches)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--json", action="store_true", help="one JSON object (else a line a batch)")
    arguments = parser.parse_args()
    from shared.lm.models import locate

    folder, run = locate("smollm2"), numbers(recipe(Path())[1], arguments.batches)
    people = 2 * run.batch_size * math.ceil(run.batches / 2)
    forget = [documents("forget", seed, people) for seed in (0, 1)]
    retain = documents("retain", 0, people)
    with tempfile.TemporaryDirectory() as where:
        ours = by_recipe(folder, forget, retain, run, Path(where))
    theirs = as_published(folder, forget, retain, run)
    largest = max(abs(a - b) for one, other in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=True))
    if arguments.json:
        print(json.dumps({"ours": ours, "published": theirs, "largest_difference": largest}))
        return
    print("batch  forget loss: ours, published     alpha * retain loss: ours, published")
    for batch, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        print(f"{batch:5d}  {one[0]:.7f} {other[0]:.7f}            {one[1]:.7f} {other[1]:.7f}")
    print(f"largest difference: {largest:.2e}")


if __name__ == "__main__":
    sys.exit(main())
