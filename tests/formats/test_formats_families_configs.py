"""Configs as the hub has them, in both spellings, for the models that people use; and refusals."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
from published_configs import (
    DEEPSEEK_V3,
    GEMMA2,
    GEMMA3,
    LLAMA_1B,
    MISTRAL,
    MIXTRAL,
    PHI3_128K,
    PUBLISHED,
    PYTHIA,
    QWEN2_MOE,
    QWEN3,
    QWEN3_MOE,
    QWEN25,
    SMOLLM3,
)

from langwright.base import UserError
from langwright.formats import from_hf_config, to_hf_config
from langwright.formats.hf_config import computation
from langwright.model import ModelConfig, model_config, preset_names


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
