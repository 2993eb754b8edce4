"""Chunks through the head against plain autograd on the full matrix."""

import pytest
import torch

from shared.lm.logprobs import Head
from tu_train.methods import logits
from tu_train.methods.logits import gold_logits, per_position

N, D, V = 9, 4, 40_000


def problem(vocabulary, **entries):
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((N, D), (vocabulary, D), (vocabulary,))]
    hidden, weight, bias = (v.requires_grad_() for v in values)
    return hidden, weight, bias, torch.arange(N)


@pytest.mark.parametrize("entries", [{}, {"scale": 0.5}, {"softcap": 3.0}])
def test_values_and_gradients_are_those_of_the_full_matrix(entries):
    hidden, weight, bias, target = problem(11)
    z = (hidden @ weight.T + bias) * entries.get("scale", 1.0)
    z = z if "softcap" not in entries else entries["softcap"] * (z / entries["softcap"]).tanh()
    expected = z.log_softmax(-1)[torch.arange(N), target] + z.amax(-1)

    def fn(z_CV, target_C):
        return z_CV.log_softmax(-1).gather(1, target_C[:, None])[:, 0] + z_CV.amax(-1)

    head = Head(weight, bias, **entries)
    found = per_position(hidden, head, fn, target)
    assert (found - expected).abs().max() < 1e-12
    for a, b in zip(*(torch.autograd.grad(x.square().sum(), (hidden, weight, bias)) for x in (found, expected)), strict=True):
        assert (a - b).abs().max() < 1e-10
    assert (gold_logits(hidden, head, target) - logits.logits(hidden, head)[torch.arange(N), target]).abs().max() < 1e-12


def test_chunks_bound_what_exists_and_change_nothing():
    hidden, weight, bias, _ = problem(V)
    seen = []

    def fn(z_CV):
        seen.append(len(z_CV))
        return z_CV.logsumexp(-1)

    head = Head(weight, bias)
    parts, whole = per_position(hidden, head, fn, chunk_mib=4), per_position(hidden, head, fn, chunk_mib=1000)
    assert seen == [2, 2, 2, 2, 1, N]  # 4 MiB / (40,000 · 8 bytes · 6)
    gradients = [torch.autograd.grad(x.square().sum(), (hidden, weight)) for x in (parts, whole)]
    assert (parts - whole).abs().max() < 1e-12 and all((a - b).abs().max() < 1e-9 for a, b in zip(*gradients, strict=True))


def test_no_positions_give_no_values():
    hidden, weight, bias, _ = problem(11)
    assert per_position(hidden[:0], Head(weight, bias), lambda z: z.sum(-1)).shape == (0,)
