"""Several ranks train what one process trains: every method, token mode and option, but for rounding.

One pair of processes goes through all runs while this process makes the same ones alone.
"""

import pytest
import torch

from tests.tu_train import ranked
from tests.tu_train.conftest import FULL, RETAIN, score
from tu_train.methods.table import METHODS
from tu_train.ranks import ALONE

STEPS, BOUND = 12, 1e-5
MODES = {"all": {}, "hard": {}, "soft": {"soft": "softmax"}}
OWN = {"altpo": {"alternate_key": "perturbed_answer"}, "rmu": {"options": {"layer": 1.0}}}
BOUNDS = {**dict.fromkeys(("loss", "forget_loss", "forget_nll", "retain_loss", "retain_nll"), BOUND), "gradient_norm": 1e-4}
FAMILIES = (
    ("Llama", {}), ("Llama", {"tie_word_embeddings": True}), ("Gemma3Text", {"tie_word_embeddings": True, "head_dim": 16}),
    ("Qwen2", {"tie_word_embeddings": True}), ("Qwen2", {}),
)  # fmt: skip
OF_FOUR = ("npo", "undial", "rmu")
OPTIONS = {
    "passes and fillers": {"batch_size": 2, "accumulate": 2, "epochs": 6, "batch_tokens": 150},
    "a pass a row": {"batch_tokens": 1, "epochs": 2},
    "exact KL": {"retain_term": "kl", "learning_rate": 1e-3},
    "KL from a store": {"retain_term": "kl", "retain": None, "retain_scores": "top", "learning_rate": 1e-3},
    "LoRA": {"lora": 4, "epochs": 3},
    "LoRA, and the model without": {"lora": 4, "retain_term": "kl", "lora_targets": ["all-linear"], "learning_rate": 1e-2},
    "one block": {"train_only": ["*.layers.0.*"], "epochs": 2},
    "one block and the model before": {"train_only": ["*.layers.0.*"], "method": "undial", "epochs": 2},
    "kept activations": {"checkpointing": False, "epochs": 2},
    "several corpora": {"scores": ["scores", "scores"], "gamma": [1.0, 0.5], "epochs": 2},
    "file order": {"order": "file", "optimizer": "adamw_transformers", "clip": 0.0, "epochs": 2},
    "evaluation": {"eval_every": 2, "eval_key": "fact_spans", "epochs": 2},
    "landing": {"eval_every": 2, "stop_when": "forget_nll>2.5", "land": True, "epochs": 12, "learning_rate": 1e-3},
    "answers that the model writes": {"method": "altpo", "alternates": "generate", "epochs": 2},
    "another architecture": {"model": "GPT2", "epochs": 2},
    "fine-tuning": {"data": FULL, "epochs": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def usual():
    return {"retain": RETAIN, "device": "cpu", "epochs": 6, "batch_size": 3, "learning_rate": 1e-4, "allow_other_model": True}


@pytest.fixture(scope="module")
def of_methods(make_tiny, scores, usual, tmp_path_factory):
    """`of_methods(names)`: runs of them in each token mode, the model another from run to run."""
    models = [make_tiny(name, seed=3, **options) for name, options in FAMILIES]
    qwen = score(models[3], tmp_path_factory.mktemp("qwen") / "scores")  # transformers gives Qwen's folder a tokenizer of its own
    stores = [qwen if name == "Qwen2" else scores for name, _ in FAMILIES]

    def runs(names):
        cases = [(method, mode, at % len(models)) for at, (method, mode) in enumerate((m, t) for m in names for t in MODES)]
        return {
            f"{method}, {mode}, {FAMILIES[at]}": {
                **usual, "model": str(models[at]), "scores": str(stores[at]), "method": method, "tokens": mode, **MODES[mode],
                **OWN.get(method, {}),
            }
            for method, mode, at in cases
        }  # fmt: skip

    return runs


@pytest.fixture(scope="module")
def of_options(make_tiny, target, scores, usual, tmp_path_factory):
    top = score(target, tmp_path_factory.mktemp("top") / "scores", data=RETAIN, topk=8)
    named = {"top": str(top), "scores": str(scores), "GPT2": str(make_tiny("GPT2", seed=3))}

    def real(value):
        return [real(v) for v in value] if isinstance(value, list) else named.get(value, value) if isinstance(value, str) else value

    learned = {name: usual[name] for name in ("device", "batch_size", "learning_rate")}
    return {
        name: {
            **({"model": str(target), **learned} if "data" in options else {**usual, "model": str(target), "scores": str(scores)}),
            **{key: real(value) for key, value in options.items()},
        }
        for name, options in OPTIONS.items()
    }


def compared(runs, count, folder):
    """(name, what one process leaves, what `count` ranks leave) of each run."""
    ranks = ranked.begin(count, list(runs.values()), folder / "ranks")
    alone = [ranked.trained(run, folder, ALONE) for run in runs.values()]
    assert ranked.wait(ranks) == [0] * count, "\n".join(ranked.said(folder / "ranks"))[-6000:]
    together = [torch.load(folder / "ranks" / f"{number}.pt") for number in range(len(runs))]
    return list(zip(runs, alone, together, strict=True))


def apart(one, other) -> tuple[float, float]:
    """Largest difference of a loss or gradient norm, relative to the largest of that name in the run, in units of its
    bound; distance of all weights, relative to their length, in units of BOUND. (Adam takes no notice of a gradient's
    size, and makes a step of what is rounding in one near zero.)"""
    (log, weights), (other_log, others) = one, other
    assert [e.keys() for e in log] == [e.keys() for e in other_log] and weights.keys() == others.keys()
    names = [name for name in log[0] if name in BOUNDS]
    largest = {name: max(abs(entry[name]) for entry in log) for name in names}
    losses = max(abs(a[name] - b[name]) / largest[name] / BOUNDS[name] for a, b in zip(log, other_log, strict=True) for name in names)
    numbers, other_numbers = (torch.cat([w[name].flatten().double() for name in weights]) for w in (weights, others))
    return losses, ((numbers - other_numbers).norm() / numbers.norm()).item() / BOUND


def test_every_method_in_every_token_mode_and_every_option_on_two_ranks(of_methods, of_options, tmp_path):
    for name, one, two in compared({**of_methods(METHODS), **of_options}, 2, tmp_path):
        assert not isinstance(one, str), f"{name}: {one}"
        losses, weights = apart(one, two)
        assert losses <= 1 and weights <= 1, f"{name}: losses {losses:.1e}, weights {weights:.1e} of the bounds"
        assert name in OPTIONS or len(one[0]) == STEPS


def test_three_methods_on_four_ranks(of_methods, tmp_path):
    """The last step of an epoch has two rows, so two ranks have none there."""
    runs = {name: {**run, "batch_size": 2, "accumulate": 2} for name, run in of_methods(OF_FOUR).items() if "hard" in name}
    for name, one, four in compared(runs, 4, tmp_path):
        losses, weights = apart(one, four)
        assert losses <= 1 and weights <= 1, f"{name}: losses {losses:.1e}, weights {weights:.1e} of the bounds"


def test_weights_that_differ_are_seen():
    log, weights = [{"loss": 2.0}, {"loss": 1.0}], {"a": torch.ones(4)}
    assert apart((log, weights), (log, weights)) == (0, 0)
    other = [{"loss": 2.0}, {"loss": 1.1}], {"a": torch.tensor([1, 1, 1, 2.0])}
    assert apart((log, weights), other) == pytest.approx((0.05 / BOUND, 0.5 / BOUND))
