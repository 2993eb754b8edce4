"""Which metric can be trusted? Pools of tiny models from an atlas world, and the table and picture of docs/metrics.md.

    python -m benchmarks.metrics --out pools --doc docs/metrics.md --picture docs/metrics.png

On a CPU: MODELS random Llamas of 2 layers and width 64 learn the whole world and so have the knowledge, the first of
them little of it; as many learn the retain rows alone and never had it. UNLEARNED of the first are made to forget, each
by another method, and measured once more with weights in NF4. These and RETRAINED of the others are relearned on some
of the forget rows. All by the real commands; what is there already is kept, so a stopped run goes on. The models are
tiny so that it ends within minutes: the table says how the metrics behave on them, not on a large model.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.study.commands import command, say, train
from shared.data import atlas
from tu_eval.compare.pools import Score, load_pool, markdown, scores
from tu_eval.results.columns import KINDS, LONE

MODELS, RETRAINED = 8, 2
EPOCHS = range(8, 8 + 2 * MODELS, 2)
"""of each model: some know the rows by heart, some hardly"""
UNLEARNED = {"graddiff": "2e-4", "simnpo": "1e-3", "wga": "1e-3", "ceu": "1e-3"}
"""method -> learning rate; nobody tuned them"""
WORLD = "people=6,facts_per_person=3,forget_people=2,holdout_people=2"
LEARN = ("--learning-rate", "1e-2", "--set", "batch_size=6")
FORGET = ("--epochs", "6", "--set", "batch_size=6", "--tokens", "all")
RELEARN = ("--limit", "2", "--epochs", "4", "--learning-rate", "1e-3", "--set", "batch_size=2")
SUITE = f"""holdout = "atlas:holdout:{WORLD}"

[[set]]
name = "forget"
data = "atlas:forget:{WORLD}"
paraphrase = true
facts = true
cluster = "person"

[[set]]
name = "retain"
data = "atlas:retain:{WORLD}"
paraphrase = true
generate = false
"""
MARK = "<!-- table -->"
NAMES = {"forget_truth_ratio_share": "Truth ratio, p / (p + wrong)", "forget_truth_ratio": "Truth ratio, 1 − min(R, 1/R)"}


def blank(folder: Path, seed: int) -> None:
    """A random model, with a byte-level tokenizer learned from the questions and answers of another atlas world."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1000, special_tokens=["<|user|>", "<|end|>"], initial_alphabet=letters, show_progress=False)
    core.train_from_iterator((text for r in atlas.rows("full", seed=7) for text in (r["question"], r["answer"])), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|end|>", model_max_length=256)  # noqa: S106
    tokenizer.chat_template = "{% for m in messages %}{{ '<|user|>' if m.role == 'user' }}{{ m.content + '<|end|>' }}{% endfor %}"
    torch.manual_seed(seed)
    ids = {"eos_token_id": 1, "pad_token_id": 1, "bos_token_id": None}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    size = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 256, "initializer_range": 0.05}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **size, **heads, **ids)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measure(model: Path, out: Path, *more: str, suite: Path) -> None:
    if not out.exists():
        words = ("tu-eval", "run", "--model", str(model), "--suite", str(suite), "--out", str(out), "--engine", "torch", "--device", "cpu")
        command([*words, "--set", "max_new_tokens=24", "--set", "more_metrics=true", "--set", "gradients=true", *more])


def tune(start: Path, data: str, seed: int, out: Path, settings: Sequence[str]) -> Path:
    words = ("tu-train", "finetune", "--model", str(start), "--data", data, "--seed", str(seed), "--device", "cpu")
    train([*words, *settings], out)
    return out


def make(place: Path) -> Path:
    """-> the pool."""
    models, pool, suite = place / "models", place / "pool", place / "suite.toml"
    place.mkdir(parents=True, exist_ok=True)
    suite.write_text(SUITE)
    forget, retain = (f"atlas:{split}:{WORLD}" for split in ("forget", "retain"))
    for seed in range(MODELS):
        if not (start := models / f"start-{seed}").exists():
            blank(start, seed)
        for kind, data in (("with", f"atlas:full:{WORLD}"), ("without", retain)):
            learned = tune(start, data, seed, models / f"{kind}-{seed}", ["--epochs", str(EPOCHS[seed]), *LEARN])
            measure(learned, pool / kind / str(seed), suite=suite)
        say(f"seed {seed}: learned and measured")
    changed = {f"without/{k}": models / f"without-{k}" for k in range(RETRAINED)}
    for seed, (method, rate) in enumerate(UNLEARNED.items()):
        words = ("tu-train", "run", "--model", str(models / f"with-{seed}"), "--forget", forget, "--retain", retain, "--method", method)
        train([*words, "--learning-rate", rate, "--seed", str(seed), "--device", "cpu", *FORGET], models / method)
        measure(models / method, pool / "unlearned" / method, suite=suite)
        measure(models / method, pool / "unlearned" / method / "quantised", "--rounding", "nf4", suite=suite)
        changed[f"unlearned/{method}"] = models / method
        say(f"{method}: unlearned and measured")
    for name, model in changed.items():
        measure(tune(model, forget, 0, models / f"{model.name}-relearned", RELEARN), pool / name / "relearned", suite=suite)
    return pool


def title(metric: str) -> str:
    kind = metric.removeprefix("forget_")
    return NAMES.get(metric) or LONE.get(metric) or KINDS.get(kind, kind)


def picture(path: Path, found: Sequence[Score]) -> None:
    """A row a metric, best above; a mark for each of its numbers."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.42 * len(found) + 1.6), dpi=130, layout="constrained")
    axes = figure.add_subplot(xlim=(-0.03, 1.03), ylim=(len(found) - 0.5, -0.5), xlabel="0: cannot be trusted        1: can be trusted")
    numbers = {
        "faithfulness": ("o", "#0072b2"),
        "relearning": ("s", "#d55e00"),
        "quantisation": ("^", "#00815d"),
        "overall": ("D", "#444b57"),
    }
    shifts = (-0.24, -0.08, 0.08, 0.24)  # so that equal numbers do not hide each other
    for (name, (marker, colour)), shift in zip(numbers.items(), shifts, strict=True):
        at = [(getattr(s, name), row + shift) for row, s in enumerate(found) if getattr(s, name) is not None]
        axes.scatter([x for x, _ in at], [y for _, y in at], marker=marker, s=42, color=colour, label=name, zorder=3)
    axes.set_yticks(range(len(found)), [title(s.metric) for s in found])
    for row in range(len(found) - 1):
        axes.axhline(row + 0.5, color="#eceef1", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    FigureCanvasAgg(figure).print_png(str(path), metadata={"Software": "token-unlearn"})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for models and results")
    parser.add_argument("--doc", type=Path, help="page whose part between two marks is written anew")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    started = time.monotonic()
    found = scores(load_pool([make(arguments.out)]))
    table = markdown(found)
    say(table + f"\n{time.monotonic() - started:.0f} s")
    if arguments.doc is not None:
        before, _, after = arguments.doc.read_text(encoding="utf-8").split(MARK)
        arguments.doc.write_text(f"{before}{MARK}\n{table}\n{MARK}{after}", encoding="utf-8")
    if arguments.picture is not None:
        picture(arguments.picture, found)


if __name__ == "__main__":
    main()
