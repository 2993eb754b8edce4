"""Which token a row writes next: the likeliest, or one that is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from shared.errors import ModelError

Choose = Callable[[torch.Tensor, Sequence[int]], list[int]]
"""logits [B, V] as the model means them, and which prompt each row belongs to -> tokens [B]"""


def likeliest(logits_BV: torch.Tensor, prompts: Sequence[int]) -> list[int]:
    return logits_BV.argmax(-1).tolist()


@dataclass(frozen=True)
class Drawn:
    """Tokens from softmax(logits / temperature) over the whole vocabulary.

    A row takes one number in [0, 1) a token from a generator of its own, and the first token at which the summed
    probabilities come above it. So what it writes depends on its generator and its prompt alone, and not on the rows
    that write beside it, as far as its logits do not: in bfloat16 and float16 they are rounded otherwise in other
    company, and now and then another token is drawn, in float32 hardly ever. Raises ModelError for logits that are not
    finite. float64 [B, V] beside the logits.
    """

    temperature: float
    numbers: Sequence[np.random.Generator]
    """of each prompt"""

    def __call__(self, logits_BV: torch.Tensor, prompts: Sequence[int]) -> list[int]:
        drawn = torch.tensor([self.numbers[i].random() for i in prompts], dtype=torch.float64)
        if logits_BV.device.type == "mps":  # has no float64
            logits_BV = logits_BV.cpu()
        summed_BV = logits_BV.to(torch.float64, copy=True).div_(self.temperature)
        summed_BV.sub_(summed_BV.amax(-1, keepdim=True)).exp_().cumsum_(-1)
        whole_B = summed_BV[:, -1]
        if not whole_B.isfinite().all():
            raise ModelError(
                "the model's logits are not finite, so no token can be drawn: its weights are damaged, or --dtype is too narrow"
            )
        # A number at the whole sum would lie above every token; the product is rounded up to it at most.
        at_B = torch.minimum(drawn.to(whole_B.device) * whole_B, torch.nextafter(whole_B, torch.zeros_like(whole_B)))
        return torch.searchsorted(summed_BV, at_B[:, None], right=True).squeeze(1).tolist()
