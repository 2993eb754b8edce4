"""RMU: a loss of hidden states. Shapes and conventions as in losses.py; D width of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tu_train.methods.tokens import Options, State, Tokens


def rmu(forget: Tokens, partner: Tokens | None, options: Options, state: State) -> Tensor:
    """RMU (arXiv 2403.03218): Σ w · ‖h_t − c · u‖² / D at one block's output, u a fixed random unit vector.

    The weight scales each token's own distance: only tokens that matter are steered away. No label is read.
    """
    assert forget.layer_ND is not None
    h_ND = forget.layer_ND if forget.layer_ND.dtype == torch.float64 else forget.layer_ND.float()
    goal_D = options["steering"] * state["direction"].to(h_ND)
    return (forget.weight_N * (h_ND - goal_D).square().mean(-1)).sum()


def rmu_start(width: int, options: Options) -> State:
    """u: entries uniform in [0, 1) as in the paper, then length 1; kept in checkpoints."""
    u_D = torch.rand(width, generator=torch.Generator().manual_seed(int(options["seed"])))
    return {"direction": u_D / u_D.norm()}
