"""Every option of the transformer, on a model small enough to try them all."""

from __future__ import annotations

import torch

from langwright.model import (
    KVCache,
    ModelConfig,
    build_model,
)

V = 40


BASE = {"vocab_size": V, "context_length": 64, "width": 24, "layers": 2, "heads": 4}


ALONE = ("blocks.0.attention.q.", "blocks.0.attention.k.")


LATENT = {"kv_rank": 12, "query_rank": 10, "rotary_width": 4, "value_width": 7}


# Every option at least once, in combinations that interact.
OPTIONS = {
    "plain": {},
    "mha-learned": {"position": "learned", "norm": "layernorm", "norm_bias": True},
    "gqa": {"kv_heads": 2, "qk_norm": True},
    "mqa-wide-heads": {"kv_heads": 1, "head_width": 10},
    "sinusoidal-post": {"position": "sinusoidal", "norm_placement": "post"},
    "nope": {"position": "none", "feedforward": "relu"},
    "biases": {"qkv_bias": True, "attention_out_bias": True, "feedforward_bias": True},
    "no-affine": {"norm_affine": False, "qk_norm": True, "feedforward": "relu2", "tied": False},
    "geglu": {"feedforward": "geglu", "feedforward_bias": True},
    "gelu": {"feedforward": "gelu", "tied": False},
    "gelu-tanh": {"feedforward": "gelu_tanh", "hidden_width": 50},
    "silu-layernorm-post": {"feedforward": "silu", "norm": "layernorm", "norm_placement": "post"},
    # Positions.
    "alibi": {"position": "alibi", "heads": 6, "kv_heads": 3},
    "relative": {"position": "relative", "relative_buckets": 6, "relative_distance": 9},
    "some-layers-turn": {"rotary_layers": (True, False)},
    "partial-interleaved": {"rotary_share": 0.67, "rotary_interleaved": True},
    "linear": {"rotary_scaling": {"kind": "linear", "factor": 4.0}},
    "ntk": {"rotary_scaling": {"kind": "ntk", "factor": 2.0, "original_context": 6}},
    "yarn": {"rotary_scaling": {"kind": "yarn", "factor": 4.0, "original_context": 6}},
    "llama3": {"rotary_scaling": {"kind": "llama3", "factor": 8.0, "original_context": 32}},
    "longrope": {
        "rotary_scaling": {
            "kind": "longrope",
            "factor": 8.0,
            "original_context": 6,
            "short_factors": (1.0, 1.1, 1.2),
            "long_factors": (1.5, 3.0, 9.0),
        }
    },
    # Who sees whom.
    "window": {"window": 4, "kv_heads": 2},
    "window-of-one": {"window": 1, "reach": ("local", "global")},
    "window-alibi": {"window": 5, "reach": ("global", "local"), "position": "alibi"},
    "window-relative": {
        "window": 5,
        "reach": ("local", "global"),
        "position": "relative",
        "relative_buckets": 4,
        "relative_distance": 8,
    },
    "window-longrope": {
        "window": 4,
        "reach": ("local", "global"),
        "rotary_scaling": {
            "kind": "longrope",
            "factor": 2.0,
            "original_context": 8,
            "short_factors": (1.0, 1.0, 1.0),
            "long_factors": (2.0, 2.0, 4.0),
        },
    },
    # Scores.
    "softcap": {"attention_softcap": 2.0, "kv_heads": 2},
    "sinks": {"attention_sinks": True, "kv_heads": 2},
    "everything": {
        "attention_softcap": 3.0,
        "attention_sinks": True,
        "window": 5,
        "kv_heads": 2,
        "reach": ("local", "global"),
        "qk_norm": True,
        "attention_scale": 0.3,
        "rotary_base_local": 100.0,
        "rotary_scaling": {"kind": "linear", "factor": 2.0},
    },
    # The ends of the model.
    "qk-norm-over-all": {"qk_norm": True, "qk_norm_over": "all", "kv_heads": 2},
    "gemma-2-like": {
        "norm_placement": "sandwich",
        "norm_offset": True,
        "embedding_scale": 24**0.5,
        "logit_softcap": 5.0,
        "attention_softcap": 5.0,
        "window": 4,
        "reach": ("local", "global"),
        "feedforward": "geglu_tanh",
    },
    "output-norm": {"norm_placement": "output", "qk_norm": True, "qk_norm_over": "all"},
    "head-bias": {"head_bias": True, "embedding_norm": True, "norm": "layernorm"},
    "parallel": {"parallel": True, "rotary_share": 0.34},
    # What no other software has.
    "fastest": {
        "residual_scalars": True,
        "value_embeddings": True,
        "smear": True,
        "backout": True,
        "kv_heads": 2,
        "qk_norm": True,
        "norm_affine": False,
        "tied": False,
        "layers": 3,
    },
    "fastest-window": {
        "residual_scalars": True,
        "value_embeddings": True,
        "smear": True,
        "backout": True,
        "position": "learned",
        "window": 4,
        "reach": ("local", "global"),
        "embedding_norm": True,
        "parallel": True,
    },
    "smear-ntk": {
        "smear": True,
        "rotary_scaling": {"kind": "ntk", "factor": 2.0, "original_context": 6},
    },
    "values-post": {"value_embeddings": True, "residual_scalars": True, "norm_placement": "post"},
    # Latent attention; its rotary part is the shared key's.
    "latent": {"latent": LATENT, "head_width": 5},
    "latent-plain-query": {
        "latent": {"kv_rank": 4, "rotary_width": 2, "value_width": 3},
        "head_width": 6,
        "rotary_interleaved": True,
        "window": 5,
        "reach": ("global", "local"),
        "qkv_bias": True,
        "attention_out_bias": True,
    },
    "latent-longrope": {
        "latent": LATENT,
        "head_width": 5,
        "attention_softcap": 3.0,
        "attention_sinks": True,
        "rotary_scaling": {
            "kind": "longrope",
            "factor": 2.0,
            "original_context": 6,
            "short_factors": (1.0, 1.3),
            "long_factors": (2.0, 4.0),
        },
    },
}


def model_of(options=None, seed=1, **more):
    """A model whose every parameter is random, biases too, so that all of them matter."""
    model = build_model(ModelConfig(**{**BASE, **(options or {}), **more}), seed).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.2))
            if parameter.dim() == 1 and name.endswith("weight"):
                parameter += 1.0
    return model


def exact_of(options):
    """The same in float64, where cached and uncached must agree to rounding."""
    model = model_of(options)
    model.compute_dtype = torch.float64
    return model


def cache_of(model, capacity, batch=3):
    return KVCache(model.config, batch, capacity, dtype=model.compute_dtype)


def ids_of(batch=3, t=12, seed=5):
    return torch.randint(0, V, (batch, t), generator=torch.Generator().manual_seed(seed))
