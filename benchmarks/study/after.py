"""What is still to be had from a model whose facts are at the level: by relearning, from rounded weights, by asking
often (docs/attacks.md)."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.study.commands import command
from benchmarks.study.prepare import Made
from shared.files.fs import read_json

STEPS, DRAWN = 20, 8
ATTACKING = ["--attack", "relearn", "--attack", "quantise", "--attack", "sample", "--set", f"relearn_steps={STEPS}",
             "--set", f"relearn_every={STEPS}", "--set", "bits=[4]", "--set", f"samples={DRAWN}", "--set", "max_new_tokens=40"]  # fmt: skip
NUMBERS = {
    "facts": ("quantise", "as it is", "fact_probability"),
    "relearned_shown": ("relearn", f"step {STEPS}", "fact_probability (shown)"),
    "relearned_rest": ("relearn", f"step {STEPS}", "fact_probability (rest)"),
    "int4_channel": ("quantise", "int4, a scale a channel", "fact_probability"),
    "int4_group": ("quantise", "int4, a scale for 64", "fact_probability"),
    "sampled": ("sample", None, f"fact_in_{DRAWN}"),
}
"""name -> attack, setting (None: the only one) and measure in attack.json; means over the rows of the forget set of the
suite"""


def attacked(made: Made, model: str, name: str, log: Path) -> dict[str, float]:
    """The numbers of NUMBERS for one model. Raises UserError where the suite marks no facts."""
    assert made.probes is not None, "a study that attacks names a suite"
    out = made.folder / "attacked" / name
    if not out.exists():
        command(["tu-eval", "attack", "--model", model, "--suite", made.probes, *ATTACKING, *made.world.attacking, "--out", str(out)], log)
    numbers = read_json(out / "attack.json")["numbers"]
    found = {}
    for short, (attack, setting, measure) in NUMBERS.items():
        (number,) = [n for n in numbers if (n["attack"], n["measure"]) == (attack, measure) and setting in (None, n["setting"])]
        found[short] = number["model"]
    shutil.rmtree(out.with_name(f"{name}.unfinished"), ignore_errors=True)
    return found
