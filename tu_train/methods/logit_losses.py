"""Forget losses of whole distributions or raw logits. Shapes and conventions as in losses.py; V vocabulary, C positions
of a chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tu_train.methods.logits import cross_entropy, gold_logits, kl, logits, per_position
from tu_train.methods.losses import row_sums, safe, saturating

if TYPE_CHECKING:
    from tu_train.methods.tokens import Options, State, Tokens


def undial(forget: Tokens, partner: Tokens | None, options: Options, state: State) -> Tensor:
    """UNDIAL (arXiv 2402.10052): Σ w · CE(softmax(z_start − β · onehot(gold)), θ).

    The weight scales each token's distillation: the teacher is a distribution a token, so this is where tokens are told
    apart.
    """
    assert forget.hidden_ND is not None and forget.ref_hidden_ND is not None
    head, ref_head = forget.head, forget.ref_head
    assert head is not None and ref_head is not None

    def fn(z_CV: Tensor, target_C: Tensor, ref_hidden_CD: Tensor) -> Tensor:
        with torch.no_grad():
            teacher_CV = logits(ref_hidden_CD, ref_head)
            teacher_CV.scatter_add_(1, target_C[:, None], torch.full_like(teacher_CV[:, :1], -options["beta"]).expand(len(target_C), 1))
        return cross_entropy(teacher_CV.softmax(-1), z_CV)

    return (forget.weight_N * per_position(forget.hidden_ND, head, fn, labels(forget), forget.ref_hidden_ND)).sum()


def ceu(forget: Tokens, partner: Tokens | None, options: Options, state: State) -> Tensor:
    """CE-U: Σ over rows of the weighted mean over tokens of CE(sg(softmax(z with gold = −inf)), θ); the first answer
    token is skipped.

    The weight enters the row's mean, numerator and denominator; a mean over the row, for else the skipped token would
    be counted.
    """
    assert forget.hidden_ND is not None and forget.head is not None

    def fn(z_CV: Tensor, target_C: Tensor) -> Tensor:
        p_CV = z_CV.detach().scatter(1, target_C[:, None], -torch.inf).softmax(-1)
        return cross_entropy(p_CV, z_CV)

    weight_N = torch.where(forget.place_N > 0, forget.weight_N, 0.0)
    found_N = per_position(forget.hidden_ND, forget.head, fn, labels(forget))
    return (row_sums(forget, weight_N * found_N) / safe(row_sums(forget, weight_N))).sum()


def pdu(forget: Tokens, partner: Tokens | None, options: Options, state: State) -> Tensor:
    """PDU: Σ w · (max_v z − mean_v z)²: flat logits. The weight scales each position's flattening; no label is read."""
    assert forget.hidden_ND is not None and forget.head is not None

    def fn(z_CV: Tensor) -> Tensor:
        return (z_CV.amax(-1) - z_CV.mean(-1)).square()

    return (forget.weight_N * per_position(forget.hidden_ND, forget.head, fn)).sum()


def pdu_start(width: int, options: Options) -> State:
    return {"dual": torch.ones(1, dtype=torch.float64)}


def pdu_after(state: State, entry: dict[str, float], options: Options) -> None:
    """λ ← max(0, λ + step · (L_r − ε))."""
    state["dual"] += options["step"] * (entry["retain_loss"] - options["epsilon"])
    state["dual"].clamp_(min=0)


def pdu_retain_weight(state: State) -> float:
    return state["dual"].item()


