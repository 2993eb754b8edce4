"""torchrun itself, end to end: two ranks over gloo train what one process trains, measure a suite on the way, and keep
the best model."""

import json
import os
import subprocess
import sys

import torch
from safetensors.torch import load_file

from tests.tu_train.conftest import FORGET, RETAIN, log_of, weights_of


def test_two_ranks_of_torchrun_are_one_process(target, scores, unlearn, tmp_path):
    suite, out = tmp_path / "suite.toml", tmp_path / "two"
    suite.write_text(f'[[set]]\nname = "forget"\ndata = "{FORGET}"\n\n[[set]]\nname = "retain"\ndata = "{RETAIN}"\n')
    sets = ("batch_size=3", "learning_rate=1e-3", "max_steps=2", "eval_options={limit=1}")
    asked = ("--model", target, "--scores", scores, "--retain", RETAIN, "--device", "cpu", "--out", out, "--eval-suite", suite,
             "--eval-every", 2, "--keep-best", "forget_probability", *(word for pair in sets for word in ("--set", pair)))  # fmt: skip
    made = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tu_train", "run", *map(str, asked)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("unlearned model: ") == 1 and "Traceback" not in made.stderr
    one = unlearn(max_steps=2, eval_every=2)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, out))
    assert ours.keys() == theirs.keys()
    apart = torch.cat([(ours[name] - theirs[name]).flatten() for name in ours]).norm()
    assert apart < 1e-5 * torch.cat([value.flatten() for value in ours.values()]).norm()
    assert weights_of(out / "best") == weights_of(out)
    best = json.loads((out / "best" / "training.json").read_text())["best"]
    assert best == {"metric": "forget_probability", "value": log_of(out)[-1]["suite_forget_probability"]}
