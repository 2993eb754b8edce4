"""The torch engine against plain transformers: scores at wanted positions, greedy text, and what must not matter to
either."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.engines.interface import Generator, Request
from shared.engines.open import open_engine, open_generator
from shared.engines.torch import GROWTH, TorchEngine
from shared.errors import ConfigError
from shared.lm.logprobs import HeadOptions
from shared.lm.models import load_model
from tests.conftest import ARCHITECTURES, VOCABULARY
from tests.shared.reference import assert_true, break_one_token, distributions, furthest

CPU = torch.device("cpu")
GENERATING = ("Llama", "Mistral", "Gemma2", "GPT2")
HEAD = HeadOptions(chunk_mib=1, temperature=0.7, top_k=5)
NATS = 5e-5  # promise 4
ATLAS = "atlas:forget:people=4,facts_per_person=3,forget_people=2,holdout_people=1"
STOP = 2  # <|im_end|>


@pytest.fixture(scope="module")
def engines(make_tiny):
    made: dict[str, TorchEngine] = {}

    def engine(name: str = "Llama") -> TorchEngine:
        if name not in made:
            made[name] = TorchEngine.load(make_tiny(name), device="cpu", head=HEAD)
        return made[name]

    return engine


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    """Rows that share a system turn and a question, masked variants of them read behind the span, some alone; some with
    extras."""
    rng = random.Random(0)

    def tokens(n: int) -> list[int]:
        return [rng.randrange(4, VOCABULARY) for _ in range(n)]

    system, made = tokens(12), []
    for _ in range(4):
        question = system + tokens(rng.randint(3, 20))
        made += [question + tokens(rng.randint(1, 25)) for _ in range(3)]
    made += [tokens(2), made[0], made[0][:20]]
    wanted = [sorted(rng.sample(range(1, len(ids)), rng.randint(1, len(ids) - 1))) for ids in made]
    out = [Request(ids, positions, extras=k % 2 == 0) for k, (ids, positions) in enumerate(zip(made, wanted, strict=True))]
    for ids in made[:12]:
        start = rng.randint(1, len(ids) - 3)
        masked = [*ids[:start], 0, 0, *ids[start + 2 :]]
        out.append(Request(masked, list(range(start + 2, len(ids)))))
    return out


@pytest.fixture(scope="module")
def truths(make_tiny, requests):
    made: dict[str, list[torch.Tensor]] = {}

    def truth(name: str) -> list[torch.Tensor]:
        if name not in made:
            made[name] = distributions(make_tiny(name), requests)
        return made[name]

    return truth


# --- scores


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("packs", [True, False])
def test_scores_equal_those_of_plain_forwards(engines, requests, truths, name, packs):
    engine = engines(name)
    assert engine.packed.packs
    engine.packed.packs = packs
    try:
        found = engine.score(requests)
    finally:
        engine.packed.packs = True
    assert all(scores.logprob.dtype == scores.entropy.dtype == np.float32 for scores in found)
    assert_true(requests, found, truths(name), HEAD, largest=NATS, mean=NATS / 10)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_neither_batch_size_nor_order_nor_company_matters(engines, requests, truths, data):
    engine = engines(name := data.draw(st.sampled_from(["Llama", "Mistral", "GPT2"])))
    chosen = data.draw(st.lists(st.sampled_from(range(len(requests))), min_size=1, max_size=2 * len(requests)))
    batch_tokens = data.draw(st.integers(1, 300) | st.just(100_000))
    asked, truth = [requests[i] for i in chosen], [truths(name)[i] for i in chosen]
    found = TorchEngine(engine.packed, batch_tokens=batch_tokens, head=HEAD).score(asked)
    assert_true(asked, found, truth, HEAD, largest=NATS, mean=NATS)


def distinct(sequences) -> int:
    return len({tuple(s[: k + 1]) for s in sequences for k in range(len(s))})


@pytest.mark.parametrize("batch_tokens", [1, 40, 200, 2048])
def test_batches_hold_every_sequence_once_and_keep_the_budget(engines, requests, batch_tokens):
    engine, sequences = TorchEngine(engines().packed, batch_tokens=batch_tokens), [r.ids for r in requests]
    batches = list(engine._batches(sequences))
    assert sorted(i for batch in batches for i in batch) == list(range(len(sequences)))
    assert all(len(batch) == 1 or distinct([sequences[i] for i in batch]) <= GROWTH[-1] * batch_tokens for batch in batches)


def test_sequences_that_share_little_keep_to_the_budget(engines):
    engine = TorchEngine(engines().packed, batch_tokens=100)
    sequences = [[i, *range(20, 30 + i % 7)] for i in range(60)]
    batches = list(engine._batches(sequences))
    assert len(batches) > 5
    assert all(distinct([sequences[i] for i in batch]) <= 100 for batch in batches)


def test_variants_of_a_long_text_go_in_rows_long_enough_to_pay_for_the_text_they_repeat(engines):
    """Cost in tokens of masking every 16 of a text, each variant read for 32: linear in its length, not quadratic."""

    def tokens_a_token(length: int, growth: tuple[int, ...]) -> float:
        text = [(7 * i) % 400 for i in range(length)]
        variants = [[*text[:at], *([450] * 16), *text[at + 16 : at + 48]] for at in range(0, length - 16, 16)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("shared.engines.torch.GROWTH", growth)
            batches = list(TorchEngine(engines().packed, batch_tokens=256)._batches([text, *variants]))
        return sum(distinct([([text, *variants])[i] for i in batch]) for batch in batches) / length

    assert tokens_a_token(1024, GROWTH) < 1.5 * tokens_a_token(256, GROWTH)
    assert tokens_a_token(1024, (1,)) > 2 * tokens_a_token(256, (1,))  # what it would cost in rows of 256


def test_rows_grow_no_longer_than_they_have_to(engines):
    """The smallest growth that computes at most 1.03 times the tokens of the largest."""
    text = [(7 * i) % 400 for i in range(512)]
    sequences = [text, *([*text[:at], *([450] * 16), *text[at + 16 : at + 48]] for at in range(0, 496, 16))]

    def computed(growth: tuple[int, ...]) -> tuple[float, int]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("shared.engines.torch.GROWTH", growth)
            batches = list(TorchEngine(engines().packed, batch_tokens=64)._batches(sequences))
        sizes = [distinct([sequences[i] for i in batch]) for batch in batches]
        return sum(sizes) / distinct(sequences), max(sizes)

    steps = (1, 2, 4, 8, 16, 32, 64)
    again, longest = computed(steps)
    needed = next(g for g in steps if computed((g,))[0] <= 1.03 * computed((64,))[0])
    assert needed > 4 and again <= 1.03
    assert longest <= 64 * needed


def test_padded_batches_are_of_similar_length_and_count_the_padding(engines, requests):
    engine = TorchEngine(engines().packed, batch_tokens=200)
    lengths = [len(r.ids) for r in requests]
    engine.packed.packs = False
    try:
        batches = list(engine._batches([r.ids for r in requests]))
    finally:
        engine.packed.packs = True
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 200 for batch in batches)
    ordered = [lengths[i] for batch in batches for i in batch]
    assert ordered == sorted(ordered)


def test_repeated_and_unordered_positions_are_answered_as_asked(engines, requests):
    engine, ids = engines(), requests[0].ids
    found = engine.score([Request(ids, [5, 3, 5]), Request(ids, [3])])
    assert found[0].logprob[0] == found[0].logprob[2]
    assert abs(found[0].logprob[1] - found[1].logprob[0]) < NATS


def test_requests_that_want_nothing_get_nothing(engines, requests):
    engine = engines()
    assert engine.score([]) == []
    assert [len(s.logprob) for s in engine.score([Request([5, 6, 7], [])])] == [0]
    assert [len(s.logprob) for s in engine.score([Request([5, 6, 7], []), requests[0]])] == [0, len(requests[0].wanted)]


def test_scoring_advances_by_the_tokens_of_the_requests(engines, requests, monkeypatch):
    steps: list[int] = []
    monkeypatch.setattr("shared.engines.torch.GROWTH", (1,))
    TorchEngine(engines().packed, batch_tokens=60).score(requests, steps.append)
    assert sum(steps) == sum(len(request.ids) for request in requests)
    assert len(steps) > 1


def test_low_precision_gives_float32_scores_near_the_right_ones(make_tiny, requests):
    engine = TorchEngine.load(make_tiny("Llama"), dtype="bfloat16", device="cpu")
    exact = TorchEngine.load(make_tiny("Llama"), device="cpu")
    found = engine.score(requests)
    assert found[0].logprob.dtype == np.float32
    assert 0 < furthest(found, exact.score(requests)) < 0.3


# --- greedy text


def naive(model, prompt: list[int], max_new_tokens: int, stop_ids: list[int]) -> list[int]:
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(max_new_tokens):
            token = model(torch.tensor([ids])).logits[0, -1].argmax().item()
            if token in stop_ids:
                break
            ids.append(token)
    return ids[len(prompt) :]


@pytest.fixture(scope="module")
def prompts(requests) -> list[list[int]]:
    return [request.ids[:n] for request, n in zip(requests, (1, 3, 17, 30, 8, 8), strict=False)]


@pytest.mark.parametrize("name", GENERATING)
@pytest.mark.parametrize("batch_tokens", [1, 90, 2048])
def test_greedy_text_equals_a_naive_loop_row_by_row(engines, prompts, name, batch_tokens):
    engine = TorchEngine(engines(name).packed, batch_tokens=batch_tokens)
    model = engine.packed.model
    free = [naive(model, p, 12, []) for p in prompts]
    stop_ids = [STOP, free[1][4], free[3][2]]  # so that rows end at different lengths
    expected = [naive(model, p, 12, stop_ids) for p in prompts]
    assert len({len(e) for e in expected}) > 1
    assert engine.generate(prompts, max_new_tokens=12, stop_ids=stop_ids) == expected


def test_settings_in_the_models_folder_do_not_make_it_less_greedy(make_tiny, prompts):
    engine = TorchEngine.load(make_tiny("Llama", seed=5), device="cpu")
    model = engine.packed.model
    expected = [naive(model, p, 10, [STOP]) for p in prompts]
    for entry, value in {
        "no_repeat_ngram_size": 1,
        "min_new_tokens": 9,
        "do_sample": True,
        "repetition_penalty": 3.0,
        "num_beams": 3,
    }.items():
        setattr(model.generation_config, entry, value)
    model.generation_config.suppress_tokens = [e[0] for e in expected if e]
    own = model.generation_config
    assert engine.generate(prompts, max_new_tokens=10, stop_ids=[STOP]) == expected
    assert model.generation_config is own


def test_generating_advances_by_prompts(engines, prompts):
    steps: list[int] = []
    engine = TorchEngine(engines().packed, batch_tokens=60)
    engine.generate(prompts, max_new_tokens=2, stop_ids=[STOP], advance=steps.append)
    assert sum(steps) == len(prompts)
    assert len(steps) > 1
    assert engine.generate([], max_new_tokens=2, stop_ids=[STOP]) == []


# --- opening


def test_an_engine_is_opened_by_name_and_describes_itself(tiny_model):
    for name in ("torch", "auto"):
        engine = open_engine(name, tiny_model, dtype="float32", device="cpu", batch_tokens=99)
        about = engine.describe()
        assert about.pop("version") == torch.__version__
        assert about == {"name": "torch", "dtype": "float32", "device": "cpu", "batching": "forest", "batch_tokens": 99}
        engine.close()


def test_a_generator_is_opened_by_name_like_an_engine_that_scores(tiny_model):
    prompts = [[1, 5, 9], [1, 7]]
    expected = TorchEngine.load(tiny_model, device="cpu").generate(prompts, max_new_tokens=6, stop_ids=[STOP])
    for name in ("torch", "auto"):
        generator = open_generator(name, tiny_model, dtype="float32", device="cpu", batch_tokens=99)
        assert isinstance(generator, Generator) and generator.describe()["batch_tokens"] == 99
        assert generator.generate(prompts, max_new_tokens=[6, 6], stop_ids=[STOP]) == expected
        generator.close()
    with pytest.raises(ConfigError, match=r"^--engine vlmm: unknown \(did you mean 'vllm'\?\)$"):
        open_generator("vlmm", tiny_model, dtype="float32", device=None, batch_tokens=1)


def test_an_unknown_engine_suggests_the_nearest(tiny_model):
    with pytest.raises(ConfigError, match=r"^--engine troch: unknown \(did you mean 'torch'\?\)$"):
        open_engine("troch", tiny_model, dtype="float32", device=None, batch_tokens=1)


def test_the_engine_loads_the_model_as_it_is_in_its_folder(tiny_model, requests):
    engine = TorchEngine.load(tiny_model, device="cpu")
    own = load_model(tiny_model, dtype=torch.float32, device=CPU)
    logp = own(torch.tensor([requests[0].ids])).logits[0].log_softmax(-1)
    expected = [logp[p - 1, requests[0].ids[p]].item() for p in requests[0].wanted]
    assert np.abs(engine.score(requests[:1])[0].logprob - np.array(expected)).max() < NATS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "torch", "--set", "tensor_parallel=2"], "tensor_parallel is 2, but the torch engine runs a model on one device"),
        (["--set", "head_mib=0"], "head_mib is 0, expected at least 1"),
        (["--set", "topk=501"], f"topk is 501, but the model's vocabulary has {VOCABULARY} tokens"),
    ],
)
def test_options_that_no_engine_takes_end_with_one_line(run_cli, tiny_model, tmp_path, arguments, message):
    out = tmp_path / "out"
    code, _, err = run_cli("tu-score", "run", "--model", tiny_model, "--data", ATLAS, "--out", out, "--device", "cpu", *arguments)
    assert code == 2 and err.startswith(f"error: {message}") and err.count("\n") == 1, err
    assert not out.exists()


def test_a_row_whose_logits_are_not_finite_is_named(run_cli, tiny_model, tmp_path):
    (folder, data), out = break_one_token(tiny_model, tmp_path), tmp_path / "out"
    code, _, err = run_cli("tu-score", "run", "--model", folder, "--data", data, "--out", out, "--engine", "torch")
    assert code == 2 and err.splitlines()[-1].startswith("error: rows/rows/1: log-probabilities are not finite"), err
    assert not list(out.glob("*.parquet"))
