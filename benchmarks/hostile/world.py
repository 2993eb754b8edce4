"""What the trials work on: a tiny model that knows six rows, its score store, checkpoints, results, attacks, and files
of settings.

Everything is made by the commands themselves, so that it is what users have.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.hostile.trials import Trial, call, run_command

WORLD = "people=4,facts_per_person=3,forget_people=2,holdout_people=1"
FULL, FORGET, RETAIN = (f"atlas:{split}:{WORLD}" for split in ("full", "forget", "retain"))
CPU = ("--device", "cpu")
SUITE = (
    '[[set]]\nname = "forget"\ndata = "forget.jsonl"\ngenerate = false\n\n'
    '[[set]]\nname = "retain"\ndata = "retain.jsonl"\ngenerate = false\n'
)
TRAIN = ("--model", "model", "--scores", "scores", "--retain", "retain.jsonl", "--epochs", "1")
STUDY = 'model = "model"\nscores = "scores"\nretain = "retain.jsonl"\nepochs = 1\ndevice = "cpu"\nmethod = "npo"\ntokens = ["hard"]\n'
QUESTION_ROWS, RATED_ROWS = 6, 2


def make(folder: Path) -> None:
    """Fills the folder. Raises RuntimeError with what a command said when one of them fails."""
    folder.mkdir(parents=True)
    outcome = call(lambda: tiny_model(folder / "start"), folder / "said")
    if outcome.code:
        raise RuntimeError(outcome.said)
    rows(folder)
    (folder / "suite.toml").write_text(SUITE)
    (folder / "study.toml").write_text(STUDY)
    for command in STEPS:
        outcome = Trial([*command, *(CPU if "--model" in command else ())], folder / "said", cwd=folder, seconds=600).end()
        if outcome.code not in (0, 75):
            raise RuntimeError(f"{' '.join(command)}: exit code {outcome.code}: {outcome.said}")
    outcome = call(lambda: _interrupted(folder), folder / "said")
    if outcome.code != STOPPED or not (folder / "half.unfinished").is_dir():
        raise RuntimeError(f"a training that was to stop half-way did not: {outcome.said}")
    for left in [folder / "said", *folder.glob(".tmp-*"), folder / "half.unfinished" / "_lock"]:
        left.unlink(missing_ok=True)


STOPPED = 9
HALF = ("tu-train", "run", *TRAIN, "--set", "method=graddiff", "--epochs", "3", "--save-every", "1", "--set", "keep_checkpoints=3")


def _interrupted(folder: Path) -> None:
    """A training that ends without a word when its second checkpoint is there."""
    from tu_train.saving import working_folder as saving

    save, saved = saving.save_snapshot, []

    def save_and_stop(*arguments: object) -> None:
        save(*arguments)  # type: ignore[arg-type]
        saved.append(None)
        if len(saved) == 2:
            os._exit(STOPPED)

    saving.save_snapshot = save_and_stop  # type: ignore[assignment]
    sys.argv = [*HALF, *CPU, "--out", "half"]
    os.chdir(folder)
    run_command()


STEPS: Sequence[Sequence[str]] = (
    ("tu-train", "finetune", "--model", "start", "--data", FULL, "--epochs", "4", "--learning-rate", "5e-3", "--out", "model"),
    ("tu-score", "run", "--model", "model", "--data", "forget.jsonl", "--engine", "torch", "--set", "part_tokens=200", "--out", "scores"),
    ("tu-train", "run", *TRAIN, "--set", "method=graddiff", "--learning-rate", "1e-3", "--out", "after"),
    ("tu-eval", "run", "--model", "model", "--suite", "suite.toml", "--out", "results"),
    ("tu-eval", "run", "--model", "after", "--suite", "suite.toml", "--retain-results", "results", "--out", "results-after"),
)  # fmt: skip


def rows(folder: Path) -> None:
    from shared.data import atlas

    size = atlas.AtlasSize(people=4, facts_per_person=3, forget_people=2, holdout_people=1)
    for split in ("forget", "retain"):
        found = [{**row, "id": f"{split}/{i}"} for i, row in enumerate(atlas.rows(split, size))]
        _lines(folder / f"{split}.jsonl", found)
    choices = [{"question": f"Which is the number {k}?", "choices": [str(k), "none", "all"], "answer": 0} for k in range(QUESTION_ROWS)]
    _lines(folder / "choices.jsonl", choices)
    asked = [{"question_id": k, "category": "writing", "turns": [f"Say {k}.", "Say it again."]} for k in range(RATED_ROWS)]
    _lines(folder / "judged.jsonl", asked)


def _lines(path: Path, rows: Sequence[object]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def tiny_model(folder: Path, width: int = 32) -> None:
    """A random Llama, float32, with a byte-level tokenizer of 300 entries that was trained on nothing."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(letters)}, merges=[]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    end = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **end, model_max_length=512)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    torch.manual_seed(0)
    size = {
        "hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 2 * width,
    }  # fmt: skip
    ids = {"eos_token_id": 257, "pad_token_id": 257, "bos_token_id": None}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=258, max_position_embeddings=512, initializer_range=0.1, **size, **ids))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
