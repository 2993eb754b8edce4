"""A step against plain transformers on whole rows, and what must and must not change a trained bit."""

import json
import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from transformers import AutoModelForCausalLM, FalconConfig

import shared.lm.packed
import tu_train.load
from shared.data.datasets import load_rows
from shared.data.examples import make_examples
from shared.errors import ConfigError, ModelError
from shared.lm.forest import pack
from shared.lm.models import load_model, load_tokenizer
from shared.lm.packed import PackedModel
from shared.store.scores import open_store
from tests.shared.weighting.test_importance import slow_words
from tests.tu_train.conftest import RETAIN, log_of, plan_of, selection, weights_of, write_store
from tu_train.config import LoopConfig
from tu_train.data.batches import Item, PassRows, cut, item_of_example, item_of_row
from tu_train.forward import checkpoint_activations, forward_pass
from tu_train.loop import Objective, Totals, losses_of, train
from tu_train.methods.table import METHODS, check_options
from tu_train.model.optimizer import rate

PLAIN = ("graddiff", "npo")
"""methods whose steps are followed here; the others' losses have their references in test_losses.py"""

MODES = ("all", "hard", "soft")
KEEP, TEMPERATURE, BETA, GAMMA, ALPHA = 0.4, 0.5, 0.3, 0.7, 1.3
BOUND = {torch.float32: 1e-5, torch.float64: 1e-6}
"""relative; Llama's norms compute in float32 whatever the model's dtype"""


@pytest.fixture(scope="module")
def forget_rows(scores):
    rows = list(open_store(scores).rows())[:3]
    generator = np.random.default_rng(0)
    for row in rows:  # the model is the one that was scored: shift its references, so that the first step is not at ratio zero
        row["logprob"] = [None if v is None else v - generator.uniform(0, 1) for v in row["logprob"]]
    return rows


@pytest.fixture(scope="module")
def retain_examples(target):
    return make_examples(load_rows(RETAIN), load_tokenizer(target), context=512)[:3]


def packed_of(folder, dtype=torch.float32) -> PackedModel:
    return PackedModel(load_model(folder, dtype=dtype, device=torch.device("cpu")))


def item(row, mode) -> Item:
    return item_of_row(row, selection=selection(mode, keep=KEEP, temperature=TEMPERATURE), where="scores")


def pairs_of(forget_rows, retain_examples, mode):
    return list(zip((item(r, mode) for r in forget_rows), map(item_of_example, retain_examples), strict=True))


def brute_weights(row: dict, targets: list[int], mode: str) -> list[float]:
    importance = [row["importance"][i] for i in targets]
    if mode == "all":
        return [1.0] * len(importance)
    if mode == "hard":
        return slow_words(importance, [row["word"][i] for i in targets], math.ceil(KEEP * len(importance)))
    shares = [math.exp(v / TEMPERATURE) for v in importance]
    return [len(importance) * s / sum(shares) for s in shares]


def plain_logp(model, ids, targets):
    logits = model(input_ids=torch.tensor([ids])).logits[0]
    return torch.stack([logits[t - 1].log_softmax(-1)[ids[t]] for t in targets])


