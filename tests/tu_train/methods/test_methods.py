"""Every method against its formula in plain Python (float64, token by token), its gradient by differences, and weights
of zero."""

import math
from dataclasses import replace

import pytest
import torch

from shared.errors import ConfigError
from shared.lm.logprobs import Head
from tu_train.methods.table import METHODS, check_options, find_method, trained_globs
from tu_train.methods.tokens import Tokens

D, V, B = 3, 7, 3
ROW = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
PLACE = [0, 1, 2, 3, 0, 1, 2, 0, 1, 2]
N = len(ROW)
MIXED = [1.0, 0.0, 2.5, 0.7, 0.3, 1.0, 0.0, 0.0, 0.0, 0.0]
"""the last row has no weight"""
OPTIONS = {"palu": {"top": 4, "first": 2, "rest": 0.5}, "rmu": {"layer": 1}}


def random(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(weights, seed=0):
    """(forget, partner) with every field that any method reads."""
    targets = torch.randint(V, (N,), generator=torch.Generator().manual_seed(seed + 8))
    forget = Tokens(
        -3 * random(N, seed=seed + 1).abs() - 0.05, torch.tensor(weights, dtype=torch.float64), torch.tensor(ROW), torch.tensor(PLACE),
        targets, B, ref_logp_N=-3 * random(N, seed=seed + 2).abs() - 0.05, hidden_ND=random(N, D, seed=seed + 3),
        head=Head(random(V, D, seed=seed + 4)), ref_hidden_ND=random(N, D, seed=seed + 5), ref_head=Head(random(V, D, seed=seed + 6)),
        layer_ND=random(N, D, seed=seed + 7),
    )  # fmt: skip
    partner = Tokens(
        -random(5, seed=seed + 9).abs(), torch.ones(5, dtype=torch.float64), torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 1, 0, 0, 1]),
        torch.zeros(5, dtype=torch.long), B, ref_logp_N=-random(5, seed=seed + 10).abs(),
    )  # fmt: skip
    return forget, partner


def state_of(name, options):
    method = METHODS[name]
    return method.start(D, options) if method.start else {}


def found(name, forget, partner, options=None):
    """Loss, and gradients of each differentiable input."""
    options = check_options(name, OPTIONS.get(name, {}) if options is None else options)
    state = state_of(name, options)
    if name == "atwu":
        state["gate"] = torch.tensor([0.4, -0.2, 0.3, 0.1], dtype=torch.float64)
    inputs = {f: getattr(forget, f).clone().requires_grad_() for f in ("logp_N", "hidden_ND", "layer_ND")}
    win = partner.logp_N.clone().requires_grad_()
    weight = forget.head.weight.clone().requires_grad_()
    loss = METHODS[name].loss(replace(forget, **inputs, head=Head(weight)), replace(partner, logp_N=win), options, state)
    variables = [*inputs.values(), win, weight]
    gradients = torch.autograd.grad(loss, variables, allow_unused=True) if loss.requires_grad else [None] * 5
    return loss.detach(), [torch.zeros_like(v) if g is None else g for v, g in zip(variables, gradients, strict=True)], state


# --- the formulas, in plain Python. x: current values, c: the same as constants, what sg() takes


def softmax(z):
    top = max(z)
    total = sum(math.exp(a - top) for a in z)
    return [math.exp(a - top) / total for a in z]


def dots(h, head):
    return [sum(a * b for a, b in zip(h, row, strict=True)) for row in head]


def ce(p, z):
    return -sum(a * math.log(b) for a, b in zip(p, softmax(z), strict=True))


def per_token(own):
    def brute(x, c, o):
        return sum(x["w"][t] * own(c, t, o) * x["logp"][t] for t in range(N))

    return brute


def rows(x, kind=None):
    """[(row, its tokens with a weight)], rows that have any."""
    out = [(k, [t for t in range(N) if ROW[t] == k and x["w"][t] > 0]) for k in range(B)]
    return [(k, ts) for k, ts in out if ts]


def sigmoid_loss(v, beta):
    return -2 / beta * math.log(1 / (1 + math.exp(-beta * v)))


def ratio(x, ts):
    return sum(x["w"][t] * (x["logp"][t] - x["ref"][t]) for t in ts)


def b_npo(x, c, o):
    return sum(sigmoid_loss(-ratio(x, ts), o["beta"]) for _, ts in rows(x))


