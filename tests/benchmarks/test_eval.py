"""The evaluation benchmark compares like with like: its baselines compute what the engine does, and a difference ends
it."""

import copy

import pytest
import torch

from benchmarks import eval as benchmark
from shared.engines.torch import TorchEngine
from shared.lm.models import load_model
from tu_eval.measure.pieces import score_examples


@pytest.fixture(scope="module")
def sides(make_tiny, tofu_dir):
    """Model, workload, and what our engine computes."""
    folder = make_tiny("Llama", max_position_embeddings=2048)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TU_TOFU_DIR", str(tofu_dir))
        load = benchmark.workload(folder, 3, 12)
    engine = TorchEngine.load(folder, device="cpu")
    scores = {row["id"]: row["logprob"] for row in score_examples(engine, load.examples, set())}
    texts = [ids for prompts in load.prompts for ids in engine.generate(prompts, max_new_tokens=load.most, stop_ids=load.stop)]
    return load_model(folder, dtype=torch.float32, device=torch.device("cpu")), load, scores, texts


def test_both_compute_the_same_log_probabilities(sides):
    model, load, scores, _ = sides
    expected = benchmark.forward_today(model, load)
    assert sorted(expected) == sorted(e.id for e in load.examples) and len(load.forget) == 3
    benchmark.check_forward(expected, scores)
    wrong = copy.deepcopy(scores)
    wrong[load.examples[5].id][-1] += 3e-4
    with pytest.raises(SystemExit, match=r"a log-probability differs by [23]\.\de-04 nats, allowed are 0\.0002"):
        benchmark.check_forward(expected, wrong)


@pytest.mark.parametrize("size", [1, 8])
def test_both_write_the_same(sides, size):
    model, load, _, texts = sides
    expected = benchmark.generate_today(model, load, size)
    assert expected == texts
    benchmark.check_texts(model, load, "batched", expected, texts)
    for wrong in ([*texts[0][:4], (texts[0][4] + 1) % 400, *texts[0][5:]], texts[0][:-1]):
        with pytest.raises(SystemExit, match=r"batched: an answer differs at token \d+, between tokens .* nats apart"):
            benchmark.check_texts(model, load, "batched", expected, [wrong, *texts[1:]])


def test_a_tie_is_no_difference(sides, monkeypatch, capsys):
    model, load, _, texts = sides
    monkeypatch.setattr(benchmark, "TIE_NATS", 1e9)
    benchmark.check_texts(model, load, "batched", texts, [[*texts[0][:4], 7, 9], *texts[1:]])
    assert "1 part at a tie" in capsys.readouterr().err
