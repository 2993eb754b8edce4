"""The numerical core against brute force in float64: values, gradients, chunks, precision, the memory bound."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from shared.errors import ConfigError, ModelError
from shared.lm import logprobs
from shared.lm.logprobs import Head, HeadOptions, Sizes, head_of, score_positions, sizes, target_logprobs

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
    """Sets how many rows go through the head at once, and how much of the vocabulary."""
    return lambda rows, width=9: monkeypatch.setattr(logprobs, "sizes", lambda *_: Sizes(rows, width))


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


def brute_extras(hidden, head: Head, temperature: float, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tempered entropy, ids and log-probabilities of the k likeliest tokens: float64, sorted by (−log-probability,
    id)."""
    tempered, ids, top = [], [], []
    for z in head.logits(hidden).double():
        row = (z / temperature).log_softmax(-1)
        tempered.append(-(row.exp() * row).sum())
        logp = z.log_softmax(-1).tolist()
        ids.append(sorted(range(len(logp)), key=lambda i: (-logp[i], i))[:k])
        top.append([logp[i] for i in ids[-1]])
    return torch.stack(tempered), torch.tensor(ids), torch.tensor(top, dtype=torch.float64)


@heads
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("temperature", "k"), [(0.4, 1), (1.0, 5), (3.0, V)])
def test_tempered_entropy_and_top_tokens_equal_brute_force(entries, dtype, temperature, k, chunk_rows):
    chunk_rows(4)
    hidden, target, head = problem(entries, dtype)
    found = score_positions(hidden, target, head, HeadOptions(temperature=temperature, top_k=k))
    tempered, ids, top = brute_extras(hidden, head, temperature, k)
    bound = 1e-12 if dtype == torch.float64 else 1e-5
    assert (found.tempered - tempered).abs().max() < bound
    # tanh of equal numbers differs in the last bit between vector lanes and the rest, which swaps the ids of a soft
    # cap's ties
    logp = head.logits(hidden).double().log_softmax(-1)
    same = torch.equal(found.top_ids, ids) if head.softcap is None else (logp.gather(1, found.top_ids) - top).abs().max() < 1e-6
    assert same and all(len(set(row)) == k for row in found.top_ids.tolist())
    assert (found.top_logprobs - top).abs().max() < bound
    plain = score_positions(hidden, target, head)
    assert torch.equal(found.logprob, plain.logprob) and torch.equal(found.entropy, plain.entropy)
    assert plain[2:] == (None, None, None, None)
    assert temperature != 1 or (found.tempered - found.entropy).abs().max() < bound


@pytest.mark.parametrize("width", [4, 9, V])
@pytest.mark.parametrize("k", [1, 3, 10, V - 1, V])
def test_equal_log_probabilities_come_by_id(k, width, chunk_rows):
    """Logits of a few values only: ties inside the first k, across its border, and rows without any."""
    chunk_rows(20, width)
    generator = torch.Generator().manual_seed(3)
    logits = torch.cat([torch.randint(3, (40, V), generator=generator).float(), torch.rand(5, V, generator=generator), torch.zeros(2, V)])
    found = score_positions(logits, torch.zeros(len(logits), dtype=torch.long), Head(torch.eye(V)), HeadOptions(top_k=k))
    assert torch.equal(found.top_ids, brute_extras(logits, Head(torch.eye(V)), 1.0, k)[1])


@heads
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("width", [1, 5, V])
def test_second_moment_of_the_log_probability_equals_brute_force(entries, dtype, width, chunk_rows):
    chunk_rows(4, width)
    hidden, target, head = problem(entries, dtype)
    found = score_positions(hidden, target, head, HeadOptions(second=True)).second
    rows = head.logits(hidden).double().log_softmax(-1)
    assert (found - (rows.exp() * rows.square()).sum(-1)).abs().max() < (1e-11 if dtype == torch.float64 else 2e-5)


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
    extras = score_positions(hidden, target, Head(head.weight, bias), HeadOptions(temperature=0.5, top_k=V))
    assert (extras.tempered - brute_extras(hidden, Head(head.weight[allowed], bias[allowed]), 0.5, 1)[0]).abs().max() < 1e-5
    assert extras.top_ids[:, -2:].tolist() == [[0, 5]] * N
    assert (extras.top_logprobs[:, -2:] == -torch.inf).all() and extras.top_logprobs[:, :-2].isfinite().all()


def test_large_logits_neither_overflow_nor_lose_the_answer():
    hidden, target, head = problem({}, torch.float32)
    logp, entropy, *_ = score_positions(hidden * 1e4, target, head)
    assert logp.isfinite().all()
    assert entropy.isfinite().all()
    assert (entropy >= -1e-6).all()


def test_no_positions_give_empty_results():
    hidden, target, head = problem({})
    found = score_positions(hidden[:0], target[:0], head, HeadOptions(temperature=2.0, top_k=3))
    assert [tuple(v.shape) for v in found[:5]] == [(0,), (0,), (0,), (0, 3), (0, 3)]
    assert target_logprobs(hidden[:0], target[:0], head).shape == (0,)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_show_in_their_row_alone(value):
    hidden, target, head = problem({}, torch.float32)
    hidden[4, 2] = value
    found = score_positions(hidden, target, head)
    for values in found[:2]:
        assert values.isfinite().tolist() == [i != 4 for i in range(N)]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"chunk_mib": 0}, "head_mib is 0, expected at least 1"),
        ({"temperature": 0.0}, "entropy_temperature is 0.0, expected more than 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -1}, "topk is -1, expected 0 or more"),
    ],
)
def test_options_without_sense_are_refused(entries, message):
    with pytest.raises(ConfigError, match=message):
        HeadOptions(**entries)


