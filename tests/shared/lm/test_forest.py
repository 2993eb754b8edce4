"""Packed forests against separate plain forwards: logits, gradients, the map back, and every way out for architectures
that cannot."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import ModelError
from shared.lm import forest as forest_module
from shared.lm.attention import attending, forest_attention
from shared.lm.forest import MIN_SHARED, common_prefix, pack
from shared.lm.models import load_model
from shared.lm.packed import PackedModel
from tests.conftest import ARCHITECTURES, VOCABULARY

CPU = torch.device("cpu")
TOLERANCE = 1e-4


@st.composite
def forests(draw) -> list[list[int]]:
    """Sequences that share prefixes at any depth, some of them twice, some a prefix of another, some of one token."""
    few = st.integers(0, 3)  # a small alphabet makes chance prefixes too, shorter than MIN_SHARED
    wide = st.integers(4, VOCABULARY - 1)
    sequences = [draw(st.lists(st.one_of(few, wide), min_size=1, max_size=24))]
    for _ in range(draw(st.integers(0, 7))):
        parent = draw(st.sampled_from(sequences))
        kept = draw(st.integers(0, len(parent)))
        tail = draw(st.lists(st.one_of(few, wide), min_size=0 if kept else 1, max_size=14))
        sequences.append(parent[:kept] + tail)
    return draw(st.permutations(sequences))


FEW = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
MANY = settings(FEW, max_examples=60)
HANDMADE = [
    [5],
    [5],
    list(range(20, 60)),
    list(range(20, 60)),
    list(range(20, 50)),
    list(range(20, 40)) + [7] * 20,
    list(range(20, 40)) + [7] * 20 + [8, 9],
    [*range(20, 29), 300],
    [400, 20, 21, 22],
]


@pytest.fixture(scope="module")
def packed_models(make_tiny):
    cache: dict[str, PackedModel] = {}

    def get(architecture: str) -> PackedModel:
        if architecture not in cache:
            cache[architecture] = PackedModel(load_model(make_tiny(architecture), dtype=torch.float32, device=CPU))
        return cache[architecture]

    return get


def plain_logits(model, sequences) -> list[torch.Tensor]:
    return [model(input_ids=torch.tensor([s]), use_cache=False).logits[0] for s in sequences]


def packed_logits(packed: PackedModel, sequences) -> list[torch.Tensor]:
    hidden, slots = packed.hidden(sequences)
    out, head = [], packed.head
    for rows in slots:
        z = head.product(hidden[torch.tensor(rows)]) * head.scale  # Head.logits itself is not differentiable
        out.append(z if head.softcap is None else torch.tanh(z / head.softcap) * head.softcap)
    return out


def worst(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    assert [f.shape for f in found] == [e.shape for e in expected]
    return max((f - e).abs().max().item() for f, e in zip(found, expected, strict=True))


def trie_size(sequences) -> int:
    return len({tuple(s[: i + 1]) for s in sequences for i in range(len(s))})


# --- the packed row


@MANY
@given(forests())
def test_slots_and_positions_map_every_token_back(sequences):
    forest = pack(sequences)
    assert len(forest.slots) == len(sequences)
    for sequence, rows in zip(sequences, forest.slots, strict=True):
        assert forest.ids_L[rows].tolist() == sequence
        assert forest.positions_L[rows].tolist() == list(range(len(sequence)))
    assert {row for rows in forest.slots for row in rows} == set(range(len(forest.ids_L)))


@MANY
@given(forests())
def test_the_row_is_no_longer_than_the_sequences_and_holds_duplicates_once(sequences):
    forest = pack(sequences)
    assert trie_size(sequences) <= len(forest.ids_L) <= sum(map(len, sequences))
    for i, first in enumerate(sequences):
        for j in range(i):
            if sequences[j] == first:
                assert forest.slots[i] == forest.slots[j]


@MANY
@given(forests())
def test_with_no_least_length_each_prefix_is_held_exactly_once(sequences):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forest_module, "MIN_SHARED", 1)
        assert len(pack(sequences).ids_L) == trie_size(sequences)


def test_a_shared_system_turn_and_question_are_held_once():
    system, question = list(range(100, 112)), list(range(200, 209))
    sequences = [system + question + [i, i + 1, i + 2] for i in range(5)] + [[*system, 9, 9]]
    assert len(pack(sequences).ids_L) == 12 + 9 + 5 * 3 + 2


def test_the_least_length_of_a_shared_prefix_is_where_sharing_begins():
    for shared in (MIN_SHARED - 1, MIN_SHARED):
        prefix = list(range(50, 50 + shared))
        row = len(pack([[*prefix, 1, 2], [*prefix, 3, 4]]).ids_L)
        assert row == (shared + 4 if shared == MIN_SHARED else 2 * shared + 4)


@MANY
@given(forests())
def test_each_token_may_look_at_exactly_its_own_prefix(sequences):
    forest = pack(sequences)
    above = {row: rows[: i + 1] for rows in forest.slots for i, row in enumerate(rows)}
    seen = {}
    for group in forest.groups:
        for at in map(tuple, group.real_BN.nonzero().tolist()):
            keys = group.key_BM[at[0]][group.mask_BNM[at]]
            assert (forest.positions_L[group.query_BN[at]] >= forest.positions_L[keys]).all()
            seen[group.query_BN[at].item()] = keys.tolist()
        assert group.mask_BNM.any(-1).all()  # a padded query has a key too: no softmax is empty
    assert {row: sorted(keys) for row, keys in seen.items()} == {row: sorted(keys) for row, keys in above.items()}


@MANY
@given(forests())
def test_the_rule_of_visibility_is_the_same_prefix_told_by_indices(sequences):
    """What flex attention masks by: j <= i < end(j)."""
    forest = pack(sequences)
    ends = forest.ends_L.tolist()
    for rows in forest.slots:
        for i in rows:
            assert [j for j in range(len(ends)) if j <= i < ends[j]] == sorted(rows[: rows.index(i) + 1])


def test_spans_a_token_apart_in_a_long_text_nest_deeply(monkeypatch):
    """Deeper than Python's own stack."""
    monkeypatch.setattr(forest_module, "MIN_SHARED", 1)
    monkeypatch.setattr(forest_module, "flex_fits", lambda device: True)  # no groups: their masks would take long
    text = [(37 * i) % 499 for i in range(1100)]
    variants = [[*text[:at], 499, *text[at + 1 : at + 3]] for at in range(1, 1090)]
    forest = pack([text, *variants])
    depth, segment = 0, max(forest.segments, key=lambda s: s.depth)
    while segment is not None:
        depth, segment = depth + 1, segment.parent
    assert depth > 1000
    assert all(forest.ids_L[rows].tolist() == s for rows, s in zip(forest.slots, [text, *variants], strict=True))


