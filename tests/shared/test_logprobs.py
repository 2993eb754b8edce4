"""The numerical core against brute force in float64: values, gradients, chunks, precision, the memory bound."""

import pytest
import torch

from shared import logprobs
from shared.errors import ModelError
from shared.logprobs import Head, HeadOptions, head_of, rows_per_chunk, score_positions, target_logprobs

N, D, V = 11, 7, 23
HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "scale": {"scale": 0.3},
    "softcap": {"softcap": 2.0},
    "all": {"bias": True, "scale": 1.7, "softcap": 1.5},
}
heads = pytest.mark.parametrize("entries", HEADS.values(), ids=HEADS)
CHUNK_ROWS = (1, 3, 4, N, N + 1)


@pytest.fixture
def chunk_rows(monkeypatch):
    """Sets how many rows go through the head at once."""
    return lambda rows: monkeypatch.setattr(logprobs, "rows_per_chunk", lambda *_, **__: rows)


def problem(entries: dict, dtype=torch.float64, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Head]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, D, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(V, D, generator=generator, dtype=torch.float64).to(dtype)
    bias = torch.randn(V, generator=generator, dtype=torch.float64).to(dtype) if entries.get("bias") else None
    target = torch.randint(V, (N,), generator=generator)
    return hidden, target, Head(weight, bias, entries.get("scale", 1.0), entries.get("softcap"))


def brute_force(hidden, target, head: Head) -> tuple[torch.Tensor, torch.Tensor]:
    """log_softmax in float64, one row after the other."""
    logp, entropy = [], []
    for h, t in zip(hidden.double(), target.tolist(), strict=True):
        z = head.weight.double() @ h
        if head.bias is not None:
            z = z + head.bias.double()
        z = z * head.scale
        if head.softcap is not None:
            z = head.softcap * torch.tanh(z / head.softcap)
        row = z.log_softmax(-1)
        logp.append(row[t])
        entropy.append(-(row.exp() * row).sum())
    return torch.stack(logp), torch.stack(entropy)


# --- values


@heads
def test_score_positions_equals_brute_force(entries):
    hidden, target, head = problem(entries)
    logp, entropy, *_ = score_positions(hidden, target, head)
    expected_logp, expected_entropy = brute_force(hidden, target, head)
    assert logp.dtype == entropy.dtype == torch.float64
    assert (logp - expected_logp).abs().max() < 1e-12
    assert (entropy - expected_entropy).abs().max() < 1e-12


@heads
def test_float32_stays_close_to_float64(entries):
    hidden, target, head = problem(entries, torch.float32)
    for found, expected in zip(score_positions(hidden, target, head)[:2], brute_force(hidden, target, head), strict=True):
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() < 1e-5


@heads
def test_target_logprobs_equals_score_positions(entries):
    hidden, target, head = problem(entries)
    assert torch.equal(target_logprobs(hidden, target, head), score_positions(hidden, target, head)[0])


@heads
def test_low_precision_weights_give_float32_results_summed_in_float32(entries):
    hidden, target, head = problem(entries, torch.bfloat16)
    logp, entropy, *_ = score_positions(hidden, target, head)
    differentiable = target_logprobs(hidden, target, head)
    assert logp.dtype == entropy.dtype == differentiable.dtype == torch.float32
    # Only the product is rounded to bfloat16: from its logits on, the result is exact to float32.
    z = head.logits(hidden).double()
    assert (logp - z.log_softmax(-1).gather(1, target[:, None])[:, 0]).abs().max() < 1e-5
    assert (entropy + (z.softmax(-1) * z.log_softmax(-1)).sum(-1)).abs().max() < 1e-5
    assert torch.equal(differentiable, logp)


def test_entropy_of_known_distributions():
    uniform, _ = torch.zeros(1, D), None
    head = Head(torch.randn(V, D))
    logp, entropy, *_ = score_positions(uniform, torch.tensor([3]), head)
    assert logp.item() == pytest.approx(-torch.tensor(V).log().item(), abs=1e-6)
    assert entropy.item() == pytest.approx(torch.tensor(V).log().item(), abs=1e-6)
    certain = Head(torch.zeros(V, D), torch.tensor([0.0] * 3 + [200.0] + [0.0] * (V - 4)))
    logp, entropy, *_ = score_positions(uniform, torch.tensor([3]), certain)
    assert logp.item() == pytest.approx(0, abs=1e-6)
    assert entropy.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forbidden_tokens_leave_the_entropy_finite(dtype):
    hidden, target, head = problem({"bias": True}, dtype)
    bias = head.bias.clone()
    bias[[0, 5]] = -torch.inf
    target = target.clone()
    target[:3], target[3] = 1, 5
    allowed = [i for i in range(V) if i not in (0, 5)]
    logp, entropy, *_ = score_positions(hidden, target, Head(head.weight, bias))
    _, expected = brute_force(hidden, torch.zeros_like(target), Head(head.weight[allowed], bias[allowed]))
    assert logp[3] == -torch.inf
    assert (entropy - expected).abs().max() < 1e-5