def b_simnpo(x, c, o):
    return sum(
        sigmoid_loss(-sum(x["w"][t] * x["logp"][t] for t in ts) / sum(x["w"][t] for t in ts) - o["delta"], o["beta"]) for _, ts in rows(x)
    )


def b_dpo(x, c, o):
    total = 0.0
    for k, ts in rows(x):
        win = sum(a - b for a, b, r in zip(x["win"], x["win_ref"], x["win_row"], strict=True) if r == k)
        total += sigmoid_loss(win - ratio(x, ts), o["beta"])
    return total


def b_idknll(x, c, o):
    total = 0.0
    for k, _ in rows(x):
        mine = [-a for a, r in zip(x["win"], x["win_row"], strict=True) if r == k]
        total += sum(mine) / len(mine)
    return total


def b_rmu(x, c, o):
    u = torch.rand(D, generator=torch.Generator().manual_seed(0)).double()
    u = (u / u.norm()).tolist()
    return sum(x["w"][t] * sum((h - 2 * a) ** 2 for h, a in zip(x["layer"][t], u, strict=True)) / D for t in range(N))


def b_undial(x, c, o):
    total = 0.0
    for t in range(N):
        teacher = dots(x["ref_hidden"][t], x["ref_head"])
        teacher[x["target"][t]] -= o["beta"]
        total += x["w"][t] * ce(softmax(teacher), dots(x["hidden"][t], x["head"]))
    return total


def b_ceu(x, c, o):
    total = 0.0
    for _, ts in rows(x):
        ts = [t for t in ts if PLACE[t] > 0]
        values = []
        for t in ts:
            p = softmax(dots(c["hidden"][t], c["head"]))
            gold = p[x["target"][t]]
            p = [0.0 if v == x["target"][t] else a / (1 - gold) for v, a in enumerate(p)]
            values.append(x["w"][t] * ce(p, dots(x["hidden"][t], x["head"])))
        total += sum(values) / sum(x["w"][t] for t in ts)
    return total


def b_pdu(x, c, o):
    z = [dots(x["hidden"][t], x["head"]) for t in range(N)]
    return sum(x["w"][t] * (max(z[t]) - sum(z[t]) / V) ** 2 for t in range(N))


def b_tpo(x, c, o):
    total = 0.0
    for _, ts in rows(x):
        fall = 0.0
        for t in ts:
            y = x["target"][t]
            fall += x["w"][t] * (dots(x["ref_hidden"][t], x["ref_head"])[y] - dots(x["hidden"][t], x["head"])[y])
        total += sigmoid_loss(fall / sum(x["w"][t] for t in ts), o["beta"])
    return total


def b_palu(x, c, o):
    total = 0.0
    for k, _ in rows(x):
        first, others, run = [], [], 0
        for t in (t for t in range(N) if ROW[t] == k):
            run = run + 1 if x["w"][t] > 0 else 0
            (first if 0 < run <= o["first"] else others).append(t)
        flat = 0.0
        for t in first:
            ref = dots(x["ref_hidden"][t], x["ref_head"])
            z = dots(x["hidden"][t], x["head"])
            z = [z[v] for v in sorted(range(V), key=lambda v, ref=ref: -ref[v])[: int(o["top"])]]
            flat += x["w"][t] * sum((a - sum(z) / len(z)) ** 2 for a in z) / len(z)
        total += flat / sum(x["w"][t] for t in first)
        for t in others:
            p, q = softmax(dots(x["ref_hidden"][t], x["ref_head"])), softmax(dots(x["hidden"][t], x["head"]))
            total += o["rest"] / len(others) * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total


def b_atwu(x, c, o):
    def u(values, t):
        gate = 1 / (1 + math.exp(-(sum(a * b for a, b in zip(c["hidden"][t], (0.4, -0.2, 0.3), strict=True)) + 0.1)))
        return x["w"][t] * gate * -values["logp"][t]

    return sum(-u(x, t) * math.exp(-o["beta"] * u(c, t)) for t in range(N))


def p(c, t):
    return math.exp(c["logp"][t])


def p_ref(c, t):
    return math.exp(c["ref"][t])


