"""Every retain term in one dict: what holds the model where it was, and what the loop has to bring for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shared.errors import ConfigError, nearest
from tu_train.methods.logits import kl as divergence
from tu_train.methods.logits import logits, per_position

if TYPE_CHECKING:
    from tu_train.methods.tokens import Need, Options, Tokens


@dataclass(frozen=True)
class RetainTerm:
    loss: Callable[[Tokens, Options], Tensor]
    """(retain, the method's options) -> loss summed over the retain tokens of a pass (weights 1); the denominator is
    the number of retain target tokens of the step"""
    formula: str
    """one line, of one token"""
    needs: frozenset[Need] = frozenset()
    """what it reads of the retain rows besides log-probabilities"""
    asked: bool = False
    """whether --set retain_term may name it; another one comes with the method, or with retain_scores"""


def nll(retain: Tokens, options: Options) -> Tensor:
    """Σ −log p of the gold tokens."""
    return -(retain.weight_N * retain.logp_N).sum()


def kl(retain: Tokens, options: Options) -> Tensor:
    """Σ KL(start ‖ θ) over the whole vocabulary, at answer tokens only; needs the start model's hidden states and
    head."""
    head, ref_head = retain.head, retain.ref_head
    assert retain.hidden_ND is not None and retain.ref_hidden_ND is not None and head is not None and ref_head is not None

    def fn(z_CV: Tensor, ref_hidden_CD: Tensor) -> Tensor:
        with torch.no_grad():
            log_p_CV = logits(ref_hidden_CD, ref_head).log_softmax(-1)
        return divergence(log_p_CV, z_CV.log_softmax(-1))

    return (retain.weight_N * per_position(retain.hidden_ND, head, fn, retain.ref_hidden_ND)).sum()


def kl_topk(retain: Tokens, options: Options) -> Tensor:
    """Σ KL(start ‖ θ) with all tokens outside the start model's top k as one token; from the store, no start model.

    Never above the exact one (merging outcomes loses information). What it misses a token is r · KL(start ‖ θ, both
    within the rest), r the mass of the rest, see `outside`.
    """
    assert retain.hidden_ND is not None and retain.head is not None and retain.top_ids_NK is not None and retain.top_logp_NK is not None

    def fn(z_CV: Tensor, ids_CK: Tensor, log_p_CK: Tensor) -> Tensor:
        log_q_CV = z_CV.log_softmax(-1)
        log_q_rest_C = log_q_CV.scatter(1, ids_CK, -1e30).logsumexp(-1)
        shared_C = divergence(log_p_CK, log_q_CV.gather(1, ids_CK))
        if ids_CK.shape[1] == z_CV.shape[1]:  # no rest; what rounding leaves of its mass must not meet a log of 0
            return shared_C
        rest_C = outside(log_p_CK)
        rest = torch.where(rest_C > 0, rest_C * (rest_C.clamp_min(1e-30).log() - log_q_rest_C), 0.0)
        return shared_C + rest

    found_N = per_position(retain.hidden_ND, retain.head, fn, retain.top_ids_NK.long(), retain.top_logp_NK)
    return (retain.weight_N * found_N).sum()


def outside(top_logp_NK: Tensor) -> Tensor:
    """[N] probability outside the top k under the start model: the share on which kl_topk sees only the total."""
    return (1 - top_logp_NK.exp().sum(-1)).clamp_min(0)


def layer(retain: Tokens, options: Options) -> Tensor:
    """RMU's: Σ ‖h − h0‖² / D at one block's output, h0 that of the start model."""
    assert retain.layer_ND is not None and retain.ref_layer_ND is not None
    return (retain.weight_N * (retain.layer_ND.float() - retain.ref_layer_ND.float()).square().mean(-1)).sum()


RETAIN_TERMS: dict[str, RetainTerm] = {
    "nll": RetainTerm(nll, "−log p", asked=True),
    "kl": RetainTerm(kl, "KL(start ‖ θ)", frozenset({"logits", "reference logits"}), asked=True),
    "kl_topk": RetainTerm(kl_topk, "KL(start ‖ θ), tokens outside the start's top k as one", frozenset({"logits", "top tokens"})),
    "layer": RetainTerm(layer, "‖h − h_start‖²/D", frozenset({"layer", "reference layer"})),
}
NONE = "none"
"""the name of no retain term"""


def check_retain_term(name: str) -> None:
    """Raises ConfigError for what --set retain_term may not name."""
    known = (*(name for name, term in RETAIN_TERMS.items() if term.asked), NONE)
    if name not in known:
        raise ConfigError(f"retain_term: got {name!r}{nearest(name, known)}")
