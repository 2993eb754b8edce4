"""Retain terms against loops in plain Python."""

import math
from dataclasses import replace

import pytest
import torch

from shared.errors import ConfigError
from shared.lm.logprobs import Head
from tu_train.config import UnlearnConfig
from tu_train.methods import retain_terms as retain
from tu_train.methods.table import METHODS
from tu_train.methods.tokens import Tokens

N, D, V = 6, 3, 9


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(0)
    sizes = {"hidden": (N, D), "ref_hidden": (N, D), "head": (V, D), "ref_head": (V, D), "layer": (N, D), "ref_layer": (N, D), "logp": (N,)}
    v = {k: torch.randn(*s, generator=generator, dtype=torch.float64) for k, s in sizes.items()}
    index = torch.arange(N)
    return Tokens(
        -v["logp"].abs(), torch.ones(N), index * 0, index, index, 1, hidden_ND=v["hidden"].requires_grad_(), head=Head(v["head"]),
        ref_hidden_ND=v["ref_hidden"], ref_head=Head(v["ref_head"]), layer_ND=v["layer"].float(), ref_layer_ND=v["ref_layer"].float(),
    )  # fmt: skip


def distributions(tokens):
    p = (tokens.ref_hidden_ND @ tokens.ref_head.weight.T).softmax(-1)
    return p, (tokens.hidden_ND @ tokens.head.weight.T).softmax(-1)


def keep_top(tokens, k):
    top = distributions(tokens)[0].log().topk(k)
    tokens.top_ids_NK, tokens.top_logp_NK = top.indices.int(), top.values


def test_nll_and_layer_are_sums_over_tokens(tokens):
    assert retain.nll(tokens, {}).item() == pytest.approx(-sum(tokens.logp_N.tolist()), rel=1e-12)
    pairs = zip(tokens.layer_ND.tolist(), tokens.ref_layer_ND.tolist(), strict=True)
    expected = sum(sum((a - b) ** 2 for a, b in zip(h, h0, strict=True)) / D for h, h0 in pairs)
    assert retain.layer(tokens, {}).item() == pytest.approx(expected, rel=1e-5)


def test_kl_is_start_against_model_and_its_gradient_that_of_cross_entropy(tokens):
    p, q = distributions(tokens)
    expected = sum(a * math.log(a / b) for x, y in zip(p.tolist(), q.tolist(), strict=True) for a, b in zip(x, y, strict=True))
    found = retain.kl(tokens, {})
    assert found.item() == pytest.approx(expected, rel=1e-10)
    (gradient,) = torch.autograd.grad(found, tokens.hidden_ND)
    assert (gradient - (q - p) @ tokens.head.weight).abs().max() < 1e-10


@pytest.mark.parametrize("k", [1, 3, V])
def test_top_k_kl_takes_the_rest_as_one_token(tokens, k):
    keep_top(tokens, k)
    p, q = distributions(tokens)
    expected = 0.0
    for x, y, ids in zip(p.tolist(), q.tolist(), tokens.top_ids_NK.tolist(), strict=True):
        expected += sum(x[i] * math.log(x[i] / y[i]) for i in ids)
        rest, rest_q = (sum(a for i, a in enumerate(values) if i not in ids) for values in (x, y))
        expected += rest * math.log(rest / rest_q) if k < V else 0.0
    found = retain.kl_topk(tokens, {})
    assert found.item() == pytest.approx(expected, rel=1e-9)
    assert found.item() <= retain.kl(tokens, {}).item() + 1e-9
    mass = [1 - sum(x[i] for i in ids) for x, ids in zip(p.tolist(), tokens.top_ids_NK.tolist(), strict=True)]
    assert retain.outside(tokens.top_logp_NK).tolist() == pytest.approx(mass, abs=1e-12)
    (gradient,) = torch.autograd.grad(found, tokens.hidden_ND)
    assert gradient.isfinite().all() and gradient.any()


def test_a_method_may_not_have_the_term_that_comes_with_a_retain_store():
    with pytest.raises(ValueError, match="retain is 'kl_topk', expected one of nll, kl, layer, none"):
        replace(METHODS["npo"], retain="kl_topk")


def test_every_method_has_a_term_of_the_table_and_settings_may_name_those_that_need_no_other():
    assert {m.retain for m in METHODS.values()} <= {*retain.RETAIN_TERMS, retain.NONE}
    for name in ("nll", "kl", "none"):
        retain.check_retain_term(name)
    for name in ("kl_topk", "layer", "nlll"):
        with pytest.raises(ConfigError, match=f"retain_term: got '{name}'"):
            retain.check_retain_term(name)
    with pytest.raises(ConfigError, match=r"retain_term: got 'nlll'.*did you mean 'nll'"):
        UnlearnConfig(model="m", scores="s", retain="r", out="o", retain_term="nlll")