def brute_loss(model, forget_rows, retain_examples, method, mode):
    """gamma · forget + alpha · retain from the formulas, whole rows, all logits, every target token."""
    pushed, weights, rows = 0.0, 0.0, []
    for row in forget_rows:
        targets = [i for i, t in enumerate(row["is_target"]) if t]
        weight = torch.tensor(brute_weights(row, targets, mode), dtype=model.dtype)
        logp = plain_logp(model, row["input_ids"], targets)
        pushed, weights = pushed + (weight * logp).sum(), weights + weight.sum()
        ratio = (weight * (logp - torch.tensor([row["logprob"][i] for i in targets], dtype=model.dtype))).sum()
        rows.append(2 / BETA * torch.log(1 + torch.exp(BETA * ratio)))
    forget = {"graddiff": lambda: pushed / weights, "npo": lambda: torch.stack(rows).mean()}[method]()
    retain = torch.cat([plain_logp(model, e.input_ids, e.targets) for e in retain_examples])
    return GAMMA * forget - ALPHA * retain.mean()


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", PLAIN)
def test_a_step_is_that_of_plain_transformers(method, mode, dtype, target, forget_rows, retain_examples, tmp_path):
    plain = AutoModelForCausalLM.from_pretrained(target, dtype=dtype)
    expected = brute_loss(plain, forget_rows, retain_examples, method, mode)
    expected.backward()

    packed = packed_of(target, dtype)
    pairs = pairs_of(forget_rows, retain_examples, mode)
    objective = objective_of(method, GAMMA, ALPHA, BETA)
    one = PassRows(*map(list, zip(*pairs, strict=True)))
    seen = forward_pass(packed, one, *objective.needs, None)
    forget, retain = losses_of(seen, objective, {}, Totals.of([one], METHODS[method]))
    loss = GAMMA * forget + ALPHA * retain
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=BOUND[dtype])
    ours, theirs = dict(packed.model.named_parameters()), dict(plain.named_parameters())
    assert ours.keys() == theirs.keys()
    largest = max(p.grad.abs().max().item() for p in theirs.values())
    for name, parameter in theirs.items():
        assert (ours[name].grad - parameter.grad).abs().max() <= BOUND[dtype] * largest, name

    logged = train_steps(target, [pairs], objective, tmp_path, dtype=dtype, batch_tokens=150)[1]
    assert logged[0]["loss"] == pytest.approx(expected.item(), rel=BOUND[dtype])
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in theirs.values()))
    assert logged[0]["gradient_norm"] == pytest.approx(norm, rel=1e-4)


def objective_of(method, gamma=1.0, alpha=1.0, beta=None) -> Objective:
    given = {"beta": beta} if beta and "beta" in METHODS[method].options else {}
    return Objective(METHODS[method], check_options(method, given), gamma, alpha)


def train_steps(folder, groups, objective, tmp_path, *, dtype=torch.float32, batch_tokens=2048, **fields):
    """Trains on groups of pairs -> (the model, its log)."""
    packed = packed_of(folder, dtype)
    config = LoopConfig(model="", out="", batch_tokens=batch_tokens, **{"learning_rate": 1e-4, **fields})
    passes = [cut(group, batch_tokens) for group in groups]
    (tmp_path / "log.jsonl").unlink(missing_ok=True)
    train(packed, lambda n: passes[n:], len(groups), objective, config, tmp_path / "log.jsonl")
    return packed.model, [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]


class Waits(TorchDispatchMode):
    """Counts what makes a host wait for a device: numbers read out, and results whose size depends on numbers."""

    READING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in self.READING
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_host_waits_for_the_device_once_a_step(dtype, target, forget_rows, retain_examples, tmp_path, monkeypatch):
    pairs, lists, tolist = pairs_of(forget_rows, retain_examples, "soft"), [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: lists.append(self.shape) or tolist(self))

    def unseen(*args, **kwargs):  # the row that is packed is the host's own
        with _disable_current_modes():
            return pack(*args, **kwargs)

    monkeypatch.setattr(shared.lm.packed, "pack", unseen)
    packed, passes = packed_of(target), cut(pairs, 1)
    config = LoopConfig(model="", out="", batch_tokens=1, learning_rate=1e-4, dtype=dtype)
    counts = []
    for steps in (1, 4):
        lists.clear()
        with Waits() as waits:
            train(packed, lambda n, steps=steps: [passes] * steps, steps, objective_of("npo"), config, None)
        counts.append((waits.count, len(lists)))
    assert len(passes) == 3 and counts == [(0, 1), (0, 4)]
    with Waits() as waits:
        assert torch.ones(2).nonzero().sum().item() == 1 and waits.count == 2


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("method", PLAIN)
def test_the_number_of_passes_changes_no_result(method, dtype, target, forget_rows, retain_examples, tmp_path):
    pairs = pairs_of(forget_rows, retain_examples, "soft")
    groups = [pairs, pairs[:2], pairs[1:], pairs]
    runs = [train_steps(target, groups, objective_of(method), tmp_path, dtype=dtype, batch_tokens=budget) for budget in (10_000, 400, 1)]
    assert [len(cut(pairs, budget)) for budget in (10_000, 400, 1)] == [1, 2, 3]
    (one, log), *others = runs
    for model, other_log in others:
        for a, b in zip(log, other_log, strict=True):
            assert all(b[name] == pytest.approx(a[name], rel=1e-5, abs=1e-5) for name in ("loss", "forget_nll", "retain_nll"))
        for a, b in zip(one.parameters(), model.parameters(), strict=True):
            # Adam divides by the gradient's size, so float32's noise in a gradient near zero is a whole step of 1e-4.
            assert torch.allclose(a, b, rtol=0, atol=1e-6 if dtype == torch.float64 else 4e-4)
            assert (a - b).abs().mean() < 1e-6


