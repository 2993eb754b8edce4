"""`tu-train run --dry-run --ranks N`: what each of several ranks holds, said by one process, is what they hold."""

import json
import multiprocessing

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.conftest import build_sentencepiece
from tests.ports import free_port
from tests.tu_train import measured as measured_by
from tests.tu_train.conftest import FORGET, RETAIN
from tests.tu_train.test_estimate import config_of
from tu_train.data.dealing import dealt, dealt_to_all
from tu_train.estimate import estimate
from tu_train.gather import gather_unlearning
from tu_train.plan import plan_unlearning

BOUND, PATIENCE_S = 0.15, 300
RUNS = {
    "plain": {},
    "the model before": {"method": "undial"},
    "kept activations, one block": {"checkpointing": False, "train_only": ["*.layers.0.*"]},
    "adapters": {"lora": 4},
}
USUAL = {"forget": FORGET, "retain": RETAIN, "method": "graddiff", "tokens": "all", "device": "cpu", "epochs": 2, "batch_size": 6}
"""of two steps: moments are there from the second on"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Of three million weights whose embedding does not divide by two, in bfloat16 so that none is a page of a file."""
    tokenizer, folder = build_sentencepiece(), tmp_path_factory.mktemp("model")
    config = LlamaConfig(vocab_size=4097, hidden_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                         intermediate_size=512, max_position_embeddings=512, pad_token_id=tokenizer.pad_token_id,
                         bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def measured(model, tmp_path_factory):
    """Run -> what each of two ranks held. What is not counted is there after a first run: buffers of kernels."""
    folder, context, made = tmp_path_factory.mktemp("ranks"), multiprocessing.get_context("forkserver"), []
    context.set_forkserver_preload(["tests.tu_train.killed"])
    runs = [{**USUAL, "model": model, **fields} for fields in ({}, *RUNS.values())]
    port = free_port()
    for number in range(2):
        place = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        made.append(context.Process(target=measured_by.rank, args=(folder, runs, {name: str(value) for name, value in place.items()})))
        made[-1].start()
    for process in made:
        process.join(PATIENCE_S)
        assert process.exitcode == 0, "\n".join(path.read_text() for path in folder.glob("said-*"))[-4000:]
    each = [json.loads((folder / f"{number}.json").read_text()) for number in range(2)]
    return {name: [found[at] for found in each] for at, name in enumerate(RUNS, 1)}


@pytest.mark.parametrize("run", RUNS)
def test_two_ranks_hold_what_is_said_of_each(run, model, measured):
    said = estimate(config_of(model, "-", **RUNS[run]), 2).memory
    held = measured[run][0]
    assert {name: getattr(said, name) for name in ("weights", "gradients", "moments")} == {
        name: held[name] for name in ("weights", "gradients", "moments")
    }
    assert said.peak == pytest.approx(max(each["peak"] for each in measured[run]), rel=BOUND)


def test_one_rank_is_one_process_and_four_hold_a_quarter_each(model):
    config = config_of(model, "-")
    one, four = estimate(config, 1), estimate(config, 4)
    assert one == estimate(config)
    assert one.memory.gathered == 0 and one.memory.weights > 3.5 * four.memory.weights and one.memory.peak > four.memory.peak > 0
    assert (one.steps, one.tokens, one.trained) == (four.steps, four.tokens, four.trained) and one.largest > four.largest


def test_what_all_ranks_are_dealt_is_what_each_is(target, scores):
    config = config_of(target, "-", batch_size=4, batch_tokens=100).filled()
    plan = plan_unlearning(config, gather_unlearning(config))
    size = {"batch_size": 4, "batch_tokens": 100}
    for step in plan.stream(0):
        each = dealt_to_all(step, 3, **size)
        assert each == [dealt(step, rank, 3, **size) for rank in range(3)] and len({len(own) for own in each}) == 1


NAMED = ("--forget", FORGET, "--retain", RETAIN, "--method", "graddiff", "--tokens", "all", "--device", "cpu", "--dry-run")


def test_the_command_says_it_of_each_rank_once_and_writes_nothing(run_cli, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = run_cli("tu-train", "run", "--model", model, *NAMED, "--ranks", 1)
    assert plain[0] == 0
    code, out, err = run_cli("tu-train", "run", "--model", model, *NAMED, "--ranks", 2)
    assert code == 0 and err == "" and "of tensors on each of 2 ranks (cpu), of which" in out and "  gathered " in out, err
    assert "gathered" not in plain[1] and "host memory holds the whole model" in out
    assert not list(tmp_path.iterdir()) and not torch.distributed.is_initialized()
    for rank in range(2):  # as torchrun starts it
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", str(rank))
        assert run_cli("tu-train", "run", "--model", model, *NAMED) == ((0, "", "") if rank else (0, out, ""))
        code, none, err = run_cli("tu-train", "run", "--model", model, *NAMED, "--ranks", 4)
        assert (code, none) == (2, "") and err == "error: --ranks 4: torchrun has started 2; leave --ranks out, or start without torchrun\n"


@pytest.mark.parametrize(("more", "said"), [
    (("--ranks", 2, "--out", "out"), "--ranks 2: says for how many ranks --dry-run speaks; add --dry-run, or start ranks that train with"),
    (("--dry-run", "--ranks", 0), "--ranks is 0, expected at least 1"),
    (("--dry-run", "--ranks", 9), "9 ranks, but a step has 8 rows (batch_size 8 times accumulate 1); start at most 8 ranks"),
    (("--dry-run", "--ranks", 2, "--device", "cuda:1"), "--device cuda:1: 2 ranks choose their own devices"),
    (("--dry-run", "--ranks", 2, "--set", "moments=8bit"), "--set moments=8bit is not built for 2 ranks"),
    (("--dry-run", "--ranks", 2, "--set", "moments_on=cpu"), "--set moments_on=cpu is not built for 2 ranks"),
    (("--dry-run", "--ranks", 2, "--dtype", "bfloat16", "--set", "weights=bfloat16"), "--set weights=bfloat16 is not built for 2 ranks"),
    (("--dry-run", "--ranks", 2, "--set", "optimizer=adamw8bit"), "--set optimizer=adamw8bit: its state cannot be split over 2 ranks"),
])  # fmt: skip
def test_what_cannot_be_is_one_line(more, said, run_cli, target, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = ("--model", target, "--forget", FORGET, "--retain", RETAIN, "--method", "graddiff", "--tokens", "all")
    code, out, err = run_cli("tu-train", "run", *named, *more)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and said in err, err
    assert not list(tmp_path.iterdir())
