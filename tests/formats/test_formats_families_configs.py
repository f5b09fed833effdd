"""Configs as the hub has them, in both spellings, for the models that people use; and refusals."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest

from langwright.base import UserError
from langwright.formats import from_hf_config, to_hf_config
from langwright.formats.hf_config import computation
from langwright.model import ModelConfig, model_config, preset_names

# What decides the computation in published config.json files, in the words of their time.
LLAMA_1B = {
    "model_type": "llama", "hidden_act": "silu", "hidden_size": 2048, "head_dim": 64,
    "intermediate_size": 8192, "max_position_embeddings": 131072, "num_attention_heads": 32,
    "num_hidden_layers": 16, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "vocab_size": 128256, "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1,
}  # fmt: skip
MISTRAL = {
    "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336,
    "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
    "sliding_window": 4096, "tie_word_embeddings": False, "vocab_size": 32000,
}  # fmt: skip
QWEN25 = {
    "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864,
    "max_position_embeddings": 32768, "max_window_layers": 24, "num_attention_heads": 14,
    "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True,
    "use_mrope": False, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
GEMMA2 = {
    "model_type": "gemma2", "attention_bias": False, "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304, "intermediate_size": 9216,
    "max_position_embeddings": 8192, "num_attention_heads": 8, "num_hidden_layers": 26,
    "num_key_value_heads": 4, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0, "sliding_window": 4096, "vocab_size": 256000, "cache_implementation":
    "hybrid",
}  # fmt: skip
GEMMA3 = {
    "model_type": "gemma3_text", "attention_bias": False, "attn_logit_softcapping": None,
    "final_logit_softcapping": None, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152, "intermediate_size": 6912, "max_position_embeddings": 32768,
    "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000,
    "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512,
    "sliding_window_pattern": 6, "vocab_size": 262144,
}  # fmt: skip
OLMO2 = {
    "model_type": "olmo2", "attention_bias": False, "hidden_size": 4096,
    "intermediate_size": 11008, "max_position_embeddings": 4096, "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 500000, "tie_word_embeddings": False,
    "vocab_size": 100352,
}  # fmt: skip
PHI3 = {
    "model_type": "phi3", "attention_bias": False, "hidden_size": 3072,
    "intermediate_size": 8192, "max_position_embeddings": 4096, "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 32, "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0, "sliding_window": 2047,
    "tie_word_embeddings": False, "vocab_size": 32064,
}  # fmt: skip
PHI3_128K = PHI3 | {
    "max_position_embeddings": 131072, "sliding_window": 262144,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0 + i / 99 for i in range(48)],
                     "long_factor": [1.0 + i for i in range(48)]},
}  # fmt: skip
SMOLLM3 = {
    "model_type": "smollm3", "attention_bias": False, "hidden_size": 2048,
    "intermediate_size": 11008, "max_position_embeddings": 65536, "max_window_layers": 28,
    "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0] * 9, "num_attention_heads": 16,
    "num_hidden_layers": 36, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 5000000.0, "sliding_window": None,
    "use_sliding_window": False, "vocab_size": 128256, "layer_types": ["full_attention"] * 36,
}  # fmt: skip
MIXTRAL = {
    "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336,
    "max_position_embeddings": 32768, "num_attention_heads": 32, "num_experts_per_tok": 2,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
    "output_router_logits": False, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.02, "sliding_window": None, "tie_word_embeddings": False,
    "vocab_size": 32000,
}  # fmt: skip
QWEN3_MOE = {
    "model_type": "qwen3_moe", "attention_bias": False, "decoder_sparse_step": 1,
    "head_dim": 128, "hidden_size": 2048, "intermediate_size": 6144,
    "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [],
    "moe_intermediate_size": 768, "norm_topk_prob": True, "num_attention_heads": 32,
    "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
    "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_scaling": None,
    "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": False,
    "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3", "attention_bias": False, "first_k_dense_replace": 3,
    "hidden_size": 7168, "intermediate_size": 18432, "kv_lora_rank": 512,
    "max_position_embeddings": 163840, "moe_intermediate_size": 2048, "moe_layer_freq": 1,
    "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": True,
    "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61,
    "num_key_value_heads": 128, "num_nextn_predict_layers": 1, "q_lora_rank": 1536,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06,
    "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0,
                     "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096,
                     "type": "yarn"},
    "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
    "tie_word_embeddings": False, "topk_group": 4, "topk_method": "noaux_tc",
    "v_head_dim": 128, "vocab_size": 129280,
}  # fmt: skip
PYTHIA = {
    "model_type": "gpt_neox", "hidden_act": "gelu", "hidden_size": 768,
    "intermediate_size": 3072, "layer_norm_eps": 1e-05, "max_position_embeddings": 2048,
    "num_attention_heads": 12, "num_hidden_layers": 12, "rotary_emb_base": 10000,
    "rotary_pct": 0.25, "tie_word_embeddings": False, "use_parallel_residual": True,
    "vocab_size": 50304,
}  # fmt: skip
SMOLLM2 = {
    "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
    "max_position_embeddings": 8192, "num_attention_heads": 9, "num_hidden_layers": 30,
    "num_key_value_heads": 3, "rms_norm_eps": 1e-05, "rope_interleaved": False,
    "rope_scaling": None, "rope_theta": 100000, "tie_word_embeddings": True, "vocab_size": 49152,
}  # fmt: skip
QWEN3 = {
    "model_type": "qwen3", "attention_bias": False, "head_dim": 128, "hidden_size": 1024,
    "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28,
    "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
    "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
GEMMA = {
    "model_type": "gemma", "attention_bias": False, "head_dim": 256, "hidden_act": "gelu",
    "hidden_size": 2048, "intermediate_size": 16384, "max_position_embeddings": 8192,
    "num_attention_heads": 8, "num_hidden_layers": 18, "num_key_value_heads": 1,
    "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "vocab_size": 256000,
}  # fmt: skip
QWEN2_MOE = {
    "model_type": "qwen2_moe", "decoder_sparse_step": 1, "hidden_size": 2048,
    "intermediate_size": 5632, "max_position_embeddings": 8192, "max_window_layers": 21,
    "moe_intermediate_size": 1408, "norm_topk_prob": False, "num_attention_heads": 16,
    "num_experts": 60, "num_experts_per_tok": 4, "num_hidden_layers": 24,
    "num_key_value_heads": 16, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "shared_expert_intermediate_size": 5632, "sliding_window": 32768,
    "tie_word_embeddings": False, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
GPT2 = {
    "model_type": "gpt2", "activation_function": "gelu_new", "attn_pdrop": 0.1,
    "embd_pdrop": 0.1, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "n_ctx": 1024,
    "n_embd": 1024, "n_head": 16, "n_layer": 24, "n_positions": 1024, "resid_pdrop": 0.1,
    "vocab_size": 50257,
}  # fmt: skip
# our preset's name, where there is one -> the hub's config
PUBLISHED = {
    "llama-3.2-1b": LLAMA_1B,
    "mistral-7b": MISTRAL,
    "qwen2.5-0.5b": QWEN25,
    "gemma-2-2b": GEMMA2,
    "gemma-3-1b": GEMMA3,
    "olmo-2-7b": OLMO2,
    "phi-3-mini": PHI3,
    "phi-3-mini-128k": PHI3_128K,
    "smollm2-135m": SMOLLM2,
    "smollm3-3b": SMOLLM3,
    "mixtral-8x7b": MIXTRAL,
    "qwen3-30b-a3b": QWEN3_MOE,
    "deepseek-v3": DEEPSEEK_V3,
    "pythia-160m": PYTHIA,
    "qwen3-0.6b": QWEN3,
    "gemma-2b": GEMMA,
    "qwen1.5-moe": QWEN2_MOE,
    "gpt2-355m": GPT2,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_both_spellings_of_published_configs(name):
    """What transformers 5 makes of a file of transformers 4 is the same model to us."""
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    table = PUBLISHED[name]
    config = from_hf_config(table)
    modern = transformers.AutoConfig.for_model(**deepcopy(table)).to_dict()
    again = from_hf_config({key: value for key, value in modern.items() if key != "architectures"})
    assert computation(again) == computation(config)


WINDOWS = {"use_sliding_window": True, "sliding_window": 64}
DYNAMIC = {"type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 99}
TWO_LENGTHS = PHI3_128K["rope_scaling"] | {"original_max_position_embeddings": 99}


@pytest.mark.parametrize(
    "table",
    [
        QWEN25 | WINDOWS | {"max_window_layers": 7},
        QWEN3 | WINDOWS | {"max_window_layers": 0},
        QWEN2_MOE | WINDOWS | {"max_window_layers": 7},
        QWEN3_MOE | WINDOWS,
        SMOLLM3 | WINDOWS | {"layer_types": None},
        SMOLLM3 | {"no_rope_layers": None, "no_rope_layer_interval": 5},
        GEMMA3 | {"sliding_window_pattern": 4},
        GEMMA3 | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        LLAMA_1B | {"rope_scaling": DYNAMIC},
        PHI3_128K | {"rope_scaling": TWO_LENGTHS},
        PYTHIA | {"rotary_pct": 1.0, "rotary_emb_base": 500},
    ],
)
def test_older_words_mean_what_they_mean_there(table):
    """What transformers 5 spells out of them is what we read in them."""
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    modern = transformers.AutoConfig.for_model(**deepcopy(table)).to_dict()
    modern.pop("architectures")
    for field in ("sliding_window_pattern", "max_window_layers", "no_rope_layer_interval"):
        modern.pop(field, None)
    config = from_hf_config(table)
    assert computation(config) == computation(from_hf_config(modern))
    if table.get("rope_scaling") is DYNAMIC:  # the length is the config's own, not the table's
        assert config.rotary_scaling.original_context == table["max_position_embeddings"]
    if table.get("rope_scaling") is TWO_LENGTHS:  # the one beside the table goes first
        assert config.rotary_scaling.original_context == 4096


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_silent_file_means_what_it_means_there(name):
    """Each field left out has the default of transformers' class of that family."""
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    table = PUBLISHED[name]
    left_out = set(table) - NEEDED
    assert left_out
    for field in left_out:
        silent = {key: value for key, value in table.items() if key != field}
        modern = transformers.AutoConfig.for_model(**deepcopy(silent)).to_dict()
        modern.pop("architectures")
        try:
            expected = from_hf_config(modern)
        except UserError as error:
            with pytest.raises(UserError) as ours:
                from_hf_config(silent)
            assert ours.value.message == error.message
        else:
            assert computation(from_hf_config(silent)) == computation(expected), field


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_come_back(name):
    """Written by us and read again: the same; and transformers reads the same from it."""
    transformers = pytest.importorskip("transformers")
    config = from_hf_config(PUBLISHED[name])
    written = json.loads(json.dumps(to_hf_config(config)))
    back = from_hf_config(written)
    assert to_hf_config(back) == written
    if written["model_type"] == PUBLISHED[name]["model_type"]:
        assert computation(back) == computation(config)
    modern = transformers.AutoConfig.for_model(**deepcopy(written)).to_dict()
    modern["architectures"] = written["architectures"]
    assert to_hf_config(from_hf_config(modern)) == written


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name in preset_names()])
def test_presets_are_the_published_models(name):
    """A preset and the published file write the same config, but for training's own settings."""

    def of(config):
        table = to_hf_config(config)
        for field in TRAINING:
            table.pop(field, None)
        return table | {"initializer_range": None}

    assert of(model_config({"preset": name})) == of(from_hf_config(PUBLISHED[name]))