def test_an_empty_sequence_is_refused():
    with pytest.raises(AssertionError, match="nothing to pack"):
        pack([[1, 2], []])


@pytest.mark.parametrize(("first", "second", "length"), [([1, 2, 3], [1, 2, 4], 2), ([1], [1, 2], 1), ([1], [2], 0), ([3, 3], [3, 3], 2)])
def test_common_prefix(first, second, length):
    assert common_prefix(first, second) == common_prefix(second, first) == length


# --- the same numbers as separate forwards


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@FEW
@given(sequences=forests())
def test_logits_equal_those_of_separate_forwards(packed_models, architecture, sequences):
    packed = packed_models(architecture)
    assert packed.packs
    with torch.no_grad():
        assert worst(packed_logits(packed, sequences), plain_logits(packed.model, sequences)) < TOLERANCE


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_long_and_nested_sequences_agree_packed_and_padded(packed_models, architecture):
    """Longer than the sliding window of 16."""
    packed = packed_models(architecture)
    with torch.no_grad():
        expected = plain_logits(packed.model, HANDMADE)
        assert worst(packed_logits(packed, HANDMADE), expected) < TOLERANCE
        packed.packs = False
        try:
            assert worst(packed_logits(packed, HANDMADE), expected) < TOLERANCE
        finally:
            packed.packs = True


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("queries", [5, 512])
@settings(FEW, max_examples=4)
@given(sequences=forests())
def test_segments_that_stand_alone_give_the_same_logits(packed_models, architecture, queries, sequences):
    """Of any size here; queries in one block and in several."""
    packed = packed_models(architecture)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(forest_module, "ALONE", 30)
        patch.setattr("shared.lm.attention.QUERIES", queries)
        patch.setattr("shared.lm.packed.available", lambda: True)  # whoever made this processor
        assert pack(HANDMADE, alone=True).singles and pack(HANDMADE, alone=True).groups and not pack(HANDMADE).singles
        for rows in (sequences, HANDMADE):
            assert worst(packed_logits(packed, rows), plain_logits(packed.model, rows)) < TOLERANCE


