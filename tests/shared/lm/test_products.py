"""Products through oneDNN against torch's own, and everything that must stay torch's own."""

import pytest
import torch
import torch.nn.functional as F

from shared.lm import products
from shared.lm.products import FasterProducts, linear, multiply


@pytest.fixture
def counted(monkeypatch):
    """How many products oneDNN was given."""
    calls, own = [], products.onednn
    monkeypatch.setattr(products, "SMALL", 1 << 14)
    monkeypatch.setattr(products, "available", lambda: True)
    monkeypatch.setattr(products, "onednn", lambda *args: calls.append(args) or own(*args))
    return calls


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(400, 48), (1, 400, 48), (2, 200, 48)])
def test_a_linear_layer_and_its_gradients_are_those_of_torch(counted, shape, bias):
    torch.manual_seed(0)
    x, weight = torch.randn(shape, requires_grad=True), torch.randn(384, 48, requires_grad=True)
    inputs = [x, weight, *([torch.randn(384, requires_grad=True)] if bias else [])]
    upstream = torch.randn(*shape[:-1], 384)
    expected = torch.autograd.grad((F.linear(*inputs) * upstream).sum(), inputs)
    assert not counted
    found = torch.autograd.grad((linear(*inputs) * upstream).sum(), inputs)
    assert len(counted) == 3  # the layer, and the gradients of x and of the weight
    assert close(linear(*inputs), F.linear(*inputs))
    assert all(close(a, b) for a, b in zip(found, expected, strict=True))


def test_only_the_gradients_that_are_asked_for_are_computed(counted):
    x, weight = torch.randn(400, 48), torch.randn(384, 48, requires_grad=True)
    linear(x, weight).sum().backward()
    assert len(counted) == 2
    assert weight.grad is not None and x.grad is None


@pytest.mark.parametrize("layout", ["rows", "columns", "gaps"])
def test_any_layout_of_memory_is_multiplied_rightly(counted, layout):
    torch.manual_seed(1)
    wide = torch.randn(170, 100)
    a = {"rows": wide, "columns": torch.randn(100, 170).T, "gaps": torch.randn(170, 200)[:, ::2]}[layout]
    b = {"rows": wide.T.contiguous(), "columns": wide.T, "gaps": torch.randn(100, 340)[:, :170]}[layout]
    assert close(multiply(a, b), (a.double() @ b.double()).float())
    assert len(counted) == 1


@pytest.mark.parametrize("case", ["float64", "bfloat16", "meta", "no rows", "small weight", "autocast", "absent"])
def test_everything_else_stays_with_torch(counted, monkeypatch, case):
    dtype = {"float64": torch.float64, "bfloat16": torch.bfloat16}.get(case, torch.float32)
    x, weight = torch.randn(64, 48).to(dtype), torch.randn(384, 48).to(dtype)
    if case == "meta":
        x, weight = x.to("meta"), weight.to("meta")
    if case == "no rows":
        x = x[:0]
    if case == "small weight":
        weight = weight[:4]
    if case == "absent":
        monkeypatch.setattr(products, "available", lambda: False)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=case == "autocast"):
        found, expected = linear(x, weight), F.linear(x, weight)
    assert not counted
    assert found.dtype == expected.dtype and (case == "meta" or torch.equal(found, expected))


def test_a_few_rows_come_from_the_same_library_as_many(counted):
    torch.manual_seed(2)
    x, weight = torch.randn(64, 48), torch.randn(384, 48)
    many = linear(x, weight)
    assert all(close(linear(x[i : i + 1], weight), many[i : i + 1]) for i in range(64))
    assert len(counted) == 65


@pytest.mark.parametrize(
    ("capability", "maker", "expected"),
    [("AVX512", "AuthenticAMD", True), ("AVX512", "GenuineIntel", False), ("AVX512", "", False), ("AVX2", "AuthenticAMD", False)],
)
def test_onednn_computes_where_mkl_leaves_half_of_the_processor(monkeypatch, capability, maker, expected):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(products, "vendor", lambda: maker)
    assert products.available.__wrapped__() is expected


def test_inside_the_mode_every_linear_layer_takes_part_and_outside_none_does(counted):
    layer, x = torch.nn.Linear(48, 384), torch.randn(64, 48)
    plain = layer(x)
    assert not counted
    with FasterProducts():
        inside = layer(x)
        assert torch.equal(F.relu(inside), inside.clamp_min(0))  # other functions pass through
    assert len(counted) == 1 and close(inside, plain)
    layer(x)
    assert len(counted) == 1
