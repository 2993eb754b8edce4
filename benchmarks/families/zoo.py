"""The families: configurations of small random models, in the form of the real ones, with their kind of tokenizer.

Sizes are the least with which every kernel runs (vLLM on a CPU wants heads of 32 or more). Windows are short, so that
the test texts reach beyond them; soft caps, scales and routers are those of the family, made strong enough to be seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CONTEXT = 1024
WINDOW = 16
LAYERS = 3
SIZE: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
    "intermediate_size": 96, "max_position_embeddings": CONTEXT, "initializer_range": 0.1,
}  # fmt: skip
PLAIN_HEADS = {"head_dim": None, "num_key_value_heads": 2}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]


@dataclass(frozen=True)
class Family:
    name: str
    title: str
    """with the real model whose form it has"""
    architecture: str
    """`…Config` of transformers"""
    traits: str
    """what is special about it, in a few words"""
    config: Mapping[str, Any] = field(default_factory=dict)
    """entries beside, or in place of, SIZE; None takes one out"""
    tokenizer: str = "bytes"
    """bytes (byte-level BPE), pieces (sentencepiece form with a blank before the text), gemma (the same without)"""
    template: str | None = None
    """file in templates/, without its ending"""
    begin: str | None = None
    end: str = "<|endoftext|>"
    marks: tuple[str, ...] = ()
    """further control tokens"""
    adds_begin: bool = False
    """the tokenizer puts `begin` before every text"""
    apart: str | None = None
    """why vLLM and transformers differ on it, where they do"""

    @property
    def entries(self) -> dict[str, Any]:
        return {k: v for k, v in {**SIZE, **self.config}.items() if v is not None}


CHATML = ("<|im_start|>",)
THINK = (*CHATML, "<think>", "</think>")
ROLES = ("<|user|>", "<|assistant|>", "<|system|>")
HEADERS = ("<|start_header_id|>", "<|end_header_id|>")
COHERE = (
    "<|START_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>",
)  # fmt: skip
GEMMA = {"tokenizer": "gemma", "begin": "<bos>", "end": "<end_of_turn>", "marks": ("<start_of_turn>", "<eos>"), "adds_begin": True}
PIECES = {"tokenizer": "pieces", "begin": "<s>", "end": "</s>", "adds_begin": True}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "router_aux_loss_coef": 0.5}
DEEPSEEK = {
    "head_dim": None, "num_key_value_heads": 2, "kv_lora_rank": 32, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32,
    "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "first_k_dense_replace": 1,
}  # fmt: skip
GPT2_SIZE = {
    **dict.fromkeys(SIZE), "n_embd": 64, "n_layer": LAYERS, "n_head": 2, "n_positions": CONTEXT, "initializer_range": 0.1,
}  # fmt: skip
NEOX_SIZE = {"num_key_value_heads": None, "head_dim": None, "rotary_pct": 0.25, "hidden_dropout": 0.1, "attention_dropout": 0.1}
FALCON_H1 = {
    "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 16, "lm_head_multiplier": 0.4,
    "embedding_multiplier": 3.0, "key_multiplier": 0.7, "attention_out_multiplier": 0.8, "ssm_in_multiplier": 1.2,
}  # fmt: skip
MAMBA = {**dict.fromkeys(SIZE), "hidden_size": 64, "num_hidden_layers": LAYERS, "state_size": 16, "initializer_range": 0.1}
GRANITE = {"embedding_multiplier": 3.0, "logits_scaling": 4.0, "residual_multiplier": 0.5, "attention_multiplier": 0.05}
LONG_ROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 12, "long_factor": [2.0] * 12,
    "original_max_position_embeddings": CONTEXT, "partial_rotary_factor": 0.75,
}  # fmt: skip

FAMILIES = [
    Family("llama3", "Llama 3 (Llama-3.2-1B-Instruct)", "Llama", "grouped queries, dated template", {"tie_word_embeddings": True,
           "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
                               "high_freq_factor": 4.0, "original_max_position_embeddings": 256}},
           template="llama3", begin="<|begin_of_text|>", end="<|eot_id|>", marks=HEADERS, adds_begin=True),
    Family("qwen2", "Qwen 2 (Qwen2.5-0.5B-Instruct)", "Qwen2", "biases in query, key, value", {"tie_word_embeddings": True},
           template="qwen2", end="<|im_end|>", marks=CHATML),
    Family("qwen3", "Qwen 3 (Qwen3-0.6B)", "Qwen3", "norms of query and key, thinking block", {"tie_word_embeddings": True},
           template="qwen3", end="<|im_end|>", marks=THINK),
    Family("qwen2_moe", "Qwen 2 MoE (Qwen1.5-MoE-A2.7B-Chat)", "Qwen2Moe", "experts and a shared one",
           {**EXPERTS, "head_dim": None, "num_key_value_heads": 2, "shared_expert_intermediate_size": 48},
           template="chatml", end="<|im_end|>", marks=CHATML),
    Family("qwen3_moe", "Qwen 3 MoE (Qwen3-30B-A3B)", "Qwen3Moe", "experts", {**EXPERTS, "norm_topk_prob": True},
           template="qwen3", end="<|im_end|>", marks=THINK),
    Family("gemma2", "Gemma 2 (gemma-2-2b-it)", "Gemma2", "window in every other block, soft caps of scores and logits",
           {"sliding_window": WINDOW, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0},
           template="gemma2", **GEMMA),
    Family("gemma3", "Gemma 3 (gemma-3-270m-it)", "Gemma3Text", "window, two rotations, norms of query and key",
           {"sliding_window": WINDOW, "query_pre_attn_scalar": 16, "layer_types": MIXED}, template="gemma3", **GEMMA),
    Family("phi3", "Phi 3 (Phi-3-mini-4k-instruct)", "Phi3", "query, key, value in one layer; window",
           {"sliding_window": WINDOW, "head_dim": None, "num_key_value_heads": 2, "tie_word_embeddings": False},
           template="phi3", tokenizer="pieces", begin="<s>", end="<|endoftext|>", marks=(*ROLES, "<|end|>")),
    Family("phi4", "Phi 4 (Phi-4-mini-instruct)", "Phi3", "the same with partial rotation and long-text factors",
           {"head_dim": None, "tie_word_embeddings": True, "partial_rotary_factor": 0.75, "rope_parameters": LONG_ROPE,
            "original_max_position_embeddings": CONTEXT},
           template="phi4", marks=(*ROLES, "<|end|>")),
    Family("mistral", "Mistral (Mistral-7B-Instruct-v0.3)", "Mistral", "window in every block", {"sliding_window": WINDOW},
           template="mistral", marks=("[INST]", "[/INST]"), **PIECES),
    Family("mixtral", "Mixtral (Mixtral-8x7B-Instruct-v0.1)", "Mixtral", "experts, noise in the router while training",
           {"num_local_experts": 4, "num_experts_per_tok": 2, "router_jitter_noise": 0.1, "router_aux_loss_coef": 0.5},
           template="mixtral", **PIECES),
    Family("olmo2", "OLMo 2 (OLMo-2-0425-1B-Instruct)", "Olmo2", "norms behind the layers", {"head_dim": None},
           template="olmo2", begin="<|endoftext|>", marks=ROLES),
    Family("granite", "Granite 3 (granite-3.3-2b-instruct)", "Granite", "scales of embedding, scores, blocks and logits",
           {**GRANITE, "head_dim": None, "tie_word_embeddings": True}, template="granite", end="<|end_of_text|>",
           marks=("<|start_of_role|>", "<|end_of_role|>")),
    Family("smollm3", "SmolLM 3 (SmolLM3-3B)", "SmolLM3", "a block without rotation, dated template",
           {"no_rope_layers": [1, 1, 0], "head_dim": None, "tie_word_embeddings": True},
           template="smollm3", end="<|im_end|>", marks=THINK),
    Family("stablelm", "StableLM 2 (stablelm-2-zephyr-1_6b)", "StableLm", "partial rotation, dropout",
           {"head_dim": None, "hidden_dropout": 0.1, "attention_dropout": 0.1, "use_qkv_bias": True},
           template="stablelm", marks=ROLES),
    Family("gpt_neox", "GPT-NeoX (pythia-160m)", "GPTNeoX", "fused projection, parallel blocks, dropout; no template", NEOX_SIZE),
    Family("gpt2", "GPT-2 (gpt2)", "GPT2", "learned positions, weights transposed; no template", GPT2_SIZE),
    Family("falcon_h1", "Falcon-H1 (Falcon-H1-0.5B-Instruct)", "FalconH1", "attention and recurrence side by side, scales",
           {**FALCON_H1, "head_dim": 32}, template="chatml", end="<|im_end|>", marks=CHATML),
    Family("mamba", "Mamba (mamba-130m-hf)", "Mamba", "recurrence alone; no template", MAMBA),
    Family("gpt_oss", "gpt-oss (gpt-oss-20b)", "GptOss", "attention sinks, window, experts",
           {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW, "layer_types": MIXED, "intermediate_size": 64,
            "router_aux_loss_coef": 0.5},
           template="gpt_oss", end="<|return|>", marks=("<|start|>", "<|message|>", "<|channel|>", "<|end|>")),
    Family("deepseek_v2", "DeepSeek-V2 (DeepSeek-V2-Chat)", "DeepseekV2", "latent attention, experts",
           {**DEEPSEEK, "q_lora_rank": 32}, template="deepseek_v2", begin="<｜begin▁of▁sentence｜>", end="<｜end▁of▁sentence｜>"),
    Family("cohere2", "Cohere 2 (c4ai-command-r7b-12-2024)", "Cohere2", "window, a block without rotation, scale of logits",
           {"sliding_window": WINDOW, "logit_scale": 0.25, "layer_types": MIXED, "pad_token_id": 0},
           template="cohere2", begin="<BOS_TOKEN>", end="<|END_OF_TURN_TOKEN|>", adds_begin=True,
           marks=COHERE, apart="it gives Cohere 2 a window one token longer than transformers does; texts within the window agree"),
    Family("glm4", "GLM 4 (GLM-4-9B-0414)", "Glm4", "partial rotation, norms around the layers; nothing ends a turn",
           {"partial_rotary_factor": 0.5, "pad_token_id": 0}, template="glm4", marks=("[gMASK]", "<sop>", *ROLES)),
    Family("ernie", "ERNIE 4.5 (ERNIE-4.5-0.3B-PT)", "Ernie4_5", "rotation of neighbouring pairs", {"tie_word_embeddings": True},
           template="ernie", tokenizer="pieces", begin="<s>", end="</s>", marks=("<|begin_of_sentence|>", "<|end_of_sentence|>")),
    Family("lfm2", "LFM2 (LFM2-350M)", "Lfm2", "short convolutions and attention",
           {"head_dim": None, "layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False},
           template="lfm2", begin="<|startoftext|>", end="<|im_end|>", marks=CHATML, adds_begin=True),
]  # fmt: skip
BY_NAME = {family.name: family for family in FAMILIES}
