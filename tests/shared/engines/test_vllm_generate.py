"""Greedy text from vLLM against the torch engine's, and `tu-eval run --engine vllm` against the torch results."""

import json
import math

import pandas
import pytest

from shared.engines.torch import TorchEngine
from shared.engines.vllm import VllmEngine
from shared.engines.vllm_generate import VllmGenerator
from shared.errors import ModelError
from tests.shared.engines.test_vllm_engine import WIDE_HEADS, example, requests, vllm  # noqa: F401 — the fixture
from tests.tu_eval.conftest import SUITE

NATS = 2e-4
LENGTH = 24


@pytest.fixture
def closing():
    """Whatever is put in is closed, so that one failure does not make others."""
    held = []
    yield held
    for engine in held:
        engine.close()


def prompts() -> list[list[int]]:
    """Some share beginnings longer than a block of the prefix cache, and one is alone."""
    system = example(0, 40)
    return [system + example(seed, 3 + 5 * seed) for seed in range(1, 6)] + [example(7, 2)]


@pytest.mark.parametrize("architecture", ["Llama", "GPT2", "Gemma2", "Mistral"])
def test_text_is_that_of_the_torch_engine(vllm, closing, make_tiny, architecture):  # noqa: F811
    folder = make_tiny(architecture, **WIDE_HEADS[architecture])
    torch_engine = TorchEngine.load(folder, device="cpu")
    free = torch_engine.generate(prompts(), max_new_tokens=LENGTH, stop_ids=[2])
    stop = [2, free[0][5], free[3][11]]
    limits = [LENGTH - i for i in range(len(free))]
    closing.append(VllmGenerator(folder, batch_tokens=64))
    done: list[int] = []
    found = closing[0].generate(prompts(), max_new_tokens=limits, stop_ids=stop, advance=done.append)
    assert found == torch_engine.generate(prompts(), max_new_tokens=limits, stop_ids=stop)
    assert len({len(ids) for ids in found}) > 2 and sum(done) == len(found)
    assert not any(set(ids) & set(stop) for ids in found)


def test_settings_in_the_models_folder_do_not_make_it_less_greedy(vllm, closing, make_tiny, tmp_path):  # noqa: F811
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(make_tiny("Llama", **WIDE_HEADS["Llama"]))
    expected = TorchEngine.load(make_tiny("Llama", **WIDE_HEADS["Llama"]), device="cpu").generate(prompts(), max_new_tokens=9, stop_ids=[2])
    model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=3.0, eos_token_id=[2, expected[0][1]])
    model.save_pretrained(tmp_path)
    closing.append(VllmGenerator(tmp_path, batch_tokens=64))
    assert closing[0].generate(prompts(), max_new_tokens=9, stop_ids=[2]) == expected


def test_scores_text_and_scores_again_in_one_process(vllm, make_tiny):  # noqa: F811
    """Each opens vLLM with another model class under the same name."""
    folder = make_tiny("Llama", **WIDE_HEADS["Llama"])
    scores, texts = [], []
    for _ in range(2):
        engine = VllmEngine(folder, batch_tokens=64)
        with pytest.raises(RuntimeError, match="a vLLM engine is open in this process"):
            VllmGenerator(folder)
        scores.append([s.logprob.tolist() for s in engine.score(requests())])
        engine.close()
        generator = VllmGenerator(folder, batch_tokens=64)
        texts.append(generator.generate(prompts(), max_new_tokens=5, stop_ids=[2]))
        generator.close()
    assert scores[0] == scores[1] and texts[0] == texts[1]


def test_an_answer_without_room_is_refused(vllm, closing, make_tiny):  # noqa: F811
    closing.append(VllmGenerator(make_tiny("Llama", **WIDE_HEADS["Llama"]), batch_tokens=64))
    with pytest.raises(ModelError, match=r"a prompt of 500 tokens and 13 new ones, but vLLM holds 512 here; the model's context is 512"):
        closing[0].generate([example(0, 500)], max_new_tokens=13, stop_ids=[2])


def test_an_evaluation_gives_the_numbers_of_the_torch_engine(vllm, run_cli, make_tiny, tmp_path):  # noqa: F811
    """Through the real command; gradients come from torch, after vLLM."""
    folder = make_tiny("Llama", **WIDE_HEADS["Llama"])
    frames = {}
    for name in ("torch", "vllm"):
        code, _, err = run_cli(
            "tu-eval", "run", "--model", folder, "--suite", SUITE, "--limit", 3, "--engine", name, "--out", tmp_path / name,
            "--store", tmp_path / "store", "--set", "max_new_tokens=12", "--set", "gradients=true",
        )  # fmt: skip
        assert code == 0 and "already measured" not in err, err
        frames[name] = {part: pandas.read_parquet(tmp_path / name / f"{part}.parquet") for part in ("rows", "membership")}
    made, expected = frames["vllm"]["rows"], frames["torch"]["rows"]
    assert made["generation"].tolist() == expected["generation"].tolist() and made["generation"].str.len().min() > 0
    assert ((made["nll_sum"] - expected["nll_sum"]).abs() <= NATS * made["target_tokens"]).all()
    assert (made["probability"].map(math.log) - expected["probability"].map(math.log)).abs().max() <= NATS
    assert (made["log_truth_ratio"] - expected["log_truth_ratio"]).abs().max() <= 2 * NATS
    same = ["exact_memorization", "extraction_strength", "rouge_l_recall"]
    pandas.testing.assert_frame_equal(made[same], expected[same])
    attacks = [name for name in made_columns(frames["torch"]["membership"]) if name != "reference"]
    pandas.testing.assert_frame_equal(frames["vllm"]["membership"][attacks], frames["torch"]["membership"][attacks], atol=2e-3, rtol=2e-3)
    summary = json.loads((tmp_path / "vllm" / "summary.json").read_text())
    assert summary["engine"]["name"] == "vllm"
    identities = [json.loads(p.read_text()) for p in (tmp_path / "store").glob("*/identity.json")]
    assert sorted((i["engine"], "vllm" in i["versions"]) for i in identities) == [("torch", False), ("vllm", True)]


def made_columns(frame: pandas.DataFrame) -> list[str]:
    return [name for name in frame.columns if frame[name].dtype == float and frame[name].notna().all()]
