"""AdamW in few bytes: against torch's own, against rounding to nearest, and after a resume."""

import pytest
import torch

from tu_train.model import thrifty
from tu_train.model.optimizer import make_optimizer
from tu_train.model.thrifty import FORMS, ThriftyAdamW, moment_bytes, packed, rounded, unpacked

SHAPES = [(30, 50), (7,), (3, 1000)]


def trained(make, steps=20, dtype=torch.float32):
    chance = torch.Generator().manual_seed(1)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=chance).to(dtype)) for shape in SHAPES]
    optimizer = make(parameters)
    for _ in range(steps):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=chance).to(dtype)
        optimizer.step()
    return parameters, optimizer


def of(**fields):
    return lambda parameters: ThriftyAdamW(parameters, lr=1e-2, weight_decay=0.1, **fields)


@pytest.mark.parametrize("on_cpu", [False, True])
def test_in_float32_it_is_adamw(on_cpu, monkeypatch):
    monkeypatch.setattr(thrifty, "PIECE", 512)  # parameters of several pieces, the last one not whole
    mine, _ = trained(of(on_cpu=on_cpu))
    torchs, _ = trained(lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1))
    for a, b in zip(mine, torchs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("moments", "bound"), [("8bit", 0.05), ("4bit", 0.4)])
def test_few_bits_move_the_weights_about_as_far(moments, bound):
    begun, _ = trained(of(), steps=0)
    exact, _ = trained(of())
    rough, _ = trained(of(moments=moments))
    for start, a, b in zip(begun, exact, rough, strict=True):
        assert (a - b).norm() < bound * (a - start).norm()


@pytest.mark.parametrize("form", FORMS.values())
@pytest.mark.parametrize("name", ["m", "v"])
def test_rounding_of_moments_is_right_in_the_mean(form, name):
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(3 * form.block - 5, generator=chance) ** 3
    x = x if name == "m" else x.abs() + 0.2  # what is near zero is held up on purpose
    tries = [unpacked(*packed(x, form, name, chance), form, name)[: len(x)] for _ in range(2000)]
    assert (torch.stack(tries).mean(0) - x).abs().max() < 0.02 * x.abs().max()
    assert (tries[0].sign() * x.sign() >= 0).all()


def test_a_second_moment_does_not_become_zero():
    form, chance = FORMS["4bit"], torch.Generator()
    x = torch.cat([torch.full((100,), 1e-12), torch.ones(1), torch.zeros(27)])
    back = unpacked(*packed(x, form, "v", chance), form, "v")
    assert (back[:100] > 0).all() and (back[101:] == 0).all()


def test_rounding_to_bfloat16_is_right_in_the_mean_and_exact_where_it_can_be():
    chance, x = torch.Generator().manual_seed(0), torch.tensor([1.001, -1.001, 3e-5, 0.0])
    mean = torch.stack([rounded(x, chance).float() for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, x, rtol=5e-4, atol=0)
    exact = torch.randn(1000, generator=chance).bfloat16()
    assert torch.equal(rounded(exact.float(), chance), exact)


def test_small_updates_are_lost_by_rounding_to_nearest_alone():
    def moved(stochastic):
        weights = torch.nn.Parameter(torch.ones(4000, dtype=torch.bfloat16))
        optimizer = ThriftyAdamW([weights], lr=1e-5, weight_decay=0.0, stochastic=stochastic)
        for _ in range(20):
            weights.grad = torch.ones_like(weights)
            optimizer.step()
        return 1 - weights.float().mean().item()

    assert moved(stochastic=False) == 0
    assert moved(stochastic=True) == pytest.approx(20 * 1e-5, rel=0.3)


@pytest.mark.parametrize("moments", ["float32", "8bit", "4bit"])
def test_its_state_fills_what_is_said(moments):
    p = torch.nn.Parameter(torch.zeros(64, 512))
    state = ThriftyAdamW([p], lr=1.0, weight_decay=0.0, moments=moments).begin(p)
    assert sum(t.numel() * t.element_size() for name, t in state.items() if name != "step") == p.numel() * moment_bytes(moments)


def test_bfloat16_weights_are_rounded_by_chance_unless_asked_otherwise():
    p = [torch.nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))]
    made = make_optimizer(p, "adamw", learning_rate=1.0, weight_decay=0.0)
    assert isinstance(made, ThriftyAdamW) and made.stochastic
