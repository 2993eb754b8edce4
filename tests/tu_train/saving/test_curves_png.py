import json
import math

import matplotlib.image
import numpy as np
import pytest

from tests.tu_train.conftest import RETAIN
from tu_train.saving import output
from tu_train.saving.curves import STYLES, draw_curves


def log(path, steps, **extra):
    with open(path, "w") as out:
        for k in range(steps):
            record = {"step": k, "learning_rate": 1e-5 * (1 - k / steps), "loss": math.exp(-k / 20) + 0.2, "forget_nll": 0.4 + k / 15,
                      "retain_nll": 0.5 + 0.02 * math.sin(k), "gradient_norm": 1.0}  # fmt: skip
            if k % 10 == 9:
                record |= {"eval_forget_probability": 0.9 * math.exp(-k / 30), "eval_retain_probability": 0.85}
            out.write(json.dumps(record) + "\n")


def seen(image):
    """The colours of STYLES that at least twenty pixels of a picture have."""
    pixels = np.round(image[..., :3] * 255).astype(int).reshape(-1, 3)
    return [k for k, (c, _, _) in enumerate(STYLES) if (pixels == [int(c[i : i + 2], 16) for i in (1, 3, 5)]).all(1).sum() >= 20]


def test_the_picture_is_small_and_holds_two_curves_and_is_the_same_again(tmp_path):
    log(tmp_path / "log.jsonl", 60)
    draw_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    first = (tmp_path / "curves.png").read_bytes()
    draw_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes() == first and len(first) < 150_000
    image = matplotlib.image.imread(tmp_path / "curves.png")
    assert image.shape[:2] == (580, 880) and {0, 1} <= set(seen(image))


def test_fine_tuning_without_evaluations_and_an_empty_log(tmp_path):
    (tmp_path / "log.jsonl").write_text("")
    draw_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
    (tmp_path / "log.jsonl").write_text('{"step": 0, "loss": 1.0}\n{"step": 1, "loss": 0.5}\n')
    draw_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    image = matplotlib.image.imread(tmp_path / "curves.png")
    assert image.shape[:2] == (290, 440) and seen(image)[:1] == [0] and 1 not in seen(image)


@pytest.mark.parametrize("verb", ["run", "finetune"])
def test_a_run_leaves_the_picture_of_its_log(run_cli, target, scores, tmp_path, monkeypatch, verb):
    monkeypatch.setattr(output, "draw_curves", draw_curves)  # other tests have it draw nothing (tests/conftest.py)
    out, sources = tmp_path / "out", ("--scores", scores, "--retain", RETAIN) if verb == "run" else ("--data", RETAIN)
    code, _, err = run_cli("tu-train", verb, "--model", target, *sources, "--epochs", 1, "--device", "cpu", "--out", out)
    assert code == 0 and "curves.png" not in err
    draw_curves(out / "log.jsonl", tmp_path / "again.png")
    assert (out / "curves.png").read_bytes() == (tmp_path / "again.png").read_bytes()
