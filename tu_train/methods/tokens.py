"""What a loss sees: the weighted target tokens of the rows of one forward pass, one after another.

N   tokens (those of weight zero are left out, unless the method says that it reads them)      D   width of the model
B   rows                                                                                       V   vocabulary
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from shared.lm.logprobs import Head

Need = Literal["reference", "logits", "reference logits", "layer", "reference layer", "refusal", "alternate", "all targets", "top tokens"]
"""what a loss reads besides log-probabilities. reference: those of the scored model, from the store; logits: hidden
states and head; layer: output of block `options["layer"]`; reference logits, reference layer: the same of the model
before training (a second forward); refusal, alternate: a `partner` row for each forget row; all targets: tokens of
weight zero stay in; top tokens: those of the scored model, from a retain store"""
Options = Mapping[str, float]
"""a method's own numbers, complete (see check_options)"""
State = dict[str, "Tensor"]
"""what a method carries from step to step, kept in checkpoints"""


@dataclass
class Tokens:
    """Everything but the first six fields is there only when the method's `needs` ask for it."""

    logp_N: Tensor
    """log-probability of the gold token under the model in training, nats; differentiable"""
    weight_N: Tensor
    """float32; all 1 gives the sequence-level method of the literature"""
    row_N: Tensor
    """which row a token belongs to, 0..B-1"""
    place_N: Tensor
    """which target token of its row it is, 0 is the first of the answer"""
    target_N: Tensor
    """id of the gold token"""
    rows: int
    """B; a row may have no token here"""
    ref_logp_N: Tensor | None = None
    """log-probability under the scored model, from the store"""
    hidden_ND: Tensor | None = None
    """final hidden states that predict the tokens; head times these are the logits"""
    head: Head | None = None
    ref_hidden_ND: Tensor | None = None
    """the same under the model before training, without gradient"""
    ref_head: Head | None = None
    layer_ND: Tensor | None = None
    """output of block `layer` at the target tokens themselves"""
    ref_layer_ND: Tensor | None = None
    top_ids_NK: Tensor | None = None
    """the k likeliest tokens under the scored model, from a retain store with top-k columns"""
    top_logp_NK: Tensor | None = None
