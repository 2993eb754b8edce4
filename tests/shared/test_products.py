"""Float32 products through oneDNN: the numbers of PyTorch's own, and everything else left to it."""

import io

import pytest
import torch
import torch.nn.functional as F

from shared import products
from shared.models import load_model

CPU = torch.device("cpu")


@pytest.fixture
def onednn(monkeypatch):
    """As on a processor where it is chosen; counts the products that went there."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of PyTorch has no oneDNN")
    calls, product = [], torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(products, "use_onednn", lambda: True)
    monkeypatch.setattr(products, "_product", lambda x, weight, bias: calls.append(x.shape) or product(x, weight, bias, "none", [], ""))
    return calls


@pytest.mark.parametrize("shape", [(7, 33), (2, 5, 33), (0, 33), (33,)])
@pytest.mark.parametrize("biased", [True, False])
def test_numbers_are_those_of_double_precision(onednn, shape, biased):
    x, weight, bias = torch.randn(shape), torch.randn(50, 33), torch.randn(50) if biased else None
    with torch.no_grad():
        found = products.linear(x, weight, bias)
        strided = products.linear(x, torch.randn(33, 50).T.copy_(weight)[:20], None if bias is None else bias[:20])
    expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert len(onednn) == 2
    assert found.shape == expected.shape and found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, atol=1e-4) and torch.allclose(strided.double(), expected[..., :20], atol=1e-4)


def test_gradients_autocast_and_low_precision_are_left_to_pytorch(onednn):
    x, weight = torch.randn(4, 8), torch.randn(6, 8, requires_grad=True)
    products.linear(x, weight).sum().backward()
    assert torch.allclose(weight.grad, x.sum(0).expand(6, 8))
    with torch.no_grad():
        assert products.linear(x.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16
        assert products.linear(x.double(), weight.double()).dtype == torch.float64
        with torch.autocast("cpu", torch.bfloat16):
            assert products.linear(x, weight).dtype == torch.bfloat16
        assert not onednn
        products.linear(x, weight)
    assert len(onednn) == 1


def test_a_model_computes_the_same_and_is_saved_the_same(onednn, tiny_model):
    plain, fast = (load_model(tiny_model, dtype=torch.float32, device=CPU) for _ in range(2))
    products.speed_up(fast)
    ids = torch.arange(4, 40)[None]
    with torch.no_grad():
        expected, found = plain(ids).logits, fast(ids).logits
    assert onednn and (found - expected).abs().max() < 1e-4
    saved = [io.BytesIO(), io.BytesIO()]
    for model, file in zip((plain, fast), saved, strict=True):
        torch.save(model.state_dict(), file)
    assert saved[0].getvalue() == saved[1].getvalue()
    fast(ids).logits.sum().backward()
    plain(ids).logits.sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(plain.parameters(), fast.parameters(), strict=True))


@pytest.mark.parametrize(
    ("vendor", "capability", "chosen"),
    [("AuthenticAMD", "AVX512", True), ("GenuineIntel", "AVX512", False), ("AuthenticAMD", "AVX2", False), ("", "AVX512", False)],
)
def test_the_processor_alone_decides(monkeypatch, vendor, capability, chosen):
    monkeypatch.setattr(products, "_vendor", lambda: vendor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert products.use_onednn.__wrapped__() is chosen
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not products.use_onednn.__wrapped__()
