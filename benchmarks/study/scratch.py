"""A small model of another family, made from scratch: random GPT-NeoX weights and smollm2's tokenizer, trained on
another atlas world.

It knows the language of atlas and none of the people of a study, which is what `base` has to be.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.study.commands import say, train
from shared.files.fs import atomic_folder, hash_json

SHAPE = {"hidden_size": 320, "num_hidden_layers": 5, "num_attention_heads": 5, "intermediate_size": 1280, "max_position_embeddings": 512}
DATA = "atlas:full:people=400,facts_per_person=5,seed=77"
LEARNING = ["--epochs", "6", "--learning-rate", "2e-3", "--set", "batch_size=32", "--dtype", "bfloat16", "--set", "checkpointing=false"]
SEED = 7


def scratch_model(shelf: Path) -> Path:
    """The folder of the model, made on first use."""
    out = shelf / f"gpt-neox-{hash_json([SHAPE, DATA, LEARNING, SEED])[:12]}"
    if not out.exists():
        blank = shelf / f"{out.name}-blank"
        if not blank.exists():
            _blank(blank)
        say(f"a small GPT-NeoX learns {DATA}")
        train(["tu-train", "finetune", "--model", str(blank), "--data", DATA, *LEARNING], out)
        shutil.rmtree(blank)
    return out


def _blank(folder: Path) -> None:
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    from shared.lm.models import load_tokenizer, locate

    tokenizer = load_tokenizer(locate("smollm2"))
    torch.manual_seed(SEED)
    ends = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = GPTNeoXConfig.from_dict({**SHAPE, **ends})
    with atomic_folder(folder) as temporary:
        GPTNeoXForCausalLM(config).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
