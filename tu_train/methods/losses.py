"""Forget losses of log-probabilities: what the model gives the gold tokens, and what the scored model gave them.

    N   target tokens of all rows, one after another        B   rows        p_t   probability of the gold token
    w_t   token weight; all 1 gives the sequence-level method of the literature
    sg(x)   x as a constant: no gradient goes through it

`(forget, partner, options, state) -> loss`, summed over the pass; `Method.per` names the denominator of a whole step. A
token of weight zero is replaced by log p = 0 before anything is computed, so its label and reference moves no bit; a
row without weights adds nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

if TYPE_CHECKING:
    from tu_train.methods.tokens import Options, State, Tokens


# --- one weight a token: Σ w · weight(p) · log p, over Σ w


def ascent(forget: Tokens, partner: Tokens | None, options: Options, state: State) -> Tensor:
    """GA, GradDiff, KL: −Σ w · NLL = Σ w · log p. They differ in their retain term only.

    The weight scales each token's own ascent, so a token of weight zero is neither pushed nor counted.
    """
    return (forget.weight_N * gold(forget)).sum()


def wga(forget: Tokens, partner: Tokens | None, options: Options, state: State) -> Tensor:
    """WGA (arXiv 2502.19301): Σ w · sg(p^β) · log p: what is forgotten already is pushed less.

    The token weight multiplies the method's own confidence weight, which is the same kind of thing: a share of the
    token's ascent.
    """
    logp_N = gold(forget)
    return (forget.weight_N * (options["beta"] * logp_N).exp().detach() * logp_N).sum()


def tnpo(forget: Tokens, partner: Tokens | None, options: Options, state: State) -> Tensor:
    """TNPO (arXiv 2502.19301): Σ w · sg(2 p^β / (p^β + p_ref^β)) · log p; the fraction is σ(β · (log p − log p_ref)).

    The token weight multiplies the method's own weight; the saturation stays that of each token by itself.
    """
    logp_N = gold(forget)
    own_N = 2 * torch.sigmoid(options["beta"] * (logp_N - reference(forget)))
    return (forget.weight_N * own_N.detach() * logp_N).sum()


def wtnpo(forget: Tokens, partner: Tokens | None, options: Options, state: State) -> Tensor:
    """WTNPO (arXiv 2502.19301): Σ w · sg(2 p^(β + power) / (p^β + p_ref^β)) · log p, TNPO's weight times WGA's p^power.

    The token weight multiplies the method's own weight, as in both. (`power` is the paper's α; alpha is the retain
    weight here.)
    """
    logp_N = gold(forget)
    own_N = 2 * torch.sigmoid(options["beta"] * (logp_N - reference(forget))) * (options["power"] * logp_N).exp()
    return (forget.weight_N * own_N.detach() * logp_N).sum()


def satimp(forget: Tokens, partner: Tokens | None, options: Options, state: State) -> Tensor:
    """SatImp (arXiv 2505.11953): Σ w · sg(p^β1 · (1 − p)^β2) · log p: saturation times importance.

    The token weight multiplies the method's own weight: stored importance beside that of the moment.
    """
    logp_N = gold(forget)
    own_N = (options["beta1"] * logp_N).exp() * (-torch.expm1(logp_N)).clamp_min(0) ** options["beta2"]
    return (forget.weight_N * own_N.detach() * logp_N).sum()


# --- one sigmoid a row: −(2/β) · log σ(β · x), over rows


def npo(forget: Tokens, partner: Tokens | None, options: Options, state: State) -> Tensor:
    """NPO (arXiv 2404.05868): Σ over rows of −(2/β) · log σ(−β · Σ_t w_t · (log p_t − log p_ref,t)). Sums over the row,
    no mean.

    The weight enters inside the sequence log-ratio: the row's saturation (how far it is already forgotten) is then
    judged by the tokens that matter, not by all of them.
    """
    return saturating(forget, -log_ratio(forget), options["beta"])


def simnpo(forget: Tokens, partner: Tokens | None, options: Options, state: State) -> Tensor:
    """SimNPO (arXiv 2410.07163): Σ over rows of −(2/β) · log σ(β · (Σ_t w_t · NLL_t / Σ_t w_t − δ)).

    The weight enters the row's mean, numerator and denominator (which is T where all weights are 1): a mean over the
    tokens that matter.
    """
    mean_B = row_sums(forget, forget.weight_N * -gold(forget)) / safe(row_sums(forget, forget.weight_N))
    return saturating(forget, mean_B - options["delta"], options["beta"])


def preference(forget: Tokens, partner: Tokens | None, options: Options, state: State) -> Tensor:
    """DPO with an "I don't know" line, AltPO with an alternate answer: Σ over rows of −(2/β) · log σ(β · (ratio(win) −
    ratio(lose))),

    ratio(y) = Σ_t w_t · (log p_t − log p_ref,t). The weight enters the losing side's log-ratio, as in NPO: it says
    which tokens of the forget answer have to lose. The winning answer (`partner`) is learned whole, with weights of 1.
    """
    assert partner is not None
    return saturating(forget, log_ratio(partner) - log_ratio(forget), options["beta"])


def idknll(forget: Tokens, partner: Tokens | None, options: Options, state: State) -> Tensor:
    """IdkNLL (arXiv 2401.06121): Σ over rows of the mean NLL of an "I don't know" line (`partner`).

    No token of the forget answer is in this loss, so the weight can only choose rows: one whose weights are all zero is
    left out.
    """
    assert partner is not None
    mean_B = row_sums(partner, partner.weight_N * -gold(partner)) / safe(row_sums(partner, partner.weight_N))
    return torch.where(weighted(forget), mean_B, 0.0).sum()


# --- pieces


def gold(tokens: Tokens) -> Tensor:
    """[N] log p, nats, float64; 0 where the weight is zero."""
    return torch.where(tokens.weight_N > 0, wide(tokens.logp_N), 0.0)


def reference(tokens: Tokens) -> Tensor:
    """[N] log p under the scored model; 0 where the weight is zero."""
    assert tokens.ref_logp_N is not None
    return torch.where(tokens.weight_N > 0, wide(tokens.ref_logp_N), 0.0)


def wide(x: Tensor) -> Tensor:
    """float64 where the device has it: sums of a hundred log-probabilities in float32 would move with the last bit of
    each."""
    return x.float() if x.device.type == "mps" else x.double()


def row_sums(tokens: Tokens, values_N: Tensor) -> Tensor:
    """[B]"""
    return torch.zeros(tokens.rows, dtype=values_N.dtype, device=values_N.device).index_add(0, tokens.row_N, values_N)


def safe(sums_B: Tensor) -> Tensor:
    """A denominator: 1 where nothing was summed."""
    return torch.where(sums_B > 0, sums_B, 1.0)


def weighted(tokens: Tokens) -> Tensor:
    """[B] whether any token of the row has a weight."""
    return row_sums(tokens, tokens.weight_N) > 0


def log_ratio(tokens: Tokens) -> Tensor:
    """[B] Σ_t w_t · (log p_t − log p_ref,t)."""
    return row_sums(tokens, tokens.weight_N * (gold(tokens) - reference(tokens)))


def saturating(forget: Tokens, x_B: Tensor, beta: float) -> Tensor:
    """−(2/β) · Σ log σ(β · x) over the rows with a weight."""
    return torch.where(weighted(forget), -(2 / beta) * logsigmoid(beta * x_B), 0.0).sum()
