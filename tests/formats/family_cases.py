"""A tiny random model of each family, made by `transformers`, for tests and for the table of
benchmarks/families.py. transformers is imported only inside functions.

The settings make every option matter within 40 tokens: windows of a few tokens, epsilons that are
large beside the activations, lengths before scaling that the text exceeds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

V, T = 61, 40  # vocabulary, tokens of a text

LLAMA = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
QWEN3 = {**LLAMA, "head_dim": 8}
GEMMA = {**LLAMA, "head_dim": 12, "query_pre_attn_scalar": 20, "sliding_window": 7}
MOE = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
GPT2 = {
    "vocab_size": V,
    "n_positions": 64,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "layer_norm_epsilon": 1e-2,
    "bos_token_id": None,
    "eos_token_id": None,
}
NEOX = {
    **{key: value for key, value in LLAMA.items() if key != "num_key_value_heads"},
    "layer_norm_eps": 1e-2,
    "rotary_pct": 0.5,
}
DEEPSEEK = {
    **LLAMA,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "n_routed_experts": 8,
    "n_group": 4,
    "topk_group": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 20,
    "n_shared_experts": 2,
    "kv_lora_rank": 16,
    "q_lora_rank": 12,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 6,
    "first_k_dense_replace": 1,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
SLOW_YARN = {"beta_fast": 2.0, "beta_slow": 0.5, "truncate": False}  # borders within few pairs
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
SHORT, LONG = [1.0, 1.1, 1.2, 1.3], [1.0, 2.0, 3.5, 5.0]
LONGROPE = {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG}

Changes = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A family with settings; `mutations` are wrong values of our config that must be noticed."""

    family: str
    settings: dict[str, Any]
    mutations: list[Changes] = field(default_factory=list)
    written: str | None = None  # model_type that we save it as; default: the same
    by_length: bool = False  # the angles of all tokens change as the text grows

    @property
    def classes(self) -> tuple[str, str]:
        """Names of the config's and the model's class."""
        config = "Gemma3Text" if self.family == "Gemma3" else self.family
        model = "GPT2LMHeadModel" if self.family == "GPT2" else f"{self.family}ForCausalLM"
        return f"{config}Config", model


def scaling(**values: Any) -> Changes:
    """A mutation of the rotary scaling: these of its fields, the others as they are."""
    return {"rotary_scaling": values}


def experts(**values: Any) -> Changes:
    """A mutation of the experts."""
    return {"experts": values}


COMMON: list[Changes] = [
    {"rotary_base": 9_500.0},
    {"norm_eps": 1.2e-2},
    {"attention_scale": 1.01 * 8**-0.5},
    {"norm_placement": "post"},
    {"feedforward": "geglu"},
]

