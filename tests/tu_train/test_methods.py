"""Losses against the formula written out row by row, and what a weight of zero means."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from shared.errors import ConfigError
from tu_train.methods import METHODS, find_method

LOGP = st.floats(-30, 0, allow_subnormal=False)
WEIGHT = st.one_of(st.just(0.0), st.just(1.0), st.floats(0.01, 8))
BETA = st.floats(0.02, 4)


@st.composite
def batches(draw):
    """(logp_N, ref_logp_N, weight_N, row_N, rows) in float64; a row may have no token."""
    rows = draw(st.integers(1, 4))
    lengths = draw(st.lists(st.integers(0, 5), min_size=rows, max_size=rows))
    row = [k for k, n in enumerate(lengths) for _ in range(n)]
    columns = [draw(st.lists(kind, min_size=len(row), max_size=len(row))) for kind in (LOGP, LOGP, WEIGHT)]
    return (*(torch.tensor(c, dtype=torch.float64) for c in columns), torch.tensor(row, dtype=torch.long), rows)


def brute_graddiff(logp, ref, weight, row, rows, beta):
    """Gradient ascent on the NLL of each weighted token: minus w · NLL, token by token."""
    return sum(-(w * -p) for w, p in zip(weight, logp, strict=True))


def brute_npo(logp, ref, weight, row, rows, beta):
    total = 0.0
    for wanted in range(rows):
        nll = sum(-w * p for w, p, r in zip(weight, logp, row, strict=True) if r == wanted)
        nll_ref = sum(-w * p for w, p, r in zip(weight, ref, row, strict=True) if r == wanted)
        total += -(2 / beta) * -float(np.logaddexp(0.0, -beta * (nll - nll_ref)))  # log σ(x) = −log(1 + e^−x)
    return total


BRUTE = {"graddiff": brute_graddiff, "npo": brute_npo}


def test_every_method_has_a_reference_here():
    assert set(BRUTE) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=60, deadline=None)
@given(batch=batches(), beta=BETA)
def test_loss_is_the_formula_row_by_row(name, batch, beta):
    *tensors, rows = batch
    expected = BRUTE[name](*(t.tolist() for t in tensors), rows, beta)
    assert METHODS[name].loss(*batch, beta).item() == pytest.approx(expected, rel=1e-11, abs=1e-11)


@settings(max_examples=60, deadline=None)
@given(batch=batches(), beta=BETA)
def test_npo_with_weights_of_one_is_the_sequence_level_loss(batch, beta):
    logp, ref, weight, row, rows = batch
    nll, nll_ref = ([-values[row == k].sum().item() for k in range(rows)] for values in (logp, ref))
    # −(2/β) log σ(β (NLL − NLL_ref)), NLL summed over the sequence
    literature = [2 / beta * float(np.logaddexp(0.0, -beta * (a - b))) for a, b in zip(nll, nll_ref, strict=True)]
    found = METHODS["npo"].loss(logp, ref, torch.ones_like(weight), row, rows, beta).item()
    assert found == pytest.approx(math.fsum(literature), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("name", METHODS)
def test_gradient_is_that_of_the_loss(name):
    generator = torch.Generator().manual_seed(0)
    row = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    logp = (-4 * torch.rand(8, generator=generator, dtype=torch.float64)).requires_grad_()
    ref = -4 * torch.rand(8, generator=generator, dtype=torch.float64)
    weight = torch.tensor([1.0, 0.0, 2.5, 1.0, 0.3, 0.0, 1.0, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: METHODS[name].loss(p, ref, weight, row, 3, 0.7), (logp,))


@pytest.mark.parametrize("name", METHODS)
def test_descent_lowers_the_probability_of_weighted_tokens(name):
    logp = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    weight = torch.tensor([1.0, 0.0, 3.0])
    METHODS[name].loss(logp, torch.full((3,), -1.5), weight, torch.tensor([0, 0, 1]), 2, 0.1).backward()
    assert logp.grad is not None
    assert (logp.grad[weight > 0] > 0).all() and (logp.grad[weight == 0] == 0).all()


def loss_and_gradient(name, logp, *rest):
    logp = logp.clone().requires_grad_()
    loss = METHODS[name].loss(logp, *rest)
    loss.backward()
    return loss.detach(), logp.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), batch=batches(), beta=BETA)
def test_a_token_of_weight_zero_moves_no_bit(name, dtype, data, batch, beta):
    """Another label shows in a loss as another log-probability, so `logp` and `ref_logp` there may be anything."""
    logp, ref, weight, row, rows = (t.to(dtype) if isinstance(t, torch.Tensor) and t.is_floating_point() else t for t in batch)
    anything = st.lists(st.floats(-1e6, 0), min_size=len(logp), max_size=len(logp))
    other_logp, other_ref = (
        torch.where(weight == 0, torch.tensor(data.draw(anything), dtype=dtype), values) for values in (logp, ref)
    )  # fmt: skip
    loss, gradient = loss_and_gradient(name, logp, ref, weight, row, rows, beta)
    changed, changed_gradient = loss_and_gradient(name, other_logp, other_ref, weight, row, rows, beta)
    assert torch.equal(loss, changed) and torch.equal(gradient, changed_gradient)
    assert not gradient[weight == 0].any()


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=30, deadline=None)
@given(batch=batches(), beta=BETA)
def test_tokens_of_weight_zero_may_be_left_out(name, batch, beta):
    logp, ref, weight, row, rows = batch
    kept = weight > 0
    whole, without = (METHODS[name].loss(logp[k], ref[k], weight[k], row[k], rows, beta) for k in (weight >= 0, kept))
    assert whole.item() == pytest.approx(without.item(), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=30, deadline=None)
@given(batch=batches(), beta=BETA)
def test_the_loss_of_rows_is_the_sum_of_each_alone(name, batch, beta):
    logp, ref, weight, row, rows = batch
    alone = 0.0
    for k in range(rows):
        mine = row == k
        alone += METHODS[name].loss(logp[mine], ref[mine], weight[mine], row[mine] - k, 1, beta).item()
    assert METHODS[name].loss(*batch, beta).item() == pytest.approx(alone, rel=1e-11, abs=1e-11)


def test_an_unknown_method_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"--method grad_diff: unknown \(did you mean 'graddiff'\?\)"):
        find_method("grad_diff")
