"""The losses on batches of `collate` are those of the training loop, and the page's three trainers take the steps of
tu-train run."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from shared.data.datasets import load_rows
from shared.errors import ConfigError, DataError
from shared.lm.packed import PackedModel
from tests.s3 import require
from tests.tu_train.conftest import RETAIN, ROWS
from tu_train import METHODS, Pairs, WeightedDataset, collate, compute_loss, unlearn
from tu_train.data.batches import PassRows
from tu_train.forward import forward_pass
from tu_train.loop import losses_of
from tu_train.methods.retain_terms import RETAIN_TERMS
from tu_train.objective import Objective, Totals
from tu_train.trainers import HELD, retain_loss

PAGE = (Path(__file__).parents[2] / "docs" / "trainers.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^```python\n# (with_\w+)\.py\n(.*?)^```$", PAGE, re.M | re.S))
USABLE = [name for name, method in METHODS.items() if method.needs <= HELD and method.start is None and method.retain in ("nll", "none")]


@pytest.fixture(scope="module")
def model(target):
    return AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def packed(model):
    return PackedModel(model)


CHOICES = [{"tokens": "all"}, {"keep": 0.3}, {"tokens": "soft"}]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("name", USABLE)
def test_the_loss_and_its_gradient_are_those_of_the_loop(name, choice, scores, target, model, packed):
    method = METHODS[name]
    forget, retain = WeightedDataset(scores, model=target, **choice), WeightedDataset.of_data(RETAIN, model=target)
    pairs = Pairs(forget, retain)
    rows = PassRows([forget._item(i) for i in range(len(forget))], [retain._item(i % len(retain)) for i in range(len(forget))])
    objective = Objective(method, method.options, method.gamma, method.alpha, RETAIN_TERMS.get(method.retain))
    with torch.no_grad():  # as if some steps had been taken: the references are no longer the model's own
        model.lm_head.weight[::3] *= 1.05
    try:
        losses = losses_of(forward_pass(packed, rows, *objective.needs, None), objective, {}, Totals.of([rows], method))
        ours = objective.gamma * losses[0] + objective.alpha * losses[1]
        theirs = compute_loss(model, collate([pairs[i] for i in range(len(pairs))]), name)
        gradients = [torch.autograd.grad(loss, model.model.embed_tokens.weight)[0] for loss in (ours, theirs)]
    finally:
        with torch.no_grad():
            model.lm_head.weight[::3] /= 1.05
    assert theirs.dtype == torch.float32 and theirs.shape == ()
    assert theirs.item() == pytest.approx(ours.item(), rel=1e-5)
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-3, atol=1e-5 * gradients[0].abs().max().item())


def test_what_a_token_without_weight_says_changes_nothing(scores, model):
    rows = WeightedDataset(scores, keep=0.3)
    batch = collate([rows[i] for i in range(3)])
    before = compute_loss(model, batch, "npo").item()
    off = batch["loss_weights"] == 0
    batch["labels"][off], batch["reference_logps"][off] = 3, float("nan")
    batch["input_ids"] = batch["input_ids"].where(batch["attention_mask"] == 1, 5)
    assert compute_loss(model, batch, "npo").item() == before
    batch["reference_logps"][~off] += 1
    assert compute_loss(model, batch, "npo").item() != before  # the test can fail


def test_options_gamma_and_alpha(scores, target, model):
    forget, retain = WeightedDataset(scores), WeightedDataset.of_data(RETAIN, model=target)
    batch = collate([Pairs(forget, retain)[i] for i in range(3)])
    plain = compute_loss(model, batch["forget"], METHODS["npo"]).item()
    nll = retain_loss(model(input_ids=batch["retain"]["input_ids"]).logits, batch["retain"]).item()
    assert compute_loss(model, batch, "npo", gamma=2.0, alpha=0.5).item() == pytest.approx(2 * plain + 0.5 * nll, rel=1e-5)
    assert compute_loss(model, batch["forget"], "npo", {"beta": 1.0}).item() != pytest.approx(plain, rel=1e-3)
    assert compute_loss(model, batch, "ga").item() == pytest.approx(compute_loss(model, batch["forget"], "ga").item())


@pytest.mark.parametrize("name", [name for name in METHODS if name not in USABLE])
def test_methods_that_read_more_are_refused_in_one_line(name, scores, target, model):
    forget, retain = WeightedDataset(scores), WeightedDataset.of_data(RETAIN, model=target)
    with pytest.raises(ConfigError, match=r"^compute_loss: the method .*tu-train run") as caught:
        compute_loss(model, collate([Pairs(forget, retain)[0]]), name)
    assert "\n" not in str(caught.value)


def test_mistakes_get_one_line(scores, model):
    batch = collate([WeightedDataset(scores)[0]])
    with pytest.raises(ConfigError, match="npoo"):
        compute_loss(model, batch, "npoo")
    with pytest.raises(ConfigError, match="--option beto: unknown"):
        compute_loss(model, batch, "npo", {"beto": 1.0})
    with pytest.raises(ConfigError, match="beto is none of the method's options"):
        compute_loss(model, batch, METHODS["npo"], {"beto": 1.0})
    other = {**batch, "input_ids": batch["input_ids"][:, :-1]}
    with pytest.raises(DataError, match="expected rows and tokens alike"):
        retain_loss(model(input_ids=batch["input_ids"]).logits, other)


@pytest.fixture(scope="module")
def place(target, scores, tmp_path_factory):
    """What the page calls `target`, `scores` and `retain.jsonl`, and the losses of tu-train run."""
    folder = tmp_path_factory.mktemp("trainers")
    (folder / "target").symlink_to(target)
    (folder / "scores").symlink_to(scores)
    lines = [json.dumps({"question": row.question, "answer": row.answer}) for row in load_rows(RETAIN)]
    (folder / "retain.jsonl").write_text("\n".join(lines))
    out = unlearn(
        model=target, scores=scores, retain=str(folder / "retain.jsonl"), out=folder / "ours", method="npo", steps=2, learning_rate=1e-3,
        schedule="linear", warmup=0.0, weight_decay=0.0, device="cpu",
    )  # fmt: skip
    return folder, [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["with_transformers", "with_trl", "with_accelerate"])
def test_two_steps_of_an_example_have_the_losses_of_tu_train_run(name, place, monkeypatch):
    require("trl" if name == "with_trl" else "accelerate")
    folder, ours = place
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    names = {"__name__": name}
    exec(EXAMPLES[name], names)  # noqa: S102 - the page's own code
    assert len(names["forget"]) == ROWS <= 8  # a step reads all rows, so that their order is the same
    losses = names.get("losses") or [entry["loss"] for entry in names["trainer"].state.log_history if "loss" in entry]
    assert len(losses) == len(ours) == 2 and losses == pytest.approx(ours, rel=1e-5)
    assert abs(ours[0] - ours[1]) > 1e-3 * ours[0]  # the first step moved something
    saved = folder / (name if name == "with_accelerate" else f"{name}/model")
    assert (saved / "model.safetensors").is_file()


def test_the_page_has_three_trainers_and_lists_the_methods():
    assert set(EXAMPLES) == {"with_transformers", "with_trl", "with_accelerate"}
    listed = re.search(r"be\s+used: ([\w, \n]+?)\. The others", PAGE)[1]
    assert re.findall(r"\w+", listed.replace(" and ", ", ")) == USABLE
