"""Text from the cached loop: greedy it is that of transformers, drawn it is that of a loop by hand, token by token,
however rows come, wait, end and leave."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from shared.engines import torch_cache as cache_module
from shared.engines import torch_generate as generate
from shared.engines.choosing import Drawn
from shared.engines.torch import TorchEngine
from shared.engines.torch_cache import Cache
from shared.errors import ModelError
from shared.lm.packed import PackedModel
from tests.conftest import VOCABULARY
from tests.shared.lm.test_forest import other_architecture

GENERATING = ("Llama", "GPT2", "Gemma2", "Mistral", "Qwen2", "Phi3")
LENGTH = 30


def make_prompts(count: int, seed: int = 0) -> list[list[int]]:
    """Of 1 to 40 tokens; many share a beginning, one is there twice, one is the beginning of another."""
    rng = random.Random(seed)
    system = [rng.randrange(4, VOCABULARY) for _ in range(12)]
    out = [system * (k % 3 > 0) + [rng.randrange(4, VOCABULARY) for _ in range(rng.randint(1, 28))] for k in range(count - 2)]
    return [*out, out[1], out[2][:-1] or out[2]]


@torch.no_grad()
def by_transformers(model, prompts, limits, stop_ids) -> list[list[int]]:
    """Row by row."""
    model.generation_config, out = GenerationConfig(), []
    for prompt, limit in zip(prompts, limits, strict=True):
        if not limit:
            out.append([])
            continue
        ids = torch.tensor([prompt])
        new = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=limit, eos_token_id=stop_ids, pad_token_id=0
        )[0, len(prompt) :].tolist()  # fmt: skip
        out.append(new[:-1] if new[-1] in stop_ids else new)
    return out


@pytest.fixture(scope="module")
def cases(make_tiny):
    """`cases(architecture)` -> engine, prompts, limits, stop tokens that end rows at many lengths, and the right
    answers."""
    made = {}

    def case(name: str):
        if name not in made:
            engine = TorchEngine.load(make_tiny(name), device="cpu")
            prompts = make_prompts(24)
            limits = [LENGTH - k % 5 for k in range(len(prompts))]
            limits[4] = 0
            free = by_transformers(engine.packed.model, prompts, limits, [VOCABULARY - 1])
            common = [token for token, _ in Counter(t for row in free for t in row[3:]).most_common(4)]
            expected = by_transformers(engine.packed.model, prompts, limits, common)
            assert len({len(row) for row in expected}) > 4 and any(len(r) == n for r, n in zip(expected, limits, strict=True))
            made[name] = (engine, prompts, limits, common, expected)
        return made[name]

    return case


@pytest.mark.parametrize("rows", [1, 5, 64])
@pytest.mark.parametrize("name", GENERATING)
def test_text_is_that_of_transformers_row_by_row(cases, monkeypatch, name, rows):
    engine, prompts, limits, stop, expected = cases(name)
    monkeypatch.setattr(generate, "MAX_ROWS", {"cpu": rows})
    engine = TorchEngine(engine.packed, batch_tokens=60)  # prompts take several passes
    assert engine.generate(prompts, max_new_tokens=limits, stop_ids=stop) == expected
    assert engine.writer is not None and engine.writer.cached


def test_places_are_lengthened_as_answers_grow(cases, monkeypatch):
    engine, prompts, _, _, _ = cases("Mistral")
    monkeypatch.setattr(cache_module, "GROW", 7)
    chosen = prompts[:6]
    expected = by_transformers(engine.packed.model, chosen, [90] * 6, [VOCABULARY - 1])
    assert engine.generate(chosen, max_new_tokens=90, stop_ids=[VOCABULARY - 1]) == expected


@pytest.mark.parametrize("rows", [5, 64])
def test_rows_that_have_ended_are_read_no_more_and_shared_beginnings_once(cases, monkeypatch, rows):
    engine, prompts, limits, stop, expected = cases("Llama")
    monkeypatch.setattr(generate, "MAX_ROWS", {"cpu": rows})
    engine.generate(prompts[:1], max_new_tokens=1, stop_ids=stop)  # tries the architecture out
    seen, read, packed_tokens = [], generate.read_tokens, []

    def counted(packed, cache, tokens, at):
        seen.append(len(tokens))
        return read(packed, cache, tokens, at)

    def packing(sequences, device):
        forest = pack(sequences, device)
        packed_tokens.append(len(forest.ids_L))
        return forest

    pack = cache_module.pack
    monkeypatch.setattr(generate, "read_tokens", counted)
    monkeypatch.setattr(cache_module, "pack", packing)
    engine.generate(prompts, max_new_tokens=limits, stop_ids=stop)
    # The last token of an answer is read only where a stop token came after it.
    needed = sum(len(row) - (len(row) == limit) for row, limit in zip(expected, limits, strict=True) if limit)
    assert sum(seen) == needed and max(seen) <= rows
    asked = [p for p, limit in zip(prompts, limits, strict=True) if limit]
    if rows > len(asked):
        assert seen == sorted(seen, reverse=True)
        assert sum(packed_tokens) < 0.75 * sum(map(len, asked))
    else:
        assert all(batch == rows for batch in seen[1 : len(seen) // 2])  # waiting prompts take free places


def test_fewer_rows_write_at_once_where_memory_would_not_hold_them(cases, monkeypatch):
    engine, prompts, limits, stop, expected = cases("Llama")
    monkeypatch.setattr(generate, "CACHE_MIB", 0)
    engine.generate(prompts[:1], max_new_tokens=1, stop_ids=stop)
    assert engine.writer is not None
    weights = sum(p.numel() * p.element_size() for p in engine.packed.model.parameters())
    assert engine.writer.bytes_a_token == 2 * 2 * 32 * 4  # layers, keys and values, two heads of 16, bytes
    longest = max(len(p) + n for p, n in zip(prompts, limits, strict=True))
    monkeypatch.setattr(engine.writer, "bytes_a_token", weights // 2 // longest // 3)
    assert engine.writer._places([longest, 3, 3, 3, 3]) == 3
    assert engine.generate(prompts, max_new_tokens=limits, stop_ids=stop) == expected
    monkeypatch.setattr(engine.writer, "bytes_a_token", weights)
    assert engine.writer._places([longest, 3]) == 1


@pytest.mark.parametrize("name", ["bloom", "gpt_oss", "mamba"])
def test_other_architectures_are_left_to_transformers_which_is_said_once(capsys, name):
    engine = TorchEngine(PackedModel(other_architecture(name)), batch_tokens=100)
    prompts = [[(5 * i + k) % 400 for i in range(3 + k)] for k in range(6)]
    limits = [8, 8, 5, 8, 5, 0]
    expected = by_transformers(engine.packed.model, prompts, limits, [449])
    stop = [449, expected[0][3]]
    own = engine.packed.model.generation_config
    done: list[int] = []
    for _ in range(2):
        found = engine.generate(prompts, max_new_tokens=limits, stop_ids=stop, advance=done.append)
        assert found == by_transformers(engine.packed.model, prompts, limits, stop)
    assert sum(done) == 2 * len(prompts) and engine.packed.model.generation_config is not None and own is not None
    assert capsys.readouterr().err.count("transformers writes its answers") == 1


def test_an_architecture_that_reads_tokens_one_by_one_otherwise_is_found_out(cases, monkeypatch, capsys):
    """A guard for what nobody has heard of: here the cache forgets the last key."""
    engine, prompts, limits, stop, expected = cases("Llama")
    put = Cache.put

    def forgetful(self, layer, place, at, new):
        put(self, layer, place, at, new)
        self.layers[layer][0][place, at] = 0

    monkeypatch.setattr(Cache, "put", forgetful)
    engine = TorchEngine(engine.packed)
    assert engine.generate(prompts, max_new_tokens=limits, stop_ids=stop) == expected
    assert engine.writer is not None and not engine.writer.cached
    assert "LlamaForCausalLM cannot keep keys and values row by row" in capsys.readouterr().err


@torch.no_grad()
def drawn_by_hand(model, prompts, limits, stop_ids, temperature, seeds) -> list[list[int]]:
    """Row by row, one number a token: the first token at which the summed probabilities come above it."""
    out = []
    for prompt, limit, seed in zip(prompts, limits, seeds, strict=True):
        numbers, row = np.random.default_rng(seed), []
        while len(row) < limit:
            at, below, token = numbers.random(), 0.0, -1
            probabilities = (model(torch.tensor([prompt + row])).logits[0, -1].double() / temperature).softmax(-1).tolist()
            while below <= at:
                token += 1
                below += probabilities[token]
            if token in stop_ids:
                break
            row.append(token)
        out.append(row)
    return out


def drawing(seeds, temperature) -> Drawn:
    return Drawn(temperature, [np.random.default_rng(seed) for seed in seeds])


@pytest.mark.parametrize("name", ["Llama", "Gemma2", "bloom"])
def test_what_is_drawn_is_told_by_a_row_and_its_numbers_alone(cases, monkeypatch, name):
    cached = name != "bloom"
    packed = cases(name)[0].packed if cached else PackedModel(other_architecture(name))
    system = [7, 8, 9, 10]
    prompts = [[*system, 11 + k % 3, 30 + k % 5][: 3 + k % 4] for k in range(12)]
    limits, seeds, stop = [0 if k == 4 else 6 + k % 4 for k in range(12)], [100 + k for k in range(12)], list(range(0, 400, 9))
    expected = drawn_by_hand(packed.model, prompts, limits, stop, 0.8, seeds)
    assert len({tuple(row) for row in expected}) > 8 and any(len(r) < n for r, n in zip(expected, limits, strict=True))
    assert any(a == b for a, b in itertools.combinations(prompts, 2))
    for rows in (1, 5, 64):
        monkeypatch.setattr(generate, "MAX_ROWS", {"cpu": rows})
        engine = TorchEngine(packed, batch_tokens=20 * rows)
        assert engine.generate(prompts, max_new_tokens=limits, stop_ids=stop, choose=drawing(seeds, 0.8)) == expected
        assert engine.writer is not None and engine.writer.cached is cached
    last = slice(7, None)
    some = engine.generate(prompts[last], max_new_tokens=limits[last], stop_ids=stop, choose=drawing(seeds[last], 0.8))
    assert some == expected[last]
    assert engine.generate(prompts, max_new_tokens=limits, stop_ids=stop, choose=drawing(seeds[::-1], 0.8)) != expected


def test_a_token_without_probability_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]], dtype=torch.float64)
    before = logits.clone()

    class Numbers:
        def __init__(self, value):
            self.value = value

        def random(self):
            return self.value

    for value, token in ((0.0, 1), (0.4999, 1), (0.5, 3), (1 - 2**-53, 3)):
        assert Drawn(1.0, [Numbers(value)])(logits, [0]) == [token]  # type: ignore[list-item]
    assert torch.equal(logits, before)
    for wrong in (torch.nan, torch.inf):
        with pytest.raises(ModelError, match="the model's logits are not finite"):
            Drawn(1.0, [Numbers(0.5)])(torch.tensor([[0.0, wrong, 1.0]]), [0])  # type: ignore[list-item]


def test_rows_too_long_for_the_cache_are_left_to_transformers_and_the_others_are_not(cases, monkeypatch):
    engine, prompts, limits, stop, expected = cases("Llama")
    monkeypatch.setattr(engine.packed, "reach", 45)
    left, slowly = [], generate.TextWriter._leave_to_transformers

    def noted(self, out, prompts, limits, asked, *rest):
        left.extend(asked)
        slowly(self, out, prompts, limits, asked, *rest)

    monkeypatch.setattr(generate.TextWriter, "_leave_to_transformers", noted)
    assert engine.generate(prompts, max_new_tokens=limits, stop_ids=stop) == expected
    assert left == [i for i, (p, n) in enumerate(zip(prompts, limits, strict=True)) if n and len(p) + n > 45] and 0 < len(left) < 20


def test_the_models_own_attention_is_put_back(cases, monkeypatch):
    engine, prompts, limits, stop, _ = cases("Llama")
    before = engine.packed.model.config._attn_implementation
    engine.generate(prompts, max_new_tokens=limits, stop_ids=stop)
    assert engine.packed.model.config._attn_implementation == before != "generation"

    def breaks(packed, *_):
        assert packed.model.config._attn_implementation == "generation"
        raise IndexError("in the middle of a pass")

    monkeypatch.setattr(cache_module, "_hidden", breaks)
    with pytest.raises(IndexError, match="in the middle of a pass"):
        engine.generate(prompts, max_new_tokens=3, stop_ids=stop)
    assert engine.packed.model.config._attn_implementation == before


def test_low_precision_writes_too(make_tiny, cases):
    _, prompts, limits, stop, _ = cases("Llama")
    engine = TorchEngine.load(make_tiny("Llama"), dtype="bfloat16", device="cpu")
    found = engine.generate(prompts, max_new_tokens=limits, stop_ids=stop)
    assert engine.writer is not None and engine.writer.cached
    assert all(len(row) <= limit for row, limit in zip(found, limits, strict=True)) and any(found)