def test_large_logits_neither_overflow_nor_lose_the_answer():
    hidden, target, head = problem({}, torch.float32)
    logp, entropy, *_ = score_positions(hidden * 1e4, target, head)
    assert logp.isfinite().all()
    assert entropy.isfinite().all()
    assert (entropy >= -1e-6).all()


def test_no_positions_give_empty_results():
    hidden, target, head = problem({})
    logp, entropy, *_ = score_positions(hidden[:0], target[:0], head)
    assert logp.shape == entropy.shape == target_logprobs(hidden[:0], target[:0], head).shape == (0,)


# --- gradients


@heads
@pytest.mark.parametrize("rows", [3, N])
def test_gradcheck_across_chunk_borders(entries, rows, chunk_rows):
    chunk_rows(rows)
    hidden, target, head = problem(entries)
    inputs = [x.requires_grad_() for x in (hidden, head.weight, head.bias) if x is not None]

    def function(hidden, weight, bias=None):
        return target_logprobs(hidden, target, Head(weight, bias, head.scale, head.softcap))

    assert torch.autograd.gradcheck(function, inputs)


@heads
def test_gradients_equal_those_of_plain_autograd(entries):
    hidden, target, head = problem(entries)
    inputs = [x.requires_grad_() for x in (hidden, head.weight, head.bias) if x is not None]
    weights = torch.linspace(-1, 2, N, dtype=torch.float64)
    found = torch.autograd.grad((target_logprobs(hidden, target, head) * weights).sum(), inputs)
    expected = torch.autograd.grad((brute_force(hidden, target, head)[0] * weights).sum(), inputs)
    assert all((f - e).abs().max() < 1e-10 for f, e in zip(found, expected, strict=True))


def test_only_what_needs_a_gradient_gets_one():
    hidden, target, head = problem({"bias": True})
    hidden.requires_grad_()
    target_logprobs(hidden, target, head).sum().backward()
    assert hidden.grad is not None
    assert head.weight.grad is head.bias.grad is None


@heads
@pytest.mark.parametrize("rows", CHUNK_ROWS)
def test_the_chunk_size_changes_neither_values_nor_gradients(entries, rows, chunk_rows):
    results = []
    for size in (N, rows):
        chunk_rows(size)
        hidden, target, head = problem(entries)
        inputs = [x.requires_grad_() for x in (hidden, head.weight, head.bias) if x is not None]
        logp = target_logprobs(hidden, target, head)
        gradients = torch.autograd.grad(logp.square().sum(), inputs)
        results.append([*score_positions(hidden.detach(), target, head)[:2], logp.detach(), *gradients])
    assert all((whole - parts).abs().max() < 1e-12 for whole, parts in zip(*results, strict=True))


# --- memory


@pytest.mark.parametrize(("vocabulary", "mib", "rows"), [(1 << 20, 12, 1), (1 << 20, 1, 1), (1 << 10, 10, 1024), (49152, 64, 136)])
def test_rows_per_chunk_keep_the_temporaries_within_the_bound(vocabulary, mib, rows):
    assert rows_per_chunk(vocabulary, mib) == rows
    assert rows == 1 or rows * vocabulary * (4 + 4 + 2) <= mib << 20


def test_no_more_rows_than_the_bound_ever_pass_the_head(monkeypatch):
    sizes = []
    logits = Head.logits
    monkeypatch.setattr(Head, "logits", lambda self, hidden: sizes.append(len(hidden)) or logits(self, hidden))
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40_000, 2, generator=generator)
    hidden, target = torch.randn(9, 2, generator=generator, requires_grad=True), torch.arange(9)
    score_positions(hidden, target, Head(weight), HeadOptions(chunk_mib=1))
    assert sizes == [2, 2, 2, 2, 1]
    target_logprobs(hidden, target, Head(weight), chunk_mib=1).sum().backward()
    assert sizes == [2, 2, 2, 2, 1] * 3  # forward and, computed again, backward


# --- the head of a model


@pytest.mark.parametrize("architecture", ["Llama", "GPT2", "Gemma2"])
def test_the_head_of_a_model_gives_its_own_logits(make_tiny, architecture):
    from shared.models import load_model

    model = load_model(make_tiny(architecture), dtype=torch.float32, device=torch.device("cpu"))
    out = model(torch.arange(9)[None], output_hidden_states=True)
    assert (head_of(model).logits(out.hidden_states[-1][0]) - out.logits[0]).abs().max() < 1e-5
    assert (head_of(model).softcap is not None) == (architecture == "Gemma2")


def test_a_model_without_a_head_is_refused(tiny_model):
    from transformers import AutoModel

    with pytest.raises(ModelError, match="LlamaModel has no output embedding"):
        head_of(AutoModel.from_pretrained(tiny_model))
