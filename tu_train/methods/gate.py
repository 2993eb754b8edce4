"""ATWU (arXiv 2606.06320): a learned gate g_t = σ(v · [h_t, 1]) on the final hidden states says how much each token is
pushed.

The gate has its own SGD, apart from the model's AdamW. Each pass adds up what the gate's gradient needs (it is short
enough to be written out); `gate_after` makes the step, so the number of passes of a step changes no result. The gate
minimises

    Σ w · forget / Σ w  +  entropy · Σ w · H(g) / Σ w  +  pull · (Σ w · g / Σ w − budget)²  +  decay · ‖v‖²
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tu_train.methods.losses import gold

if TYPE_CHECKING:
    from tu_train.methods.tokens import Options, State, Tokens


def atwu(forget: Tokens, partner: Tokens | None, options: Options, state: State) -> Tensor:
    """Σ −u · sg(e^(−βu)), u = w · g · NLL. The stored weight multiplies the gate: both say how much a token matters.

    The model sees the gate as a constant: it cannot lower its loss by moving hidden states to where the gate is shut.
    """
    assert forget.hidden_ND is not None
    nll_N = -gold(forget)
    h_ND = torch.cat([forget.hidden_ND.detach().to(nll_N.dtype), torch.ones_like(nll_N)[:, None]], 1)
    x_N = (h_ND * state["gate"].to(h_ND)).sum(-1)  # no matrix product: autocast would make it bfloat16
    g_N = x_N.sigmoid()
    u_N = forget.weight_N * g_N * nll_N
    damping_N = (-options["beta"] * u_N).exp().detach()
    if torch.is_grad_enabled():
        _add_up(forget.weight_N, nll_N.detach(), h_ND, x_N, g_N, damping_N, options, state)
    return -(u_N * damping_N).sum()


def _add_up(w_N: Tensor, nll_N: Tensor, h_ND: Tensor, x_N: Tensor, g_N: Tensor, damping_N: Tensor, options: Options, state: State) -> None:
    """Sums over tokens; dg/dv = g(1 − g) · [h, 1], dH/dg = −x."""
    slope_N = w_N * g_N * (1 - g_N)
    own_N = -nll_N * damping_N - options["entropy"] * x_N
    state["slope"] += ((slope_N * own_N)[:, None] * h_ND).sum(0).to(state["slope"])
    state["mean_slope"] += (slope_N[:, None] * h_ND).sum(0).to(state["slope"])
    state["sums"] += torch.stack([(w_N * g_N).sum(), w_N.sum()]).to(state["sums"])


def gate_start(width: int, options: Options) -> State:
    """Every gate at one half."""
    names = ("gate", "momentum", "slope", "mean_slope")
    return {**{name: torch.zeros(width + 1) for name in names}, "sums": torch.zeros(2), "steps": torch.zeros(1)}


def gate_after(state: State, entry: dict[str, float], options: Options) -> None:
    """One step of SGD with momentum every `every` steps of the model."""
    state["steps"] += 1
    open_sum, total = state["sums"].tolist()
    if total > 0 and state["steps"].item() % options["every"] == 0:
        pull = 2 * options["pull"] * (open_sum / total - options["budget"])
        gradient = (state["slope"] + pull * state["mean_slope"]) / total + 2 * options["decay"] * state["gate"]
        state["momentum"].mul_(options["momentum"]).add_(gradient)
        state["gate"].sub_(options["rate"] * state["momentum"])
    for name in ("slope", "mean_slope", "sums"):
        state[name].zero_()