# Fields that a file must have: no model is like the class's default in them.
NEEDED = {
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
}
TRAINING = (
    "attention_dropout",
    "hidden_dropout",
    "embd_pdrop",
    "resid_pdrop",
    "output_router_logits",
    "router_aux_loss_coef",
)
SMALL = {"vocab_size": 30, "context_length": 32, "width": 16, "layers": 4, "heads": 2}


@pytest.mark.parametrize(
    "options,model_type",
    [
        ({}, "llama"),
        ({"qkv_bias": True}, "qwen2"),
        ({"qk_norm": True}, "qwen3"),
        ({"window": 8}, "mistral"),
        ({"window": 8, "reach": ["local", "global"], "qkv_bias": True}, "qwen2"),
        ({"window": 8, "reach": ["local", "global"]}, "smollm3"),
        ({"rotary_layers": [True, False]}, "smollm3"),
        ({"rotary_share": 0.5}, "phi3"),
        ({"rotary_scaling": {"kind": "linear", "factor": 2}}, "llama"),
        ({"rotary_scaling": {"kind": "ntk", "factor": 2}}, "llama"),
        ({"rotary_scaling": {"kind": "yarn", "factor": 2, "mscale": 0.7}}, "llama"),
        ({"rotary_scaling": {"kind": "llama3", "factor": 2, "original_context": 9}}, "llama"),
        (
            {
                "rotary_scaling": {
                    "kind": "longrope",
                    "factor": 2,
                    "short_factors": [1.0] * 4,
                    "long_factors": [2.0] * 4,
                }
            },
            "phi3",
        ),
        ({"qk_norm": True, "qk_norm_over": "all", "norm_placement": "output"}, "olmo2"),
        ({"qk_norm": True, "norm_placement": "output"}, "langwright"),
        ({"experts": {"count": 4}}, "mixtral"),
        ({"experts": {"count": 4, "normalise": False}, "qk_norm": True}, "qwen3_moe"),
        ({"experts": {"count": 4, "normalise": False}}, "langwright"),
        ({"experts": {"count": 4}, "expert_layers": [True, False]}, "langwright"),
        ({"rotary_interleaved": True}, "langwright"),
        ({"position": "alibi"}, "langwright"),
        ({"position": "relative"}, "langwright"),
        ({"attention_sinks": True}, "langwright"),
        ({"attention_scale": 0.1}, "langwright"),
        ({"attention_scale": 8**-0.5}, "llama"),
        ({"embedding_scale": 4.0}, "langwright"),
        ({"head_bias": True}, "langwright"),
        ({"embedding_norm": True}, "langwright"),
        ({"logit_softcap": 9.0}, "langwright"),
        ({"attention_softcap": 9.0}, "langwright"),
        ({"parallel": True}, "langwright"),
        ({"latent": {"kv_rank": 8, "rotary_width": 4}}, "langwright"),
    ],
)
def test_the_family_that_a_config_is(options, model_type):
    config = ModelConfig(**SMALL, **options)
    table = json.loads(json.dumps(to_hf_config(config)))
    assert table["model_type"] == model_type
    again = from_hf_config(table)
    assert to_hf_config(again) == table
    if model_type == "langwright":
        assert again == config


