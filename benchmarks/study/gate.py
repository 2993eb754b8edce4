"""ATWU's learned gate (arXiv 2606.06320) as a token source: unlearn with it once, then read what it says of each
token."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.study.commands import train
from benchmarks.study.prepare import Made
from shared.files.fs import read_json
from shared.lm.models import load_model, load_tokenizer
from shared.lm.packed import PackedModel
from shared.store.scored import scored_examples
from shared.store.scores import open_store
from tu_train.saving.output import STATE

LEARNING = ["--epochs", "10", "--learning-rate", "1e-4", "--set", "batch_size=4", "--set", "schedule=constant", "--option", "every=1"]
"""a step of the gate at every step of the model: the runs here are short"""


def gate_values(made: Made) -> np.ndarray:
    """g = σ(v · [h, 1]) of each target token of the forget set, under the model that was unlearned together with the
    gate."""
    out = made.folder / "models" / "gate"
    words = ["tu-train", "run", "--model", made.target, "--scores", str(made.scores), "--retain", made.retain, "--method", "atwu"]
    train([*words, "--tokens", "all", *LEARNING], out, made.folder / "prepare.log")
    gate = torch.tensor(read_json(out / STATE)["gate"])
    packed = PackedModel(load_model(out, dtype=torch.float32, device=torch.device("cpu")))
    values = []
    for example in scored_examples(open_store(made.scores), load_tokenizer(out), made.target, made.forget):
        with torch.no_grad():
            hidden_LD, slots = packed.hidden([example.input_ids])
        rows = [slots[0][t - 1] for t in example.targets]
        values += (hidden_LD[rows] @ gate[:-1] + gate[-1]).sigmoid().tolist()
    return np.array(values)
