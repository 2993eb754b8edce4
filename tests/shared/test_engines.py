"""The torch engine against plain transformers: scores at wanted positions, greedy text, and what must not matter to either."""

import random

import numpy as np
import pytest
import torch

from shared.engines import Request, open_engine
from shared.engines.torch import MAX_GROWTH, TorchEngine
from shared.errors import ConfigError
from shared.models import load_model
from tests.conftest import VOCABULARY

CPU = torch.device("cpu")
ARCHITECTURES = ("Llama", "Mistral", "Gemma2", "GPT2")
NATS = 5e-5  # promise 4
STOP = 2  # <|im_end|>


@pytest.fixture(scope="module")
def engines(make_tiny):
    made: dict[str, TorchEngine] = {}
    return lambda name="Llama": made.setdefault(name, TorchEngine.load(make_tiny(name), device="cpu")) if name not in made else made[name]


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    rng = random.Random(0)

    def tokens(n: int) -> list[int]:
        return [rng.randrange(4, VOCABULARY) for _ in range(n)]

    system, made = tokens(12), []
    for _ in range(4):
        question = system + tokens(rng.randint(3, 20))
        made += [question + tokens(rng.randint(1, 25)) for _ in range(3)]
    made += [tokens(2), made[0], made[0][:20]]
    wanted = [sorted(rng.sample(range(1, len(ids)), rng.randint(1, len(ids) - 1))) for ids in made]
    return [Request(ids, positions) for ids, positions in zip(made, wanted, strict=True)]


def plain(model, request: Request) -> tuple[np.ndarray, np.ndarray]:
    """A transformers forward of this sequence alone, then log_softmax in float64."""
    with torch.no_grad():
        logp = model(torch.tensor([request.ids])).logits[0].double().log_softmax(-1)
    rows = logp[[p - 1 for p in request.wanted]]
    targets = torch.tensor([request.ids[p] for p in request.wanted])
    return rows.gather(1, targets[:, None])[:, 0].numpy(), -(rows.exp() * rows).sum(-1).numpy()


def difference(first, second) -> float:
    assert [len(a.logprob) for a in first] == [len(b.logprob) for b in second]
    pairs = [(a.logprob, b.logprob) for a, b in zip(first, second, strict=True)]
    pairs += [(a.entropy, b.entropy) for a, b in zip(first, second, strict=True)]
    return max((np.abs(a - b).max() for a, b in pairs if len(a)), default=0.0)


# --- scores


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("packs", [True, False])
def test_scores_equal_those_of_plain_forwards(engines, requests, name, packs):
    engine = engines(name)
    engine.packed.packs = packs
    try:
        found = engine.score(requests)
    finally:
        engine.packed.packs = True
    for request, scores in zip(requests, found, strict=True):
        logp, entropy = plain(engine.packed.model, request)
        assert scores.logprob.dtype == scores.entropy.dtype == np.float32
        assert np.abs(scores.logprob - logp).max() < NATS
        assert np.abs(scores.entropy - entropy).max() < NATS


def test_order_duplicates_and_company_do_not_matter(engines, requests):
    engine = engines()
    together = engine.score(requests)
    assert difference(engine.score(requests[::-1])[::-1], together) < NATS
    assert difference([engine.score([request])[0] for request in requests], together) < NATS
    twice = engine.score([*requests, *requests])
    assert difference(twice[: len(requests)], together) < NATS
    assert difference(twice[len(requests) :], together) < NATS


@pytest.mark.parametrize("batch_tokens", [1, 40, 200])
def test_the_batch_size_does_not_matter(engines, requests, batch_tokens):
    engine = engines()
    assert difference(TorchEngine(engine.packed, batch_tokens=batch_tokens).score(requests), engine.score(requests)) < NATS


def distinct(sequences) -> int:
    return len({tuple(s[: k + 1]) for s in sequences for k in range(len(s))})


@pytest.mark.parametrize("batch_tokens", [1, 40, 200, 2048])
def test_batches_hold_every_sequence_once_and_keep_the_budget(engines, requests, batch_tokens):
    engine, sequences = TorchEngine(engines().packed, batch_tokens=batch_tokens), [r.ids for r in requests]
    batches = list(engine._batches(sequences))
    assert sorted(i for batch in batches for i in batch) == list(range(len(sequences)))
    assert all(len(batch) == 1 or distinct([sequences[i] for i in batch]) <= MAX_GROWTH * batch_tokens for batch in batches)


def test_sequences_that_share_little_keep_to_the_budget(engines):
    engine = TorchEngine(engines().packed, batch_tokens=100)
    sequences = [[i, *range(20, 30 + i % 7)] for i in range(60)]
    batches = list(engine._batches(sequences))
    assert len(batches) > 5
    assert all(distinct([sequences[i] for i in batch]) <= 100 for batch in batches)


def test_variants_of_a_long_text_go_in_rows_long_enough_to_pay_for_the_text_they_repeat(engines):
    """Cost in tokens of masking every 16 of a text, each variant read for 32: linear in its length, not quadratic."""

    def tokens_a_token(length: int, growth: int) -> float:
        text = [(7 * i) % 400 for i in range(length)]
        variants = [[*text[:at], *([450] * 16), *text[at + 16 : at + 48]] for at in range(0, length - 16, 16)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("shared.engines.torch.MAX_GROWTH", growth)
            batches = list(TorchEngine(engines().packed, batch_tokens=256)._batches([text, *variants]))
        return sum(distinct([([text, *variants])[i] for i in batch]) for batch in batches) / length

    assert tokens_a_token(1024, MAX_GROWTH) < 1.5 * tokens_a_token(256, MAX_GROWTH)
    assert tokens_a_token(1024, 1) > 2 * tokens_a_token(256, 1)  # what it would cost in rows of 256


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


def test_scoring_advances_by_the_tokens_of_the_requests(engines, requests):
    steps: list[int] = []
    TorchEngine(engines().packed, batch_tokens=60).score(requests, steps.append)
    assert sum(steps) == sum(len(request.ids) for request in requests)
    assert len(steps) > 1


def test_low_precision_gives_float32_scores_near_the_right_ones(make_tiny, requests):
    engine = TorchEngine.load(make_tiny("Llama"), dtype="bfloat16", device="cpu")
    exact = TorchEngine.load(make_tiny("Llama"), device="cpu")
    found = engine.score(requests)
    assert found[0].logprob.dtype == np.float32
    assert 0 < difference(found, exact.score(requests)) < 0.3


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


@pytest.mark.parametrize("name", ARCHITECTURES)
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


def test_an_unknown_engine_suggests_the_nearest(tiny_model):
    with pytest.raises(ConfigError, match=r"^--engine troch: unknown \(did you mean 'torch'\?\)$"):
        open_engine("troch", tiny_model, dtype="float32", device=None, batch_tokens=1)


def test_the_engine_loads_the_model_as_it_is_in_its_folder(tiny_model, requests):
    engine = TorchEngine.load(tiny_model, device="cpu")
    own = load_model(tiny_model, dtype=torch.float32, device=CPU)
    assert np.abs(engine.score(requests[:1])[0].logprob - plain(own, requests[0])[0]).max() < NATS