def test_more_top_tokens_than_the_vocabulary_holds_are_refused():
    hidden, target, head = problem({})
    with pytest.raises(ConfigError, match=rf"topk is {V + 1}, but the model's vocabulary has {V} tokens"):
        score_positions(hidden, target, head, HeadOptions(top_k=V + 1))


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


def test_a_bfloat16_weight_gradient_is_summed_over_chunks_in_float32(chunk_rows):
    """Many small contributions: summed in bfloat16 they would be lost beside the sum so far (relative error 0.8
    here)."""
    chunk_rows(1)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.rand(2048, D, generator=generator).bfloat16() + 1
    weight, bias = torch.randn(V, D, generator=generator).bfloat16(), torch.zeros(V).bfloat16()
    target = torch.full((2048,), 3)
    results = []
    for dtype in (torch.bfloat16, torch.float64):
        inputs = [x.to(dtype).requires_grad_() for x in (weight, bias)]
        logp = target_logprobs(hidden.to(dtype), target, Head(*inputs))
        results.append([g.double() for g in torch.autograd.grad(logp.sum(), inputs)])
    for found, expected in zip(*results, strict=True):
        assert ((found - expected).norm() / expected.norm()) < 0.005


# --- memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("count", [1, 40, 5000])
@pytest.mark.parametrize(("vocabulary", "mib"), [(1 << 20, 1), (1 << 20, 12), (1 << 17, 64), (49152, 64), (1 << 10, 10)])
def test_temporaries_are_planned_within_the_bound(dtype, device, count, vocabulary, mib):
    size = sizes(torch.zeros(0, dtype=dtype, device=device), count, vocabulary, mib)
    wide, narrow = (8, 0) if dtype == torch.float64 else (4, 2 if dtype == torch.bfloat16 else 0)
    assert 1 <= size.rows <= count and 1 <= size.width <= vocabulary
    assert size.rows * size.width * (narrow + 2 * wide + 1) <= mib << 20
    assert size.width >= min(vocabulary, 1024)
    covered = [i for block in size.blocks(vocabulary) for i in range(block.start, block.stop)]
    assert covered == list(range(vocabulary))


def test_no_more_logits_than_the_bound_ever_exist(monkeypatch):
    made: list[torch.Size] = []
    product = Head.product

    def counted(*arguments):
        z = product(*arguments)
        made.append(z.shape)
        return z

    monkeypatch.setattr(Head, "product", counted)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40_000, 2, generator=generator)
    hidden, target = torch.randn(200, 2, generator=generator, requires_grad=True), torch.arange(200)
    score_positions(hidden, target, Head(weight), HeadOptions(chunk_mib=1))
    once = list(made)
    assert sum(shape.numel() for shape in once) == 200 * 40_000
    assert max(shape.numel() for shape in once) * 11 <= 1 << 20
    target_logprobs(hidden, target, Head(weight), chunk_mib=1).sum().backward()
    assert made == once * 3  # forward and, computed again, backward


MEASURE = """
import json, sys
import torch
from shared.lm.logprobs import Head, HeadOptions, score_positions, target_logprobs

torch.set_num_threads(1)
dtype, mib, D, V, N = getattr(torch, sys.argv[1]), int(sys.argv[2]), 64, 131072, 320
weight, hidden, target = torch.randn(V, D).to(dtype), torch.randn(N, D).to(dtype), torch.randint(V, (N,))

def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024

def growth(action):
    action(4)  # what libraries allocate once
    open("/proc/self/clear_refs", "w").write("5")  # forgets the high-water mark
    before = status("VmRSS")
    action(N)
    return status("VmHWM") - before

def score(rows):
    score_positions(hidden[:rows], target[:rows], Head(weight), HeadOptions(mib, 2.0, 10))

def train(rows, learns_weight):
    h, w = hidden[:rows].clone().requires_grad_(), weight.detach().requires_grad_(learns_weight)
    target_logprobs(h, target[:rows], Head(w, softcap=30.0), chunk_mib=mib).sum().backward()

print(json.dumps([growth(score), growth(lambda n: train(n, False)), growth(lambda n: train(n, True))]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resident memory is read from Linux's /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_peak_memory_stays_within_the_bound_for_a_vocabulary_of_128k(dtype):
    """320 rows of logits are 160 MiB in float32. Freed blocks go back to the system at once here: resident memory is
    what is in use."""
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}

    def measure(mib: int) -> list[float]:
        command = [sys.executable, "-c", MEASURE, dtype, str(mib)]
        return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)

    slack = 4  # MiB: 2 of torch.topk, results, the allocator
    gradient = 32 if dtype == "float32" else 80  # MiB of the weight's; low precision sums it in float32
    score, train, train_weight = measure(64)
    assert score < 64 + slack and train < 64 + slack and train_weight < 64 + slack + gradient
    if dtype == "float32":
        assert measure(64)[0] > 4  # what is measured is there


# --- the head of a model


@pytest.mark.parametrize("architecture", ["Llama", "GPT2", "Gemma2"])
def test_the_head_of_a_model_gives_its_own_logits(make_tiny, architecture):
    from shared.lm.models import load_model

    model = load_model(make_tiny(architecture), dtype=torch.float32, device=torch.device("cpu"))
    out = model(torch.arange(9)[None], output_hidden_states=True)
    assert (head_of(model).logits(out.hidden_states[-1][0]) - out.logits[0]).abs().max() < 1e-5
    assert (head_of(model).softcap is not None) == (architecture == "Gemma2")


def test_a_model_without_a_head_is_refused(tiny_model):
    from transformers import AutoModel

    with pytest.raises(ModelError, match="LlamaModel has no output embedding"):
        head_of(AutoModel.from_pretrained(tiny_model))