def tpo(forget: Tokens, partner: Tokens | None, options: Options, state: State) -> Tensor:
    """TPO (arXiv 2506.03142): Σ over rows of −(2/β) · log σ(β · Σ_t w_t · (z_start(y_t) − z(y_t)) / Σ_t w_t), raw
    logits z.

    The weight enters the mean over unwanted words, which are the tokens with a weight. `general` times the mean NLL of
    the row's other tokens is added; its default is 0 (the paper: 1), because a token of weight zero must move nothing
    unless that is asked for.
    """
    assert forget.hidden_ND is not None and forget.ref_hidden_ND is not None and forget.head is not None and forget.ref_head is not None
    target_N = labels(forget)
    with torch.no_grad():
        start_N = gold_logits(forget.ref_hidden_ND, forget.ref_head, target_N)
    fall_N = start_N - gold_logits(forget.hidden_ND, forget.head, target_N)
    total_B = row_sums(forget, forget.weight_N)
    loss = saturating(forget, row_sums(forget, forget.weight_N * fall_N) / safe(total_B), options["beta"])
    if not options["general"]:
        return loss
    other_N = ((forget.weight_N == 0) & (total_B > 0)[forget.row_N]).to(forget.logp_N.dtype)
    mean_B = row_sums(forget, other_N * -forget.logp_N) / safe(row_sums(forget, other_N))
    return loss + options["general"] * mean_B.sum()


def palu(forget: Tokens, partner: Tokens | None, options: Options, state: State) -> Tensor:
    """PALU (arXiv 2601.03190): Σ over rows of the weighted mean of flatness at the first tokens of each sensitive span
    + rest · mean KL(start ‖ θ) at the row's other tokens; flatness: mean over the start model's top K of (z − mean z)².

    A span is a run of neighbouring tokens with a weight; the weight scales the flattening of its first tokens. The KL
    reads no label.
    """
    assert forget.hidden_ND is not None and forget.ref_hidden_ND is not None
    head, ref_head = forget.head, forget.ref_head
    assert head is not None and ref_head is not None

    def flatness(z_CV: Tensor, ref_hidden_CD: Tensor) -> Tensor:
        with torch.no_grad():
            ids_CK = logits(ref_hidden_CD, ref_head).topk(min(int(options["top"]), z_CV.shape[1])).indices
        return z_CV.gather(1, ids_CK).var(-1, correction=0)

    def distance(z_CV: Tensor, ref_hidden_CD: Tensor) -> Tensor:
        with torch.no_grad():
            log_p_CV = logits(ref_hidden_CD, ref_head).log_softmax(-1)
        return kl(log_p_CV, z_CV.log_softmax(-1))

    first_N = span_starts(forget, int(options["first"]))
    other_N = ~first_N & (row_sums(forget, forget.weight_N) > 0)[forget.row_N]
    weight_N = torch.where(first_N, forget.weight_N, 0.0)
    loss = forget.hidden_ND.sum() * 0
    for chosen_N, weights_N, fn, factor in (
        (first_N, weight_N, flatness, 1.0),
        (other_N, other_N.to(weight_N.dtype), distance, options["rest"]),
    ):
        found = per_position(forget.hidden_ND[chosen_N], head, fn, forget.ref_hidden_ND[chosen_N])
        sums_B = torch.zeros(forget.rows, dtype=found.dtype, device=found.device)
        sums_B = sums_B.index_add(0, forget.row_N[chosen_N], weights_N[chosen_N].to(found.dtype) * found)
        loss = loss + factor * (sums_B / safe(row_sums(forget, weights_N))).sum()
    return loss


def span_starts(tokens: Tokens, first: int) -> Tensor:
    """[N] whether a token is one of the first `first` of a run of neighbours with a weight. Tokens are in order of row
    and place."""
    index_N = torch.arange(len(tokens.weight_N), device=tokens.weight_N.device)
    on_N = tokens.weight_N > 0
    joined_N = torch.zeros_like(on_N)
    joined_N[1:] = on_N[:-1] & (tokens.row_N[1:] == tokens.row_N[:-1]) & (tokens.place_N[1:] == tokens.place_N[:-1] + 1)
    if not len(index_N):
        return on_N
    begin_N = torch.where(on_N & ~joined_N, index_N, 0).cummax(0).values
    return on_N & (index_N - begin_N < first)


def labels(tokens: Tokens) -> Tensor:
    """[N] ids of the gold tokens; 0 where the weight is zero, whatever stands there."""
    return torch.where(tokens.weight_N > 0, tokens.target_N, 0)