LLAMA = to_hf_config(ModelConfig(**SMALL))


@pytest.mark.parametrize(
    "table,words",
    [
        ({"model_type": "gpt_oss"}, ["gpt_oss", "clamped"]),
        ({"model_type": "gemma3"}, ["gemma3_text"]),
        ({**LLAMA, "rope_scaling": {"type": "linear"}}, ["rope_scaling", "factor"]),
        ({**LLAMA, "rope_scaling": {"type": "linear", "factor": 0.5}}, ["rotary_scaling.factor"]),
        ({**LLAMA, "rope_scaling": {"type": "linear", "factor": "2"}}, ["rope_scaling factor"]),
        ({**LLAMA, "rope_scaling": {"type": "mrope", "factor": 2.0}}, ["rope_scaling", "mrope"]),
        ({**LLAMA, "rope_scaling": {"type": "longrope", "factor": 2.0}}, ["short_factor"]),
        (
            {
                **LLAMA,
                "rope_scaling": {
                    "type": "longrope",
                    "factor": 2.0,
                    "short_factor": [1.0],
                    "long_factor": [1.0],
                },
            },
            ["must be 4"],
        ),
        ({**LLAMA, "rope_parameters": {"full_attention": {}}}, ["rope_parameters"]),
        ({**LLAMA, "partial_rotary_factor": 0.5}, ["partial_rotary_factor"]),
        ({**LLAMA, "final_logit_softcapping": 3.0}, ["final_logit_softcapping"]),
        ({**QWEN25, "hidden_act": "gelu"}, ["hidden_act"]),
        (
            {**QWEN25, "use_sliding_window": True, "layer_types": ["chunked_attention"] * 24},
            ["chunked_attention"],
        ),
        ({**QWEN25, "layer_types": ["full_attention"] * 3}, ["layer_types", "24"]),
        (
            {**QWEN25, "layer_types": ["sliding_attention"] * 24},
            ["sliding_window is missing"],
        ),
        ({**MISTRAL, "layer_types": ["full_attention"] * 32}, ["layer_types"]),
        ({**GEMMA2, "hidden_activation": "gelu"}, ["hidden_activation"]),
        ({**GEMMA2, "query_pre_attn_scalar": 0}, ["query_pre_attn_scalar"]),
        ({**GEMMA2, "use_bidirectional_attention": True}, ["use_bidirectional_attention"]),
        ({**GEMMA3, "sliding_window_pattern": 0}, ["sliding_window_pattern"]),
        (
            {
                **GEMMA3,
                "rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}},
            },
            ["rope_parameters", "linear"],
        ),
        ({**GEMMA3, "rope_parameters": {"sliding_attention": 3}}, ["rope_parameters"]),
        ({**SMOLLM3, "no_rope_layers": [1]}, ["no_rope_layers", "36"]),
        (
            {**SMOLLM3, "no_rope_layers": None, "no_rope_layer_interval": 0},
            ["interval"],
        ),
        ({**QWEN3_MOE, "decoder_sparse_step": 0}, ["interval"]),
        ({**QWEN3_MOE, "num_experts_per_tok": 129}, ["chosen"]),
        ({**MIXTRAL, "num_local_experts": 10**9}, ["experts.count"]),
        ({**DEEPSEEK_V3, "scoring_func": "softmax"}, ["scoring_func"]),
        ({**DEEPSEEK_V3, "attention_bias": True}, ["attention_bias"]),
        ({**DEEPSEEK_V3, "rms_norm_eps": 1e-5}, ["rms_norm_eps", "one epsilon"]),
        ({**DEEPSEEK_V3, "num_key_value_heads": 4}, ["num_key_value_heads"]),
        ({**DEEPSEEK_V3, "quantization_config": {"bits": 8}}, ["quantization_config"]),
        ({**PYTHIA, "hidden_act": "mish"}, ["hidden_act", "mish"]),
    ],
)
def test_what_we_do_not_compute_is_refused(table, words):
    with pytest.raises(UserError) as error:
        from_hf_config(table, where="x/config.json")
    for word in ["x/config.json", *words]:
        assert word in str(error.value)
