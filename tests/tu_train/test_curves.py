"""Loss curves of a tiny model, kept in curves.json, so that a refactor cannot move numbers unseen.

Everything here is made by hand (weights and rows out of NumPy's generator, float64), so that no other part of the
project and no library's initialisation moves them. After a change that is meant to: `python -m
tests.tu_train.test_curves` writes the file anew.
"""

import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from shared.lm.packed import PackedModel
from shared.weighting.weights import Selection
from tests.tu_train.conftest import write_store
from tu_train.config import LoopConfig
from tu_train.data.batches import Item, endless, forget_items, item_of_row, steps
from tu_train.loop import Objective, train
from tu_train.methods.retain_terms import RETAIN_TERMS
from tu_train.methods.table import METHODS, check_options
from tu_train.model.reference import Reference

CURVES = Path(__file__).with_name("curves.json")
RUNS = {f"{name}/{'all' if name == 'graddiff' else 'hard'}": (name, "all" if name == "graddiff" else "hard") for name in METHODS}
COLUMNS = ("loss", "forget_nll", "gradient_norm", "learning_rate")
VOCABULARY, STEPS = 60, 6


def model() -> LlamaForCausalLM:
    made = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        max_position_embeddings=64,
    )).double()  # fmt: skip
    generator = np.random.default_rng(0)
    with torch.no_grad():
        for _, parameter in sorted(made.named_parameters()):
            parameter.copy_(torch.tensor(1.0 if parameter.ndim == 1 else 0.2 * generator.standard_normal(parameter.shape)))
    return made


def row(generator: np.random.Generator, number: int) -> dict:
    length = int(generator.integers(10, 20))
    targets = [i >= 5 for i in range(length)]
    return {
        "example_id": f"row/{number}",
        "input_ids": [1, 2, 3, *generator.integers(4, VOCABULARY, length - 3).tolist()],
        "is_target": targets,
        "logprob": [None, *(-5 * generator.random(length - 1)).tolist()],
        "importance": [v if t else None for t, v in zip(targets, generator.random(length).tolist(), strict=True)],
    }


def partner(made: dict) -> Item:
    """An answer that the method learns, with its log-probabilities under the scored model."""
    targets = list(range(5, len(made["input_ids"])))
    return Item(made["input_ids"], targets, np.ones(len(targets), np.float32), np.array([made["logprob"][i] for i in targets], np.float32))


def curve(method: str, tokens: str, folder: Path) -> dict[str, list[float]]:
    generator = np.random.default_rng(1)
    store = write_store(folder / "store", [[row(generator, 3 * part + k) for k in range(3)] for part in range(2)])
    retain = [Item(r["input_ids"], list(range(5, len(r["input_ids"]))), np.ones(len(r["input_ids"]) - 5, dtype=np.float32))
              for r in (row(generator, k) for k in range(5))]  # fmt: skip
    needs = METHODS[method].needs
    others_of = {f"row/{k}": row(generator, k) for k in range(6)} if needs & {"refusal", "alternate"} else None
    partners = None if others_of is None else {k: partner(r) for k, r in others_of.items()}
    make = partial(item_of_row, selection=Selection(tokens=tokens), where="store", all_targets="all targets" in needs, partners=partners)
    others = endless(retain, seed=0)

    def stream(first: int):
        assert first == 0
        for epoch in range(2):
            yield from steps(forget_items(store, make, seed=0, epoch=epoch), others, batch_size=2, batch_tokens=60)

    config = LoopConfig(model="", out="", learning_rate=1e-3, batch_size=2)
    given = {"layer": 1.0} if "layer" in METHODS[method].options else {}
    objective = Objective(METHODS[method], check_options(method, given), retain=RETAIN_TERMS.get(METHODS[method].retain))
    packed = PackedModel(model())
    train(packed, stream, STEPS, objective, config, folder / "log.jsonl", reference=Reference(packed))
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {name: [r[name] for r in log] for name in COLUMNS}


@pytest.mark.parametrize("name", RUNS)
def test_the_curve_is_the_one_that_was_kept(name, tmp_path):
    kept = json.loads(CURVES.read_text())[name]
    found = curve(*RUNS[name], tmp_path)
    assert set(kept) == set(COLUMNS)
    for column in COLUMNS:
        assert len(kept[column]) == STEPS
        assert found[column] == pytest.approx(kept[column], rel=1e-5), column


if __name__ == "__main__":
    made = {}
    for name, run in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            made[name] = curve(*run, Path(folder))
    CURVES.write_text(json.dumps(made, indent=1) + "\n")
