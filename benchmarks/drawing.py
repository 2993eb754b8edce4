"""Draws answers as the first version's attack `sample` did: transformers' generate, sixteen of one row as a batch.

    python -m benchmarks.drawing --model FOLDER --suite SUITE [--limit N] [--max-new-tokens N]

benchmarks.evaluating takes its time; it prints how many answers and tokens were drawn. Number of answers a row, their
length and their temperature are the defaults of tu-eval attack.
"""

from __future__ import annotations

import argparse

import torch
from transformers import GenerationConfig

from shared.lm.models import context_length, load_model, load_tokenizer, locate
from tu_eval.attacks.config import AttackConfig
from tu_eval.measure.pieces import stop_ids
from tu_eval.suites.suites import find_suite
from tu_eval.suites.variants import load_variants

TOGETHER = 16


@torch.inference_mode()
def draw(model, prompt: list[int], count: int, most: int, temperature: float, stop: list[int]) -> list[list[int]]:
    """`count` answers, without the stop token."""
    ids, out = torch.tensor([prompt]), []
    for at in range(0, count, TOGETHER):
        new = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=True, temperature=temperature, top_k=0, top_p=1.0,
            num_return_sequences=min(TOGETHER, count - at), eos_token_id=stop, pad_token_id=stop[0],
        )  # fmt: skip
        rows = new[:, len(prompt) :].tolist()
        out += [row[: next((k for k, token in enumerate(row) if token in stop), len(row))] for row in rows]
    return out


def main() -> None:
    fields = AttackConfig.__dataclass_fields__
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--suite", required=True)
    parser.add_argument("--limit", type=int, help="only the first rows of the forget set")
    parser.add_argument("--max-new-tokens", type=int, default=fields["max_new_tokens"].default)
    given = parser.parse_args()
    folder = locate(given.model)
    tokenizer = load_tokenizer(folder)
    rows = load_variants(find_suite(given.suite).forget, tokenizer, context=context_length(folder), long="error", limit=given.limit)[0]
    model, stop = load_model(folder, dtype=torch.float32, device=torch.device("cpu")), stop_ids(tokenizer, [v.answer for v in rows])
    model.generation_config = GenerationConfig()
    torch.manual_seed(0)
    prompts = [v.answer.input_ids[: v.answer.prompt_length] for v in rows]
    count, temperature = fields["samples"].default, fields["temperature"].default
    made = [ids for prompt in prompts for ids in draw(model, prompt, count, given.max_new_tokens, temperature, stop)]
    print(f"{len(made)} answers, {sum(map(len, made))} tokens")


if __name__ == "__main__":
    main()
