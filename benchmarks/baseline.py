"""What a user would write today to get the same numbers: a transformers loop over padded batches of eight, full logits,
and every masked variant computed in full. The baseline of benchmarks/score.py; its answers are also what ours are
compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from shared.data.examples import Example
from tu_score.spans import Masking

BATCH = 8


@torch.no_grad()
def padded_loop(model, sequences: Sequence[list[int]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Log-probability and entropy of every token after the first, in nats, for each sequence."""
    out = []
    for at in range(0, len(sequences), BATCH):
        batch = sequences[at : at + BATCH]
        longest = max(map(len, batch))
        ids = torch.tensor([s + [0] * (longest - len(s)) for s in batch])
        mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in batch])
        logprobs = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float().log_softmax(-1)
        target = logprobs.gather(2, ids[:, 1:, None])[..., 0].numpy()
        entropy = -(logprobs.exp() * logprobs).sum(-1).numpy()
        out += [(target[i, : len(s) - 1], entropy[i, : len(s) - 1]) for i, s in enumerate(batch)]
    return out


def variants_in_full(example: Example, masking: Masking) -> list[list[int]]:
    """The example, then the example with each of its spans masked, none cut short."""
    whole = list(range(1, len(example.input_ids)))
    return [list(example.input_ids)] + [
        masking.replacement.request(example, span, [i for i in whole if i >= span[1]]).ids for span in masking.spans[example.id]
    ]


def delta(example: Example, masking: Masking, answers: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Log-probability lost at each token when the span that matters most to it is masked, [T], NaN where none was
    read."""
    plain, drops = answers[0][0], np.full((len(answers) - 1, len(example.input_ids)), np.nan)
    for row, (_, wanted), (masked, _) in zip(drops, masking.reads(example), answers[1:], strict=True):
        at = np.array(wanted)
        row[at] = plain[at - 1] - masked[at - 1]
    best = np.full(len(example.input_ids), np.nan)
    read = np.flatnonzero(~np.isnan(drops).all(0))
    best[read] = drops[np.nanargmax(np.abs(drops[:, read]), axis=0), read]
    return best
