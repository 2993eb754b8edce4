"""Four-bit layers against a table look-up by hand and an ordinary layer."""

import torch
from torch import nn

from tu_train.model.nf4 import BLOCK, LEVELS, Nf4Linear


def test_each_weight_is_the_nearest_level_of_its_block():
    torch.manual_seed(0)
    layer = nn.Linear(32, 6)
    found = Nf4Linear(layer).weight.view(-1, BLOCK)
    for row, got in zip(layer.weight.detach().view(-1, BLOCK), found, strict=True):
        scale = row.abs().max()
        nearest = [min((level * scale for level in LEVELS), key=lambda v: abs(v - x)) for x in row]
        torch.testing.assert_close(got, torch.stack(nearest))


def test_products_and_gradients_are_those_of_the_rounded_layer():
    torch.manual_seed(0)
    layer = nn.Linear(64, 8)
    small = Nf4Linear(layer)
    layer.weight.data = small.weight
    xs = [torch.randn(3, 5, 64).requires_grad_() for _ in range(2)]
    xs[1].data = xs[0].data.clone()
    ys = [module(x) for module, x in zip((layer, small), xs, strict=True)]
    for y in ys:
        (y**2).sum().backward()
    torch.testing.assert_close(ys[0], ys[1])
    torch.testing.assert_close(xs[0].grad, xs[1].grad)


def test_the_levels_are_those_that_the_evaluator_derives():
    """The table of training was written down, that of the evaluator follows from quantiles of the normal
    distribution."""
    from tu_eval.measure.rounding import levels
    from tu_train.model.nf4 import LEVELS

    assert len(LEVELS) == 16
    assert all(abs(one - other) < 1e-6 for one, other in zip(LEVELS, levels(), strict=True))
