"""Sketched gradients of the NLL: of each target token of forget rows, and of whole retain rows.

One forward pass a row, its graph shared by one backward pass a target token. Memory: the model, one gradient, K numbers
a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared.console import progress, say
from shared.errors import ModelError
from shared.lm.logprobs import target_logprobs
from shared.lm.packed import PackedModel
from tu_train.diagnose.measures import Gradients
from tu_train.diagnose.sketch import Sketch, largest_prime, token_gradients
from tu_train.diagnose.snr import RowSums
from tu_train.model.trainable import freeze_all_but


def all_gradients(
    model: Any,
    forget: Sequence[tuple[list[int], list[int]]],
    retain: Sequence[tuple[list[int], list[int]]],
    *,
    train_only: Sequence[str],
    numbers: int,
    seed: int,
) -> Gradients:
    """`forget`, `retain`: token ids and target positions of each row; `numbers`: kept of a gradient, at most.

    Raises ConfigError for a glob of `train_only` that matches no parameter, ModelError for a gradient that is not
    finite.
    """
    count = freeze_all_but(model, train_only)
    packed = PackedModel(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    sketch = Sketch([p.numel() for p in parameters], largest_prime(numbers), seed, model.device)
    passes = sum(len(targets) for _, targets in forget) + len(retain)
    say(f"{len(forget)} forget rows, {passes - len(retain)} target tokens, {len(retain)} retain rows: {passes} backward passes, "
        f"{count:,} parameters, each gradient kept as {sketch.buckets} numbers")  # fmt: skip
    of_forget, of_retain = [], []
    with progress("gradients", passes, "backward passes") as bar:
        for ids, targets in forget:
            for vector in sketched(packed, ids, [[i] for i in targets], parameters, sketch):
                of_forget.append(vector)
                bar.advance(1)
        for ids, targets in retain:
            of_retain += sketched(packed, ids, [targets], parameters, sketch)
            bar.advance(1)
    if not all(np.isfinite(vector).all() for vector in (*of_forget, *of_retain)):
        raise ModelError(f"{model.name_or_path}: a gradient is not finite; the weights are broken")
    row_N = np.repeat(np.arange(len(forget)), [len(targets) for _, targets in forget])
    lengths = np.array([len(targets) for _, targets in retain], dtype=np.float64)
    kept = RowSums(np.stack(of_retain), lengths) if retain else None
    return Gradients(np.stack(of_forget), row_N, kept, {"parameters": count, "sketch": sketch.buckets})


def sketched(
    packed: PackedModel, ids: Sequence[int], groups: Sequence[Sequence[int]], parameters: Sequence[Tensor], sketch: Sketch
) -> Iterator[np.ndarray]:
    """One forward of a row, then for each group of target positions the sketch, [K] float64, of the gradient of their
    summed NLL."""
    hidden, slots = packed.hidden([ids])
    logp = [
        target_logprobs(hidden[[slots[0][i - 1] for i in group]], torch.tensor([ids[i] for i in group], device=hidden.device), packed.head)
        for group in groups
    ]
    for gradient in token_gradients([values.sum() for values in logp], parameters, sketch):
        yield gradient.cpu().numpy().astype(np.float64)