CASES: dict[str, Case] = {
    "gpt2": Case(
        "GPT2",
        GPT2,
        [
            {"norm_eps": 1.2e-2},
            {"feedforward": "gelu"},
            {"position": "sinusoidal"},
            {"norm_placement": "post"},
            {"attention_scale": 1.01 * 8**-0.5},
        ],
    ),
    "gpt2-untied-gelu": Case(
        "GPT2",
        {**GPT2, "tie_word_embeddings": False, "activation_function": "gelu", "n_inner": 40},
        [{"feedforward": "gelu_tanh"}],
    ),
    "llama-2": Case(
        "Llama",
        {**LLAMA, "num_key_value_heads": 4},
        [*COMMON, {"norm": "layernorm"}, {"position": "none"}, {"rotary_interleaved": True}],
    ),
    "llama-3": Case(
        "Llama",
        {**LLAMA, "tie_word_embeddings": True, "rope_parameters": {**LLAMA3, "rope_theta": 500.0}},
        [
            {"rotary_base": 505.0},
            {"rotary_scaling": None},
            scaling(factor=7.5),
            scaling(low_frequency=1.2),
            scaling(high_frequency=4.5),
            scaling(original_context=23),
        ],
    ),
    "llama-linear": Case(
        "Llama",
        {**LLAMA, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        [scaling(factor=2.05), {"rotary_scaling": None}],
    ),
    "llama-dynamic": Case(
        "Llama",
        {
            **LLAMA,
            "max_position_embeddings": 24,
            "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
        },
        [scaling(factor=2.1), scaling(original_context=25), {"rotary_scaling": None}],
        by_length=True,
    ),
    "llama-yarn": Case(
        "Llama",
        {**LLAMA, "rope_parameters": {**YARN, **SLOW_YARN, "rope_theta": 100.0}},
        [
            scaling(factor=4.1),
            scaling(beta_fast=1.9),
            scaling(beta_slow=0.55),
            scaling(truncate=True),
            scaling(original_context=15),
            scaling(attention_factor=1.0),
            {"rotary_scaling": None},
        ],
    ),
    "llama-mqa-biases": Case(
        "Llama",
        {**LLAMA, "num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True},
        [{"qkv_bias": False}, {"feedforward_bias": False}],
    ),
    "mistral": Case(
        "Mistral",
        {**LLAMA, "sliding_window": 7},
        [*COMMON, {"window": 6}, {"window": 8}, {"window": None}],
    ),
    "mistral-0.3": Case("Mistral", {**LLAMA, "sliding_window": None}, written="llama"),
    "qwen2": Case("Qwen2", LLAMA, [*COMMON, {"qkv_bias": False}]),
    "qwen2.5-window": Case(
        "Qwen2",
        {**LLAMA, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
        [{"window": 6}, {"window": 8}, {"reach": ("local", "local", "global")}],
    ),
    "qwen3": Case(
        "Qwen3",
        {**QWEN3, "tie_word_embeddings": True},
        [*COMMON, {"qk_norm": False}, {"qk_norm_over": "all"}, {"kv_heads": 1}],
    ),
    "qwen3-wide-heads-bias": Case(
        "Qwen3", {**QWEN3, "head_dim": 12, "attention_bias": True}, [{"qkv_bias": False}]
    ),
    "gemma": Case(
        "Gemma",
        {**LLAMA, "head_dim": 12},
        [
            {"norm_offset": False},
            {"embedding_scale": None},
            {"feedforward": "geglu"},
            {"norm_eps": 1.2e-2},
            {"rotary_base": 9_500.0},
            {"attention_scale": 1.01 * 12**-0.5},
            {"norm_placement": "post"},
        ],
    ),
    "gemma-2": Case(
        "Gemma2",
        {**GEMMA, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 10.0},
        [
            {"attention_softcap": 3.1},
            {"attention_softcap": None},
            {"logit_softcap": 10.1},
            {"logit_softcap": None},
            {"attention_scale": 1.01 * 20**-0.5},
            {"window": 6},
            {"window": 8},
            {"reach": ("global", "local")},
            {"norm_placement": "pre"},
            {"norm_offset": False},
            {"norm_eps": 1.2e-2},
            {"rotary_base": 9_500.0},
        ],
    ),
    "gemma-3": Case(
        "Gemma3",
        {
            **GEMMA,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention"] * 2 + ["full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
            },
        },
        [
            {"window": 6},
            {"window": 8},
            {"rotary_base": 9.5e4},
            {"rotary_base_local": 950.0},
            {"rotary_base_local": None},
            {"rotary_scaling": None},
            scaling(factor=7.5),
            {"attention_scale": 1.01 * 20**-0.5},
            {"norm_eps": 1.2e-2},
            {"norm_placement": "pre"},
            {"qk_norm": False},
        ],
    ),
    "olmo-2": Case(
        "Olmo2",
        LLAMA,
        [
            {"norm_placement": "pre"},
            {"norm_placement": "post"},
            {"qk_norm_over": "head"},
            {"qk_norm": False},
            {"norm_eps": 1.2e-2},
            {"rotary_base": 9_500.0},
            {"attention_scale": 1.01 * 8**-0.5},
        ],
    ),
    "phi-3": Case(
        "Phi3",
        {
            **LLAMA,
            "sliding_window": 9,
            "original_max_position_embeddings": 16,
            "rope_parameters": {**LONGROPE, "rope_theta": 1e4},
        },
        [
            *COMMON,
            {"window": 8},
            {"window": 10},
            scaling(factor=3.8),
            scaling(long_factors=(1.0, 2.0, 3.5, 4.8)),
            scaling(original_context=17),
            scaling(attention_factor=1.0),
            {"rotary_scaling": None},
        ],
        by_length=True,
    ),
    "phi-3-short": Case(
        "Phi3",
        {
            **LLAMA,
            "max_position_embeddings": 128,
            "original_max_position_embeddings": 50,
            "rope_parameters": {**LONGROPE, "rope_theta": 1e4},
        },
        [scaling(short_factors=(1.0, 1.1, 1.2, 1.4)), scaling(original_context=30)],
        by_length=True,
    ),
    "phi-4-mini": Case(
        "Phi3",
        {**LLAMA, "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        [{"rotary_share": 1.0}, {"rotary_base": 9_500.0}],
    ),
    "smollm3": Case(
        "SmolLM3",
        {**LLAMA, "num_hidden_layers": 4, "rope_parameters": {"rope_theta": 1e4}},
        [
            *COMMON,
            {"rotary_layers": None},
            {"rotary_layers": (True, True, False, True)},
        ],
    ),
    "smollm3-window": Case(
        "SmolLM3",
        {
            **LLAMA,
            "no_rope_layers": [0, 1, 0],
            "use_sliding_window": True,
            "sliding_window": 7,
        },
        [{"window": 6}, {"reach": ("global", "local")}, {"rotary_layers": (True, True, False)}],
    ),
    "gpt-neox": Case(
        "GPTNeoX",
        NEOX,
        [
            {"parallel": False},
            {"rotary_share": 1.0},
            {"rotary_base": 9_500.0},
            {"norm_eps": 1.2e-2},
            {"feedforward": "gelu_tanh"},
            {"attention_scale": 1.01 * 8**-0.5},
        ],
    ),
    "gpt-neox-in-turn": Case("GPTNeoX", {**NEOX, "use_parallel_residual": False}),
    "mixtral": Case(
        "Mixtral",
        {
            **LLAMA,
            "num_local_experts": 5,
            "sliding_window": 9,
            "rope_parameters": {"rope_theta": 1e4},
        },
        [
            *COMMON,
            {"window": 8},
            experts(chosen=1),
            experts(normalise=False),
            experts(scores="sigmoid"),
        ],
    ),
    "qwen3-moe": Case(
        "Qwen3Moe",
        {**QWEN3, **MOE, "norm_topk_prob": True, "mlp_only_layers": [1]},
        [*COMMON, experts(chosen=3), experts(normalise=False), {"qk_norm": False}],
    ),
    "qwen2-moe": Case(
        "Qwen2Moe",
        {**LLAMA, **MOE, "shared_expert_intermediate_size": 20, "decoder_sparse_step": 2},
        [
            *COMMON,
            experts(normalise=True),
            experts(shared_gate=False),
            experts(shared_width=0, shared_gate=False),
        ],
    ),
    "deepseek-v3": Case(
        "DeepseekV3",
        DEEPSEEK,
        [
            {"rotary_base": 9_500.0},
            {"norm_eps": 1e-3},
            {"attention_scale": 1.01 * 12**-0.5},
            {"norm_placement": "post"},
            {"rotary_interleaved": False},
            experts(chosen=2),
            experts(scores="softmax"),
            experts(normalise=False),
            experts(weight_scale=2.55),
            experts(groups_chosen=3),
            experts(groups=2, groups_chosen=1),
            experts(selection_bias=False),
            experts(shared_width=0),
        ],
    ),
    "deepseek-v3-yarn": Case(
        "DeepseekV3",
        {
            **DEEPSEEK,
            "q_lora_rank": None,
            "rope_parameters": {**YARN, "rope_theta": 1e4, "mscale": 0.8, "mscale_all_dim": 0.9},
        },
        [scaling(mscale=0.7), scaling(mscale_all=0.8), scaling(factor=4.1)],
    ),
}  # fmt: skip
