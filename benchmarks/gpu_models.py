"""What benchmarks/gpu.py runs on: random models with a token for every byte, and rows of random tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tu_train.data.batches import Item

END = 256
"""the id behind those of the bytes"""
WORLD = "people=4,facts_per_person=3,forget_people=2,holdout_people=1"
FORGET, RETAIN = (f"atlas:{split}:{WORLD}" for split in ("forget", "retain"))


@dataclass(frozen=True)
class Shape:
    """Of a model."""

    width: int
    blocks: int
    heads: int
    key_heads: int
    inner: int
    vocabulary: int

    @property
    def fields(self) -> dict[str, Any]:
        return {"vocab_size": self.vocabulary, "hidden_size": self.width, "num_hidden_layers": self.blocks,
                "num_attention_heads": self.heads, "num_key_value_heads": self.key_heads, "intermediate_size": self.inner,
                "head_dim": self.width // self.heads, "max_position_embeddings": 2048, "bos_token_id": None,
                "eos_token_id": END, "pad_token_id": END}  # fmt: skip


TINY = Shape(64, 3, 4, 2, 128, 512)
SMALL = Shape(256, 3, 4, 2, 512, 2048)
"""what is compared with the CPU on a GPU"""
SPEED = {
    "tiny": TINY,
    "135M": Shape(576, 30, 9, 3, 1536, 49_152),
    "1B": Shape(2048, 16, 32, 8, 8192, 128_256),
}
"""what is timed: the shapes of SmolLM2-135M and Llama 3.2 1B"""
FAMILIES: Mapping[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"sliding_window": 16},
    "Gemma2": {"sliding_window": 16, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 16},
}
"""whose attention differs: none, a window, a window and soft caps"""


def made(shape: Shape, family: str = "Llama", **fields: Any) -> Any:
    """A random float32 model on the device in force. The same on each call, on the same kind of device."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**shape.fields, **FAMILIES[family], "initializer_range": 0.1, **fields})
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def saved(folder: Path, shape: Shape, family: str = "Llama") -> Path:
    """The folder of such a model and its tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<end>"]
    core = Tokenizer(models.BPE(vocab={name: number for number, name in enumerate(names)}, merges=[]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token=names[END], pad_token=names[END]).save_pretrained(folder)
    made(shape, family).save_pretrained(folder)
    return folder


def random_items(count: int, vocabulary: int, longest: int, seed: int) -> list[Item]:
    """Rows as chat data has them: 24 tokens that all share, a question, and an answer of up to `longest` tokens, which
    losses see."""
    draw, shared = np.random.default_rng(seed), list(range(1, 25))
    items = []
    for number in range(count):
        question, answer = int(draw.integers(8, 24)), int(draw.integers(longest // 4, longest + 1))
        ids = shared + draw.integers(0, vocabulary, question + answer).tolist()
        targets = list(range(len(ids) - answer, len(ids)))
        items.append(Item(ids, targets, np.ones(answer, dtype=np.float32), name=f"row {number}"))
    return items
