"""Architectures that a few tokens do not tell apart: recurrence beside attention in low precision, windows longer than
the probe, heads with a scale of their own, rotations that depend on a text's length."""

import pytest
import torch
import transformers as t

from shared.engines.torch import TorchEngine
from shared.lm.packed import PackedModel

CONTEXT = 256
SIZE = {
    "vocab_size": 450, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "max_position_embeddings": CONTEXT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
STATE = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 16}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}
LONG_ROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "factor": 8.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
WINDOW = 32
"""longer than the probe of PackedModel"""
CONFIGS = {
    "lfm2": lambda: t.Lfm2Config(**SIZE, layer_types=["conv", "full_attention", "conv"]),
    "falcon_h1": lambda: t.FalconH1Config(**SIZE, mamba_d_ssm=64, **STATE, lm_head_multiplier=0.4),
    "recurrent_gemma": lambda: t.RecurrentGemmaConfig(**SIZE, lru_width=64, attention_window_size=WINDOW, logits_soft_cap=2.0),
    "qwen3_next": lambda: t.Qwen3NextConfig(
        **SIZE, **EXPERTS, head_dim=16, layer_types=["linear_attention", "full_attention", "linear_attention"],
        linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=16, linear_value_head_dim=16,
    ),
    "qwen2_moe": lambda: t.Qwen2MoeConfig(
        **SIZE, **EXPERTS, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=3, initializer_range=0.1
    ),
    "phimoe": lambda: t.PhimoeConfig(**SIZE, sliding_window=WINDOW, num_local_experts=4, initializer_range=0.1),
    "llama4": lambda: t.Llama4TextConfig(
        **SIZE, attention_chunk_size=WINDOW, num_local_experts=2, head_dim=16, intermediate_size_mlp=64, initializer_range=0.1
    ),
    "mistral": lambda: t.MistralConfig(**SIZE, sliding_window=WINDOW, initializer_range=0.1),
    "phi3": lambda: t.Phi3Config(**SIZE, original_max_position_embeddings=32, rope_parameters=LONG_ROPE, initializer_range=0.1),
}  # fmt: skip
LONG = [list(range(20, 90)), list(range(20, 70)), [*range(20, 60), 7, 7], list(range(20, 52)), [5, 6, 7]]


def made(name: str, dtype: torch.dtype = torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return t.AutoModelForCausalLM.from_config(CONFIGS[name](), dtype=dtype).eval()


@torch.no_grad()
def farthest(packed: PackedModel, sequences=LONG) -> float:
    """From one plain forward pass a sequence."""
    hidden, slots = packed.hidden(sequences)
    plain = [packed.model(torch.tensor([s]), use_cache=False).logits[0] for s in sequences]
    return max((packed.head.logits(hidden[rows]) - z).abs().max().item() for rows, z in zip(slots, plain, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["lfm2", "falcon_h1", "recurrent_gemma", "qwen3_next"])
def test_recurrence_beside_attention_is_never_packed_in_any_precision(name, dtype):
    """In bfloat16 the logits of a packed row differ by less than rounding may; they are wrong all the same."""
    packed = PackedModel(made(name, dtype))
    assert not packed.packs
    if dtype == torch.float32:
        assert farthest(packed) < 1e-5


@pytest.mark.parametrize("name", ["qwen2_moe", "phimoe", "llama4"])
def test_a_window_that_attention_is_not_told_of_bounds_what_is_packed(name):
    packed = PackedModel(made(name))
    assert (packed.packs, packed.reach) == (True, WINDOW)
    assert farthest(packed) < 1e-5
    packed.reach = None
    assert farthest(packed) > 1e-3, "the negative control: packed without that bound, long texts read too far"


def test_a_window_that_attention_is_told_of_bounds_nothing():
    packed = PackedModel(made("mistral"))
    assert (packed.packs, packed.reach) == (True, None)
    assert farthest(packed) < 1e-5


@pytest.mark.parametrize("name", ["llama4", "phi3"])
def test_answers_that_grow_beyond_the_bound_are_written_by_transformers(name, monkeypatch):
    engine = TorchEngine(PackedModel(made(name)))
    prompts = [list(range(20, 28)), list(range(40, 46))]
    short = engine.generate(prompts, max_new_tokens=4, stop_ids=[0])
    assert engine.writer is not None and engine.writer.cached
    monkeypatch.setattr(engine.writer, "_write", None)
    long = engine.generate(prompts, max_new_tokens=WINDOW, stop_ids=[0])
    assert [text[:4] for text in long] == short


def test_texts_on_both_sides_of_a_change_of_rotation_go_apart():
    packed = PackedModel(made("phi3"))
    assert packed.packs and packed.turn == 32
    assert farthest(packed) < 1e-5
    packed.turn = None
    assert farthest(packed) > 1e-2, "the negative control: in one pass the longest text decides for all"


def test_layers_of_an_unknown_kind_are_not_packed():
    """Sparse attention, say, chooses what it reads in texts longer than any probe."""
    model = made("mistral")
    model.config.layer_types = ["full_attention", "indexed_attention", "full_attention"]
    assert not PackedModel(model).packs


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_what_one_sequence_says_to_another_is_noticed_where_logits_do_not_show_it(share):
    """A block that mixes each token with the one before it, in bfloat16."""
    model = made("mistral", torch.bfloat16)

    def mix(module, args, out):
        return out + share * out.roll(1, dims=-2)

    model.model.layers[0].mlp.register_forward_hook(mix)
    packed = PackedModel(model)
    assert packed.packs == (share == 0)