def test_logged_nll_is_weighted(target, forget_rows, retain_examples, tmp_path):
    plain = AutoModelForCausalLM.from_pretrained(target)
    pairs = pairs_of(forget_rows, retain_examples, "hard")
    _, log = train_steps(target, [pairs], objective_of("npo"), tmp_path, batch_tokens=1)
    with torch.no_grad():
        forget = torch.cat([plain_logp(plain, i.ids, i.positions) for i, _ in pairs])
        retain = torch.cat([plain_logp(plain, i.ids, i.positions) for _, i in pairs])
    assert log[0]["forget_nll"] == pytest.approx(-forget.mean().item(), rel=1e-5)
    assert log[0]["retain_nll"] == pytest.approx(-retain.mean().item(), rel=1e-5)


def test_the_schedule_rises_then_falls_to_zero_after_the_last_step():
    assert [rate(s, 10, 0.3) for s in range(11)] == pytest.approx([1 / 3, 2 / 3, 1, *(k / 8 for k in range(7, -1, -1))])
    assert [rate(s, 4, 0.0) for s in range(5)] == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert [rate(s, 4, 1.0) for s in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1])
    assert rate(0, 1, 0.1) == 1.0


def test_the_log_shows_the_schedule(unlearn):
    log = log_of(unlearn(epochs=4, learning_rate=2e-4))  # 4 epochs of 2 steps, the first of which warms up
    assert [r["step"] for r in log] == list(range(8))
    assert [r["learning_rate"] for r in log] == pytest.approx([2e-4 * rate(s, 8, 0.1) for s in range(8)])
    assert log[0]["learning_rate"] == pytest.approx(2e-4)


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


@pytest.mark.parametrize("broken", ["reference", "weight"])
def test_a_loss_that_is_not_finite_stops_before_the_update(broken, target, forget_rows, retain_examples, tmp_path):
    pairs = pairs_of(forget_rows, retain_examples, "all")
    packed = packed_of(target)
    first = pairs[0][0]
    bad = [
        (Item(first.ids, first.positions, first.weights, np.full(len(first.positions), -np.inf, dtype=np.float32), first.name), pairs[0][1])
    ]
    seen = {}

    def stream():
        yield cut(pairs, 2048)
        if broken == "weight":
            with torch.no_grad():
                packed.model.get_input_embeddings().weight[first.ids[0], 0] = math.nan
        seen.update(state(packed.model))
        yield cut(bad if broken == "reference" else pairs, 2048)
        raise AssertionError("a third step was asked for")

    config = LoopConfig(model="", out="", learning_rate=1e-3)
    with pytest.raises(ModelError, match=r"step 1: loss (inf|nan), not finite, stopped before the update; the batch: atlas/forget/"):
        train(packed, lambda n: stream(), 3, objective_of("npo"), config, tmp_path / "log.jsonl")
    now = packed.model.state_dict()
    assert all(torch.equal(now[k].nan_to_num(9.0), v.nan_to_num(9.0)) for k, v in seen.items())
    assert not torch.equal(now["lm_head.weight"], load_model(target, dtype=torch.float32, device=torch.device("cpu")).lm_head.weight)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1