def test_segments_stand_alone_only_in_float32_where_nobody_asks_for_a_gradient(packed_models, monkeypatch):
    packed, made = packed_models("Llama"), []
    monkeypatch.setattr(forest_module, "ALONE", 1)
    monkeypatch.setattr("shared.lm.packed.available", lambda: True)
    monkeypatch.setattr("shared.lm.packed.pack", lambda *args, **kwargs: made.append(pack(*args, **kwargs)) or made[-1])
    packed.hidden(HANDMADE)
    with torch.no_grad():
        packed.hidden(HANDMADE)
        with torch.autocast("cpu", torch.bfloat16):  # an evaluation within training in bfloat16
            narrow, _ = packed.hidden(HANDMADE)
    assert narrow.isfinite().all()
    assert [bool(forest.singles) for forest in made] == [False, True, False]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(FEW, max_examples=2)
@given(sequences=forests())
def test_flex_attention_gives_the_same_logits(packed_models, architecture, sequences):
    """The form that runs on CUDA, here uncompiled on the CPU."""
    packed = packed_models(architecture)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(forest_module, "flex_fits", lambda device: True)
        assert not pack(HANDMADE).groups
        for rows in (sequences, HANDMADE):
            assert worst(packed_logits(packed, rows), plain_logits(packed.model, rows)) < TOLERANCE


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("small", [1, 10**9])
@settings(FEW, max_examples=3)
@given(sequences=forests(), seed=st.integers(0, 9))
def test_gradients_equal_those_of_separate_forwards(packed_models, architecture, small, sequences, seed):
    """With oneDNN's products in every linear layer, and in none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shared.lm.products.SMALL", small)
        patch.setattr("shared.lm.products.available", lambda: True)
        check_gradients(packed_models(architecture), sequences, seed)


def check_gradients(packed: PackedModel, sequences: list[list[int]], seed: int) -> None:
    model = packed.model
    generator = torch.Generator().manual_seed(seed)
    sequences = [s for s in sequences if len(s) > 1] or [[1, 2, 3]]
    weights = [torch.rand(len(s) - 1, generator=generator) for s in sequences]

    def gradients(logits: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        model.zero_grad(set_to_none=True)
        total = torch.zeros(())
        for z, s, w in zip(logits, sequences, weights, strict=True):
            total = total + (z[:-1].log_softmax(-1).gather(1, torch.tensor(s[1:])[:, None])[:, 0] * w).sum()
        total.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    expected = gradients(plain_logits(model, sequences))
    found = gradients(packed_logits(packed, sequences))
    model.zero_grad(set_to_none=True)
    assert set(found) == set(expected)
    largest = max(g.abs().max().item() for g in expected.values())
    assert max((found[n] - expected[n]).abs().max().item() for n in expected) <= TOLERANCE * largest


def test_the_sliding_window_and_the_soft_cap_of_the_fixtures_matter(make_tiny):
    """The negative control of the tests above: without them the same weights give other logits."""
    for architecture, entry in (("Mistral", "sliding_window"), ("Gemma2", "attn_logit_softcapping")):
        model = load_model(make_tiny(architecture), dtype=torch.float32, device=CPU)
        before = plain_logits(model, HANDMADE)
        plain = type(model)(type(model.config)(**{**model.config.to_dict(), entry: None})).eval()
        plain.load_state_dict(model.state_dict())
        plain.set_attn_implementation("eager")
        assert worst(plain_logits(plain, HANDMADE), before) > 100 * TOLERANCE


def test_duplicates_and_order_change_nothing(packed_models):
    packed = packed_models("Llama")
    with torch.no_grad():
        once = packed_logits(packed, HANDMADE)
        again = packed_logits(packed, [*HANDMADE[::-1], *HANDMADE])
    assert worst(again[: len(HANDMADE)][::-1], once) < TOLERANCE
    assert worst(again[len(HANDMADE) :], once) < TOLERANCE


# --- the model is left as it was, and architectures that cannot


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_models_own_attention_is_put_back_even_after_an_error(make_tiny, implementation):
    model = load_model(make_tiny("Llama"), dtype=torch.float32, device=CPU)
    model.set_attn_implementation(implementation)
    before = plain_logits(model, HANDMADE)
    packed = PackedModel(model)
    packed_logits(packed, HANDMADE)
    assert model.config._attn_implementation == implementation
    with pytest.raises(ZeroDivisionError), attending(model, pack(HANDMADE)):
        assert model.config._attn_implementation == "forest"
        raise ZeroDivisionError
    assert model.config._attn_implementation == implementation
    assert worst(plain_logits(model, HANDMADE), before) == 0


def other_architecture(name: str, dtype: torch.dtype = torch.float32):
    import transformers as t

    size = {"vocab_size": 450, "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    heads = {**size, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 128}
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8}
    config = {
        "bloom": lambda: t.BloomConfig(**{**size, "n_layer": 2, "n_head": 4, "initializer_range": 0.1}),
        "gpt_oss": lambda: t.GptOssConfig(**heads, **experts, layer_types=["sliding_attention", "full_attention"], sliding_window=8),
        "mamba": lambda: t.MambaConfig(**size, state_size=4),
        "cohere": lambda: t.CohereConfig(**heads, logit_scale=0.3),
        "granite": lambda: t.GraniteConfig(**heads, logits_scaling=3.0),
    }[name]()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return t.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


@pytest.mark.parametrize("name", ["bloom", "gpt_oss", "mamba"])
def test_position_biases_sinks_and_recurrence_fall_back_to_padding_with_right_logits(name, capsys):
    packed = PackedModel(other_architecture(name))
    assert not packed.packs
    assert capsys.readouterr().err.count("cannot take a packed row") == 1
    with torch.no_grad():
        assert worst(packed_logits(packed, HANDMADE), plain_logits(packed.model, HANDMADE)) < TOLERANCE


@pytest.mark.parametrize("name", ["s_aux", "position_bias", "anything_new"])
def test_the_forests_attention_refuses_what_it_does_not_know(packed_models, name):
    model, x = packed_models("Llama").model, torch.zeros(1, 2, 3, 4)
    with attending(model, pack([[1, 2, 3]])):
        forest_attention(None, x, x, x, None, **{name: None}, position_ids=x, is_causal=True)
        with pytest.raises(TypeError, match=f"does not know {name}"):
            forest_attention(None, x, x, x, None, **{name: x})
        with pytest.raises(TypeError, match="does not know is_causal"):
            forest_attention(None, x, x, x, None, is_causal=False)


def test_attention_sinks_are_not_overlooked_where_low_precision_would_hide_them():
    assert not PackedModel(other_architecture("gpt_oss", torch.bfloat16)).packs


def test_running_out_of_memory_is_not_taken_for_an_architecture_that_cannot(make_tiny, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = load_model(make_tiny("Llama"), dtype=torch.float32, device=CPU)
    monkeypatch.setattr("shared.lm.packed.pack", full)
    with pytest.raises(torch.OutOfMemoryError):
        PackedModel(model)


@pytest.mark.parametrize("name", ["cohere", "granite"])
def test_scaled_heads_pack_with_right_logits(name):
    packed = PackedModel(other_architecture(name))
    assert packed.packs
    assert packed.head.scale != 1
    with torch.no_grad():
        assert worst(packed_logits(packed, HANDMADE), plain_logits(packed.model, HANDMADE)) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_with_a_step_of_its_own_is_refused(make_tiny, monkeypatch, dtype):
    model = load_model(make_tiny("Llama"), dtype=dtype, device=CPU)
    forward = type(model).forward

    def scaled(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        out.logits = out.logits * 1.5
        return out

    PackedModel(model)
    monkeypatch.setattr(type(model), "forward", scaled)
    with pytest.raises(ModelError, match=r"LlamaForCausalLM: its logits are not head times hidden states"):
        PackedModel(model)
