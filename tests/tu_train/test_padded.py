"""RMU by recipes/wmdp.toml is the published form: the same losses batch by batch, from the same texts. The published
form is a plain loop over transformers (benchmarks/rmu_as_published.py), which prints the same with SmolLM2."""

from dataclasses import replace

import pytest
import torch

from benchmarks.rmu_as_published import Published, as_published, by_recipe, direction, documents, numbers, recipe
from shared.errors import ConfigError
from shared.lm.models import load_model
from shared.lm.packed import PackedModel
from tests.conftest import _save_tiny, build_sentencepiece, build_tokenizer
from tests.tu_train.conftest import RETAIN
from tu_train.config import UnlearnConfig
from tu_train.data.batches import Item, PassRows
from tu_train.forward import Needs
from tu_train.many.steps import check_study
from tu_train.methods.table import METHODS
from tu_train.padded import left_padded, padded_pass, positions_of

BOUND = 1e-5
"""in float32, absolute"""
CPU = torch.device("cpu")
RUN = Published(lengths=(24, 40), steering=(6.5, 3.0), alpha=(1200, 700), seeds=(0, 1), retain_length=32, layer=3, learning_rate=1e-3,
                batch_size=3, batches=6)  # fmt: skip
OTHERS = (
    "Орла Венн родилась в Таллине и написала двенадцать романов о море.",
    "奥拉·文恩出生于塔林，写过十二部关于大海的小说。",
    "Ορλα Βεν γεννήθηκε στο Ταλίν. Ihr Vater, ein Bäcker, hieß Jürgen.",
)


@pytest.fixture(scope="module", params=[build_tokenizer, build_sentencepiece])
def four_layers(request, tmp_path_factory):
    """A random Llama of four layers with a byte-level or a sentencepiece-like tokenizer."""
    folder = tmp_path_factory.mktemp("four-layers")
    _save_tiny(folder, request.param(), "Llama", 0, {"num_hidden_layers": 4})
    return folder


@pytest.fixture(scope="module")
def texts():
    """Two topics and what must stay; documents are longer and shorter than what is read of them."""
    first, second = (documents("forget", seed, 20) for seed in (0, 1))
    return [[*OTHERS, *first[:6]], [second[0], *(t[: 20 * n] for n, t in enumerate(second[1:], 1))][:9]], [
        t[: 25 * n] for n, t in enumerate(documents("retain", 0, 20)[:9], 1)
    ]


def test_the_recipe_gives_the_losses_of_the_published_form(four_layers, texts, tmp_path):
    theirs = as_published(four_layers, *texts, RUN)
    ours = by_recipe(four_layers, *texts, RUN, tmp_path)
    assert len(ours) == RUN.batches
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, abs=BOUND)
    assert theirs[2][1] > 100 * BOUND, "the retain loss has moved, so it is compared too"


def test_target_tokens_alone_give_another_mean(four_layers, texts, tmp_path):
    """The default is not the published form: padding, and the token that a text begins with, count there."""
    theirs = as_published(four_layers, *texts, replace(RUN, batches=2))
    ours = by_recipe(four_layers, *texts, replace(RUN, batches=2), tmp_path, mean_over=None)
    assert all(abs(one[0] - other[0]) > 100 * BOUND for one, other in zip(ours, theirs, strict=True))


def test_the_recipe_says_what_the_published_run_does(tmp_path):
    study, config = recipe(tmp_path)
    check_study(study)
    assert [step.settings["text_length"] for step in study.steps] == [512, 768] and study.measures["benchmarks"]["tasks"] == [
        "wmdp",
        "mmlu",
    ]
    assert {(step.settings["text_pieces"], step.settings["limit"]) for step in study.steps} == {("first", 150 * 4 // 2)}
    assert numbers(config, 6).steering == (6.5, 6.5)
    assert (config.method, config.tokens, config.mean_over, config.order) == ("rmu", "all", "padded", "file")
    assert (config.max_steps, config.batch_size, config.accumulate, config.epochs) == (150, 4, 1, 1)
    assert (config.learning_rate, config.schedule, config.warmup, config.clip, config.weight_decay) == (5e-5, "constant", 0, 0, 0)
    assert (config.alpha, config.options["steering"], config.options["layer"]) == ((1200, 1200), (6.5, 6.5), 7)
    assert [one.options["seed"] for one in config.filled().corpora] == [0, 1]
    assert len(config.scores) == 2 and (config.text_length, config.text_pieces) == (512, "first")


def item(*ids: int) -> Item:
    return Item(list(ids), list(range(1, len(ids))), torch.ones(len(ids) - 1).numpy())


def test_rows_are_padded_on_the_left_and_every_position_counts():
    items = [item(5, 6), item(7, 8, 9, 10)]
    ids, mask = left_padded(items, 2, CPU)
    assert ids.tolist() == [[2, 2, 5, 6], [7, 8, 9, 10]] and mask.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert (positions_of(items), positions_of([])) == (8, 0)


def test_a_padded_pass_gives_every_position_and_the_log_probabilities_of_targets(tiny_model):
    packed = PackedModel(load_model(tiny_model, dtype=torch.float32, device=CPU))
    rows = PassRows([item(5, 6), item(7, 8, 9, 10)], [])
    seen = padded_pass(packed, rows, Needs(layer=1), Needs(layer=1), None, 2)
    assert seen.forget.layer_ND.shape == (8, 64) and seen.forget.layer_ND.isfinite().all() and seen.retain.rows == 0
    again = padded_pass(packed, rows, Needs(layer=1), Needs(layer=1), None, 2).forget
    assert torch.equal(again.layer_ND, seen.forget.layer_ND), "what stands at padding is the same each time"
    assert seen.forget.weight_N.tolist() == [1.0] * 8 and seen.forget.row_N.tolist() == [0] * 4 + [1] * 4
    plain = packed.model(input_ids=torch.tensor([[7, 8, 9, 10]])).logits[0].log_softmax(-1)
    expected = [plain[i, token].item() for i, token in enumerate((8, 9, 10))]
    assert seen.forget.logp_N[5:].tolist() == pytest.approx(expected, abs=1e-5)
    assert seen.forget.logp_N[[0, 1, 2, 4]].tolist() == [0.0] * 4


def test_directions_are_uniform_and_of_length_one():
    start = METHODS["rmu"].start
    assert start is not None
    for seed in (0, 1):
        assert torch.equal(start(64, {"seed": float(seed)})["direction"], direction(64, seed))
    assert not torch.equal(direction(64, 0), direction(64, 1)) and (direction(64, 0) >= 0).all()


@pytest.mark.parametrize(("settings", "said"), [
    ({"method": "npo"}, "mean_over=padded: the loss of --method npo is no mean of hidden states; it is for rmu"),
    ({"method": "undial"}, "the loss of --method undial is no mean of hidden states"),
    ({"method": "rmu", "tokens": "hard"}, "mean_over=padded counts every position alike, so --tokens hard has nothing to choose"),
    ({"method": "rmu", "retain_term": "nll"}, "mean_over=padded: the retain term nll is no mean of hidden states"),
])  # fmt: skip
def test_what_a_padded_mean_cannot_be_of_is_refused(settings, said):
    with pytest.raises(ConfigError) as error:
        UnlearnConfig(**{"model": "m", "scores": "s", "retain": RETAIN, "out": "o", "tokens": "all", "mean_over": "padded", **settings})
    assert said in str(error.value)
