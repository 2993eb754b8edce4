"""The model before training, against a copy of it that was never touched, while steps are taken."""

import copy

import numpy as np
import pytest
import torch

from shared.lm.models import load_model
from shared.lm.packed import PackedModel
from tu_train.data.batches import Item, PassRows
from tu_train.forward import Needs, forward_pass
from tu_train.model.lora import add_lora
from tu_train.model.reference import Reference
from tu_train.model.trainable import freeze_all_but

GLOBS = ("*.layers.0.mlp.*", "lm_head.weight")
KINDS = ("whole", "some", "lora")
STEPS = 3


def items():
    generator = np.random.default_rng(0)
    rows = [[1, 2, 3, *generator.integers(4, 400, n).tolist()] for n in (9, 5, 7)]
    return [Item(r, list(range(3, len(r))), np.ones(len(r) - 3, dtype=np.float32)) for r in rows]


class Made:
    """A tiny model of which all, some, or adapters train; its reference; and an untouched copy."""

    def __init__(self, folder, kind):
        model = load_model(folder, dtype=torch.float32, device=torch.device("cpu"))
        self.untouched = copy.deepcopy(model).eval()
        wrapper = add_lora(model, 4, None, ()) if kind == "lora" else None
        if kind == "some":
            freeze_all_but(model, GLOBS)
        self.packed = PackedModel(model.eval())
        self.reference = Reference(self.packed, wrapper.disable_adapter if wrapper else None)
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-2, fused=True)

    def loss(self, *, back):
        """KL to the start model with its exact logits where `back`, else with those of the copy."""
        one = PassRows(items(), [])
        if back:
            seen = forward_pass(self.packed, one, Needs(logits=True, reference=True), Needs(), self.reference).forget
            assert seen.ref_hidden_ND is not None and seen.ref_head is not None
            log_p = seen.ref_head.logits(seen.ref_hidden_ND).log_softmax(-1)
        else:
            seen = forward_pass(self.packed, one, Needs(logits=True), Needs(), None).forget
            log_p = self.before()
        assert seen.hidden_ND is not None and seen.head is not None
        return (log_p.exp() * (log_p - seen.head.logits(seen.hidden_ND).log_softmax(-1))).sum() + seen.logp_N.mean()

    def before(self):
        """[N, V] of plain transformers on the copy, one row at a time."""
        with torch.no_grad():
            rows = [self.untouched(input_ids=torch.tensor([i.ids])).logits[0, [p - 1 for p in i.positions]] for i in items()]
        return torch.cat(rows).log_softmax(-1)

    def step(self, *, back=True):
        self.loss(back=back).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def now(made):
    with torch.no_grad():
        return made.packed.model(input_ids=torch.tensor([items()[0].ids])).logits


def test_active_is_the_untouched_model_after_steps_and_the_trained_one_comes_back(kind, tiny_model):
    made = Made(tiny_model, kind)
    ids = torch.tensor([items()[0].ids])
    with torch.no_grad():
        start = made.untouched(input_ids=ids).logits
    for _ in range(STEPS):
        made.step()
        trained = now(made)
        with made.reference.active():
            inside = made.packed.model(input_ids=ids).logits
            assert not inside.requires_grad
        assert torch.equal(inside, start)
        assert (trained - start).abs().max() > 1e-3
        assert torch.equal(now(made), trained)


def test_logits_of_the_start_model_are_those_of_the_copy(kind, tiny_model):
    made = Made(tiny_model, kind)
    for _ in range(STEPS):
        made.step()
    seen = forward_pass(made.packed, PassRows(items(), []), Needs(logits=True, reference=True), Needs(), made.reference).forget
    assert seen.ref_hidden_ND is not None and seen.ref_head is not None
    found = seen.ref_head.logits(seen.ref_hidden_ND).log_softmax(-1)
    assert (found - made.before()).abs().max() < 1e-4
    if kind != "lora":  # whose head does not train
        assert not torch.equal(seen.ref_head.weight, made.packed.head.weight)


def test_gradients_and_steps_are_those_with_a_second_model(kind, tiny_model):
    torch.manual_seed(0)
    ours = Made(tiny_model, kind)
    torch.manual_seed(0)
    theirs = Made(tiny_model, kind)
    for _ in range(STEPS):
        for made, back in ((ours, True), (theirs, False)):
            made.loss(back=back).backward()
        largest = max(p.grad.abs().max().item() for p in theirs.trained)
        for a, b in zip(ours.trained, theirs.trained, strict=True):
            assert a.grad is not None and (a.grad - b.grad).abs().max() <= 1e-4 * largest
        for made in (ours, theirs):
            torch.nn.utils.clip_grad_norm_(made.trained, 1.0)
        for a, b in zip(ours.trained, theirs.trained, strict=True):
            b.grad.copy_(a.grad)  # so that Adam's division does not make a step of the last bit of a gradient near zero
        for made in (ours, theirs):
            made.optimizer.step()
            made.optimizer.zero_grad(set_to_none=True)
        assert all(torch.equal(a, b) for a, b in zip(ours.trained, theirs.trained, strict=True))


def test_memory_is_that_of_the_trained_parameters_alone(kind, tiny_model):
    made = Made(tiny_model, kind)
    kept = sum(t.numel() for _, t in made.reference.kept)
    every = sum(p.numel() for p in made.packed.model.parameters())
    trained = sum(p.numel() for p in made.trained)
    assert kept == {"whole": every, "some": trained, "lora": 0}[kind]
    assert kind == "whole" or trained < every
    frozen = {p.data_ptr() for p in made.packed.model.parameters() if not p.requires_grad}
    before = [p.data_ptr() for p in made.packed.model.parameters()]
    with made.reference.active():
        assert frozen <= {p.data_ptr() for p in made.packed.model.parameters()}
    assert [p.data_ptr() for p in made.packed.model.parameters()] == before


def test_an_error_inside_brings_the_trained_model_back(kind, tiny_model):
    made = Made(tiny_model, kind)
    made.step()
    trained = now(made)
    with pytest.raises(ZeroDivisionError), made.reference.active():
        raise ZeroDivisionError
    assert torch.equal(now(made), trained)


def test_what_is_kept_is_the_model_when_the_reference_was_made(tiny_model):
    """A control: a reference made after a step gives that model back, not the first one."""
    made = Made(tiny_model, "whole")
    made.step(back=False)
    later, trained = Reference(made.packed), now(made)
    made.step(back=False)
    with later.active():
        assert torch.equal(now(made), trained)
    assert not torch.equal(now(made), trained)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pass_of_the_model_before_training_changes_nothing_of_the_pass_beside_it(dtype, tiny_model):
    """Under autocast, which keeps casts of weights by the place where they stand; and the reverse."""

    packed = PackedModel(load_model(tiny_model, dtype=torch.float32, device=torch.device("cpu")))
    rows = PassRows([Item([1, 9, 8, 7, 30, 31, 5], [2, 3, 4, 5, 6], np.ones(5, np.float32), None, "a")], [])
    nothing, both = Needs(), Needs(True, True)

    def logp(needs, reference=None):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            tokens = forward_pass(packed, rows, needs, nothing, reference).forget
        return tokens

    before = logp(Needs(True, False)).hidden_ND.detach().clone()
    reference = Reference(packed)
    with torch.no_grad():
        for parameter in packed.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    alone, beside = logp(nothing), logp(both, reference)
    assert torch.equal(alone.logp_N, beside.logp_N)
    assert torch.equal(beside.ref_hidden_ND, before) and not torch.equal(beside.hidden_ND, before)
