"""Answers drawn at a temperature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from shared.weighting.weights import seeded

if TYPE_CHECKING:
    from shared.engines.torch import TorchEngine

TOGETHER = 16
"""answers drawn in one batch; draws depend on it"""


def draws(
    engine: TorchEngine, name: str, prompt: list[int], count: int, most: int, temperature: float, stop_ids: Sequence[int], seed: int
) -> list[list[int]]:
    """`count` answers to one prompt; they depend on the seed and the row's name alone."""
    made: list[list[int]] = []
    for number, at in enumerate(range(0, count, TOGETHER)):
        key = int(seeded(seed, f"sample {number} {name}").integers(2**63))
        made += draw(engine, prompt, min(TOGETHER, count - at), most, temperature, stop_ids, key)
    return made


@torch.inference_mode()
def draw(
    engine: TorchEngine, prompt: list[int], count: int, most: int, temperature: float, stop_ids: Sequence[int], key: int
) -> list[list[int]]:
    """`count` answers from softmax(logits / temperature) over the whole vocabulary, without the stop token."""
    from transformers import GenerationConfig

    model: Any = engine.packed.model
    own, model.generation_config = model.generation_config, GenerationConfig()  # a folder's own may cut the distribution
    ids = torch.tensor([prompt], device=model.device)
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            torch.manual_seed(key)
            new = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=temperature, top_k=0, top_p=1.0,
                num_return_sequences=count, max_new_tokens=most, eos_token_id=list(stop_ids), pad_token_id=stop_ids[0],
            )  # fmt: skip
    finally:
        model.generation_config = own
    rows = new[:, len(prompt) :].tolist()
    return [row[: next((k for k, token in enumerate(row) if token in stop_ids), len(row))] for row in rows]