def test_a_run_that_is_stopped_leaves_no_folder(unlearn, tmp_path):
    with pytest.raises(ModelError, match="step 0: "):
        unlearn(gamma=1e300, out=tmp_path / "place" / "out")
    assert list((tmp_path / "place").iterdir()) == []


def copy_store(store, folder, change):
    """The store with `change(row)` applied to each row, and hashes that fit."""
    parts = [store.part(k) for k in range(len(store.manifest["parts"]))]
    for rows in parts:
        for row in rows:
            change(row)
    return write_store(folder, parts, plan_of(store)).folder


def unweighted(row) -> set[int]:
    targets = [i for i, t in enumerate(row["is_target"]) if t]
    return set(targets) - set(item(row, "hard").positions)


@pytest.mark.parametrize("method", PLAIN)
def test_the_stored_reference_of_a_token_without_weight_changes_no_bit(method, unlearn, scores, tmp_path):
    store = open_store(scores)

    def spoil(row):
        for n, i in enumerate(sorted(unweighted(row))):
            row["logprob"][i] = (None, -9e5, -123.0, 0.0)[n % 4]

    other = copy_store(store, tmp_path / "other", spoil)
    assert sum(len(unweighted(row)) for row in store.rows()) > 20
    options = {"method": method, "tokens": "hard", "keep": KEEP}
    assert weights_of(unlearn(**options)) == weights_of(unlearn(**options, scores=other))


def test_the_stored_reference_of_a_token_with_weight_changes_the_result(unlearn, scores, tmp_path):
    """The control of the test above: npo reads what is stored."""

    def shift(row):
        row["logprob"][item(row, "hard").positions[0]] -= 3.0

    other = copy_store(open_store(scores), tmp_path / "other", shift)
    options = {"method": "npo", "tokens": "hard", "keep": KEEP}
    assert weights_of(unlearn(**options)) != weights_of(unlearn(**options, scores=other))


@pytest.mark.parametrize("method", PLAIN)
def test_the_label_of_a_token_without_weight_changes_no_bit(method, target, forget_rows, retain_examples, tmp_path):
    """The last token of a row is a label and no other token's context."""
    pairs = pairs_of(forget_rows, retain_examples, "hard")
    free = [Item(f.ids, f.positions[:-1], f.weights[:-1], f.ref_logp[:-1]) if f.positions[-1] == len(f.ids) - 1 else f for f, _ in pairs]
    other = [Item([*f.ids[:-1], 77], f.positions, f.weights, f.ref_logp) for f in free]
    assert all(a.ids != b.ids for a, b in zip(free, other, strict=True))
    trained = []
    for forget in (free, other):
        group = [(f, r) for f, (_, r) in zip(forget, pairs, strict=True)]
        trained.append(state(train_steps(target, [group] * 3, objective_of(method), tmp_path, learning_rate=1e-3)[0]))
    assert all(torch.equal(trained[0][k], trained[1][k]) for k in trained[0])


def test_a_run_loads_one_model(unlearn, monkeypatch):
    loaded = []

    def counted(folder, **options):
        loaded.append(folder)
        return load_model(folder, **options)

    monkeypatch.setattr(tu_train.load, "load_model", counted)
    monkeypatch.setattr(AutoModelForCausalLM, "from_config", None)
    unlearn(method="npo")
    assert len(loaded) == 1


def test_bfloat16_is_autocast_over_float32_weights(unlearn):
    wide, narrow = unlearn(), unlearn(dtype="bfloat16")
    for a, b in zip(log_of(wide), log_of(narrow), strict=True):
        assert math.isfinite(b["loss"]) and b["retain_nll"] == pytest.approx(a["retain_nll"], rel=0.05)
    assert log_of(wide) != log_of(narrow)
    assert AutoModelForCausalLM.from_pretrained(narrow, dtype="auto").dtype == torch.float32


