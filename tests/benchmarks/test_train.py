"""The training benchmark's own pieces: what the baseline computes, and that runs which compute different things are not
compared."""

import math

import numpy as np
import pytest
import torch

from benchmarks.train import compare
from benchmarks.train_baseline import train_baseline
from shared.lm.models import load_model
from tu_train.data.batches import Item


def item(ids: list[int], first: int) -> Item:
    return Item(ids, list(range(first, len(ids))), np.ones(len(ids) - first, dtype=np.float32))


def test_the_baselines_first_loss_is_npo_with_retain_nll_of_rows_read_alone(tiny_model):
    model = load_model(tiny_model, dtype=torch.float32, device=torch.device("cpu"))
    pairs = [(item([5, 9, 2, 7, 30], 2), item([8, 3, 11], 1)), (item([4, 40], 1), item([6, 7, 21, 90, 12, 3], 3))]
    total = count = 0.0
    for _, retain in pairs:
        with torch.no_grad():
            logp = model(input_ids=torch.tensor([retain.ids])).logits[0].double().log_softmax(-1)
        total -= sum(logp[p - 1, retain.ids[p]].item() for p in retain.positions)
        count += len(retain.positions)
    expected = 2 / 0.1 * math.log(2) + total / count  # before the first step the log-ratio is 0
    found = train_baseline(model, pairs, batch_size=2, beta=0.1, learning_rate=1e-3)
    assert found == pytest.approx(expected, rel=1e-5)


def results(loss: float) -> dict[str, list[dict[str, float]]]:
    one = {"baseline": (10, 100, 2.0), "f32": (30, 40, loss), "bf16": (50, 30, 0), "lora": (60, 20, loss), "kept": (25, 35, loss)}
    return {name: [{"speed": s, "peak": p, "loss": ls}] for name, (s, p, ls) in one.items()}


def test_ratios_are_of_medians_and_other_losses_are_refused():
    runs = results(2.0001)
    runs["f32"] += [{"speed": 30, "peak": 40, "loss": 2.0}, {"speed": 900, "peak": 900, "loss": 2.0}]
    ratios = {"npo_f32": 3, "npo_bf16": 5, "peak_memory": 0.4, "lora": 2}
    assert compare(runs) == {**ratios, "kept_f32": 2.5, "kept_peak_memory": 0.35}
    with pytest.raises(SystemExit, match="do not compute the same thing"):
        compare(results(2.001))