ASCENT = per_token(lambda c, t, o: 1.0)
BRUTE = {
    "ga": ASCENT, "graddiff": ASCENT, "kl": ASCENT,
    "wga": per_token(lambda c, t, o: p(c, t) ** o["beta"]),
    "tnpo": per_token(lambda c, t, o: 2 * p(c, t) ** o["beta"] / (p(c, t) ** o["beta"] + p_ref(c, t) ** o["beta"])),
    "wtnpo": per_token(lambda c, t, o: 2 * p(c, t) ** (o["beta"] + o["power"]) / (p(c, t) ** o["beta"] + p_ref(c, t) ** o["beta"])),
    "satimp": per_token(lambda c, t, o: p(c, t) ** o["beta1"] * (1 - p(c, t)) ** o["beta2"]),
    "npo": b_npo, "simnpo": b_simnpo, "dpo": b_dpo, "altpo": b_dpo, "idknll": b_idknll, "rmu": b_rmu, "undial": b_undial,
    "ceu": b_ceu, "pdu": b_pdu, "tpo": b_tpo, "palu": b_palu, "atwu": b_atwu,
}  # fmt: skip


def plain(forget, partner):
    values = {
        "w": forget.weight_N, "logp": forget.logp_N, "ref": forget.ref_logp_N, "target": forget.target_N, "hidden": forget.hidden_ND,
        "head": forget.head.weight, "ref_hidden": forget.ref_hidden_ND, "ref_head": forget.ref_head.weight, "layer": forget.layer_ND,
        "win": partner.logp_N, "win_ref": partner.ref_logp_N, "win_row": partner.row_N,
    }  # fmt: skip
    return {k: v.tolist() for k, v in values.items()}


def test_every_method_has_a_reference_here():
    assert set(BRUTE) == set(METHODS)


@pytest.mark.parametrize("weights", [[1.0] * N, MIXED], ids=["sequence-level", "weighted"])
@pytest.mark.parametrize("name", METHODS)
def test_loss_and_gradient_are_those_of_the_formula(name, weights):
    forget, partner = problem(weights)
    options = check_options(name, OPTIONS.get(name, {}))
    constant = plain(forget, partner)
    loss, gradients, _ = found(name, forget, partner)
    tolerance = 1e-6 if name == "rmu" else 1e-10  # u is float32
    assert loss.item() == pytest.approx(BRUTE[name](constant, constant, options), rel=tolerance, abs=tolerance)
    assert any(g.any() for g in gradients)
    for key, gradient in zip(("logp", "hidden", "layer", "win", "head"), gradients, strict=True):
        expected = torch.zeros(gradient.shape, dtype=torch.float64)
        for at in range(gradient.numel()):
            sides = []
            for shift in (1e-5, -1e-5):
                moved = torch.tensor(constant[key], dtype=torch.float64)
                moved.view(-1)[at] += shift
                sides.append(BRUTE[name]({**constant, key: moved.tolist()}, constant, options))
            expected.view(-1)[at] = (sides[0] - sides[1]) / 2e-5
        assert (gradient - expected).abs().max() < 1e-6 * max(1.0, expected.abs().max().item()), key


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", METHODS)
def test_a_token_of_weight_zero_moves_no_bit(name, dtype, seed):
    """Neither its label, nor what that label's log-probabilities are; default options."""
    weights = [w if torch.rand(1, generator=torch.Generator().manual_seed(seed * N + i)) < 0.7 else 0.0 for i, w in enumerate([1.5] * N)]
    weights[0] = 0.0
    forget, partner = problem(weights, seed)
    cast = {f: getattr(forget, f).to(dtype) for f in ("logp_N", "weight_N", "ref_logp_N", "hidden_ND", "ref_hidden_ND", "layer_ND")}
    forget = replace(forget, **cast, head=Head(forget.head.weight.to(dtype)), ref_head=Head(forget.ref_head.weight.to(dtype)))
    off = forget.weight_N == 0
    other = replace(
        forget,
        target_N=torch.where(off, -100, forget.target_N),
        logp_N=torch.where(off, -torch.inf, forget.logp_N),
        ref_logp_N=torch.where(off, torch.nan, forget.ref_logp_N),
    )
    (loss, gradients, _), (changed, others, _) = (found(name, f, partner, {}) for f in (forget, other))
    assert torch.equal(loss, changed) and loss.isfinite()
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(gradients, others, strict=True))
    assert not gradients[0][off].any()


@pytest.mark.parametrize("name", METHODS)
def test_rows_without_any_weight_add_nothing(name):
    loss, gradients, _ = found(name, *problem([0.0] * N))
    assert loss.item() == 0 and not any(g.any() for g in gradients)