def test_limit_takes_that_many_rows_of_each_set(unlearn):
    folder = unlearn(limit=2, batch_size=1, epochs=3)
    assert len(log_of(folder)) == 6


def test_batches_of_one_accumulated_are_one_batch_of_eight(unlearn):
    whole, ones = unlearn(batch_size=4, tokens="soft"), unlearn(batch_size=1, accumulate=4, tokens="soft")
    for a, b in zip(log_of(whole), log_of(ones), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-5, rel=1e-5)


def test_padded_rows_give_the_losses_of_packed_ones(target, forget_rows, retain_examples, tmp_path):
    pairs = pairs_of(forget_rows, retain_examples, "soft")
    losses = []
    for packs in (True, False):
        packed = packed_of(target)
        packed.packs = packs
        one = cut(pairs, 10_000)[0]
        objective = objective_of("npo")
        losses.append(losses_of(forward_pass(packed, one, *objective.needs, None), objective, {}, Totals.of([one], METHODS["npo"])))
    assert all(a.item() == pytest.approx(b.item(), abs=1e-5, rel=1e-5) for a, b in zip(*losses, strict=True))


def test_activation_checkpointing_changes_no_gradient(target, forget_rows, retain_examples, tmp_path):
    groups = [pairs_of(forget_rows, retain_examples, "soft")] * 2
    kept, again = (train_steps(target, groups, objective_of("npo"), tmp_path, checkpointing=c, batch_tokens=300) for c in (False, True))
    for a, b in zip(kept[0].parameters(), again[0].parameters(), strict=True):
        assert torch.equal(a, b)
    assert (blocks_that_run_again(kept[0]), blocks_that_run_again(again[0])) == (0, again[0].config.num_hidden_layers)


def blocks_that_run_again(model) -> int:
    return sum(getattr(m, "gradient_checkpointing", False) and m.training for m in model.modules())


def test_activations_are_computed_again_unless_adapters_train(target, forget_rows, retain_examples, tmp_path):
    groups = [pairs_of(forget_rows, retain_examples, "soft")]
    model, adapted = (train_steps(target, groups, objective_of("npo"), tmp_path, lora=rank)[0] for rank in (0, 2))
    assert (blocks_that_run_again(model), blocks_that_run_again(adapted)) == (model.config.num_hidden_layers, 0)


def test_an_architecture_that_cannot_compute_again_keeps_activations_or_refuses(target, capsys):
    packed = packed_of(target)
    packed.model.supports_gradient_checkpointing = False
    with pytest.raises(ConfigError, match="checkpointing: LlamaForCausalLM cannot"):
        checkpoint_activations(packed, required=True)
    checkpoint_activations(packed, required=False)
    assert "LlamaForCausalLM cannot compute activations again" in capsys.readouterr().err
    assert blocks_that_run_again(packed.model) == 0


def test_a_block_that_reads_its_own_mode_has_no_dropout_where_it_runs_again():
    """Falcon's blocks take the rate of dropout out of the configuration."""
    rates = {"hidden_dropout": 0.5, "attention_dropout": 0.5}
    config = FalconConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=False, **rates)
    packed = PackedModel(AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval())
    gradients = []
    for again in (False, True):
        if again:
            checkpoint_activations(packed, required=True)
        packed.model.zero_grad()
        packed.hidden([[5, 6, 7, 8, 9], [5, 6, 7, 8, 1, 2]])[0].square().sum().backward()
        gradients.append([p.grad.clone() for p in packed.model.parameters() if p.grad is not None])
    assert blocks_that_run_again(packed.model) == 2
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_clip_of_zero_clips_nothing(unlearn):
    def weights(clip):
        return weights_of(unlearn(clip=clip, max_steps=2, method="ga", retain="none", tokens="all"))

    off = weights(0.0)
    assert off == weights(1e9) and off != weights(1e-6)