@pytest.mark.parametrize("name", METHODS)
def test_extreme_log_probabilities_stay_finite(name):
    forget, partner = problem([1.0] * N)
    extreme = torch.tensor([0.0, -1e4, -1e-9, -700.0] * 3)[:N]
    forget = replace(forget, logp_N=extreme, ref_logp_N=extreme.flip(0), hidden_ND=forget.hidden_ND * 1e3)
    loss, gradients, _ = found(name, forget, partner)
    assert loss.isfinite() and all(g.isfinite().all() for g in gradients)


def test_the_dual_variable_rises_with_the_retain_loss_and_stays_above_zero():
    method, options = METHODS["pdu"], check_options("pdu", {"step": 0.5, "epsilon": 1.0})
    state = state_of("pdu", options)
    for retain_loss, expected in ((2.0, 1.5), (0.0, 1.0), (-9.0, 0.0)):
        method.after(state, {"retain_loss": retain_loss}, options)
        assert method.retain_weight(state) == expected


def test_the_gate_steps_along_the_gradient_of_its_objective_whatever_the_passes():
    forget, _ = problem([1.0, 0.5] * 5)
    options = check_options("atwu", {"every": 2})
    method = METHODS["atwu"]
    gate = torch.tensor([0.4, -0.2, 0.3, 0.1], dtype=torch.float64, requires_grad=True)
    h, nll, w = torch.cat([forget.hidden_ND, torch.ones(N, 1)], 1), -forget.logp_N, forget.weight_N
    g = (h @ gate).sigmoid()
    u = w * g * nll
    entropy = -(g * g.log() + (1 - g) * (1 - g).log())
    mean = (w * g).sum() / w.sum()
    objective = (-u * (-5 * u).exp().detach() + 0.01 * w * entropy).sum() / w.sum() + (mean - 0.2) ** 2 + 1e-4 * gate.square().sum()
    (gradient,) = torch.autograd.grad(objective, gate)
    ends = []
    for cut in (N, 4):
        state = state_of("atwu", options)
        state["gate"] = gate.detach().clone()
        for step in range(2):
            for part in (slice(0, cut), slice(cut, N)):
                fields = {f: getattr(forget, f)[part] for f in ("logp_N", "weight_N", "row_N", "hidden_ND")}
                method.loss(replace(forget, **fields), None, options, state)
            assert torch.equal(state["gate"], gate) or step
            method.after(state, {}, options)
        ends.append(state["gate"])
        assert ((gate.detach() - 0.05 * gradient) - state["gate"]).abs().max() < 1e-6
    assert (ends[0] - ends[1]).abs().max() < 1e-7


def test_unknown_methods_and_options_suggest_the_nearest():
    with pytest.raises(ConfigError, match=r"--method grad_diff: unknown \(did you mean 'graddiff'\?\)"):
        find_method("grad_diff")
    with pytest.raises(ConfigError, match=r"--option betta: unknown to --method npo \(did you mean 'beta'\?\)"):
        check_options("npo", {"betta": 1.0})
    with pytest.raises(ConfigError, match="ga has no options"):
        check_options("ga", {"beta": 1.0})


@pytest.mark.parametrize(
    ("name", "option", "value", "expected"),
    [("npo", "beta", 0.0, "more than 0"), ("wga", "beta", -1.0, "0 or more"), ("npo", "beta", math.nan, "more than 0"),
     ("rmu", "layer", 1.5, "a whole number")],
)  # fmt: skip
def test_option_values_without_sense_are_refused(name, option, value, expected):
    with pytest.raises(ConfigError, match=expected):
        check_options(name, {option: value})


def test_rmu_trains_the_down_projections_up_to_its_layer():
    assert trained_globs("rmu", {"layer": 7.0}) == tuple(f"*.layers.{i}.mlp.down_proj.*" for i in (5, 6, 7))
    assert trained_globs("rmu", {"layer": 1.0}) == tuple(f"*.layers.{i}.mlp.down_proj.*" for i in (0, 1))
    assert trained_globs("npo", check_options("npo", {})) == ()


def test_tpo_adds_the_other_words_of_rows_with_a_weight_where_asked_for():
    forget, partner = problem(MIXED)
    without, _, _ = found("tpo", forget, partner, {})
    loss, (gradient, *_), _ = found("tpo", forget, partner, {"general": 0.5})
    others = {0: [1], 1: [6]}  # the last row has no weight
    expected = sum(0.5 * -sum(forget.logp_N[t].item() for t in ts) / len(ts) for ts in others.values())
    assert (loss - without).item() == pytest.approx(expected, rel=1e-10)
    assert gradient.tolist() == [-0.5 if t in (1, 6) else 0.0 for t in range(N)]
