"""Named configs. A preset is a shape people know; every field of it can be overridden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from langwright.base import UserError, nearest
from langwright.model.config import ModelConfig
from langwright.model.published import PUBLISHED

# Radford et al. 2019: pre-norm, learned positions, biases everywhere, tanh GELU, tied head.
GPT2: dict[str, Any] = {
    "vocab_size": 50257,
    "context_length": 1024,
    "position": "learned",
    "norm": "layernorm",
    "norm_bias": True,
    "norm_eps": 1e-5,
    "feedforward": "gelu_tanh",
    "qkv_bias": True,
    "attention_out_bias": True,
    "feedforward_bias": True,
    "tied": True,
    "dropout_embedding": 0.1,
    "dropout_attention": 0.1,
    "dropout_residual": 0.1,
    "init": "gpt2",
}
# Touvron et al. 2023: RMSNorm, rotary, SwiGLU, no biases.
LLAMA: dict[str, Any] = {
    "vocab_size": 32000,
    "context_length": 1024,
    "position": "rotary",
    "rotary_base": 10_000.0,
    "norm": "rmsnorm",
    "norm_eps": 1e-5,
    "feedforward": "swiglu",
    "tied": True,
    "init": "gpt2",
}
# Qwen team 2025 (arXiv:2505.09388): Llama's block with QK norm and grouped keys.
QWEN3: dict[str, Any] = {
    **LLAMA,
    "vocab_size": 151936,
    "rotary_base": 1_000_000.0,
    "norm_eps": 1e-6,
    "qk_norm": True,
}
# Ours for speed in wall time: the cheap activation, norms without weights, every block starting as
# the identity, an untied head (the choices of the nanoGPT speed runs, 2024-2025).
FAST: dict[str, Any] = {
    "vocab_size": 8192,
    "context_length": 512,
    "position": "rotary",
    "norm": "rmsnorm",
    "norm_eps": 1e-6,
    "norm_affine": False,
    "qk_norm": True,
    "feedforward": "relu2",
    "tied": False,
    "init": "modern",
}

# The same with what only we can open (Karpathy 2026, nanochat's gpt.py): see `ModelConfig`. The
# first vectors come back in every block, so they must be of the stream's size: hence the norm.
FASTEST: dict[str, Any] = {
    **FAST,
    "embedding_norm": True,
    "logit_softcap": 15.0,
    "residual_scalars": True,
    "value_embeddings": True,
    "smear": True,
    "backout": True,
}


@dataclass(frozen=True)
class Preset:
    """A named config."""

    description: str
    values: dict[str, Any]


def _shape(width: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    return {"width": width, "layers": layers, "heads": heads, **more}


def _preset(description: str, family: dict[str, Any], shape: dict[str, Any]) -> Preset:
    return Preset(description, {**family, **shape})


_PYTHIA = PUBLISHED["pythia-160m"][1]
_QWEN3_SMALL = {"vocab_size": 8192, "context_length": 512, "rotary_base": 10_000.0}

PRESETS: dict[str, Preset] = {
    "gpt1-117m": _preset(
        "GPT (2018): post-norm, context 512; 116.5M parameters",
        GPT2,
        _shape(768, 12, 12, vocab_size=40478, context_length=512, norm_placement="post"),
    ),
    "gpt2-124m": _preset("GPT-2 small; 124,439,808 parameters", GPT2, _shape(768, 12, 12)),
    "gpt2-355m": _preset("GPT-2 medium; 354,823,168 parameters", GPT2, _shape(1024, 24, 16)),
    "gpt2-774m": _preset("GPT-2 large; 774,030,080 parameters", GPT2, _shape(1280, 36, 20)),
    "gpt2-1558m": _preset("GPT-2 XL; 1,557,611,200 parameters", GPT2, _shape(1600, 48, 25)),
    "gpt2-char-10m": _preset(
        "nanoGPT's character model: no biases, 65 symbols, context 256; 10.7M parameters",
        GPT2,
        _shape(
            384,
            6,
            6,
            vocab_size=65,
            context_length=256,
            norm_bias=False,
            qkv_bias=False,
            attention_out_bias=False,
            feedforward_bias=False,
            feedforward="gelu",
            dropout_embedding=0.2,
            dropout_attention=0.2,
            dropout_residual=0.2,
        ),
    ),
    "llama-2m": _preset(
        "Llama block; 1.6M in the blocks", LLAMA, _shape(192, 4, 6, kv_heads=2, context_length=256)
    ),
    "llama-15m": _preset(
        "llama2.c's stories15M shape",
        LLAMA,
        _shape(288, 6, 6, hidden_width=768, context_length=256),
    ),
    "llama-42m": _preset(
        "llama2.c's stories42M shape", LLAMA, _shape(512, 8, 8, hidden_width=1376)
    ),
    "llama-110m": _preset(
        "llama2.c's stories110M shape", LLAMA, _shape(768, 12, 12, hidden_width=2048)
    ),
    "qwen3-2m": _preset(
        "Qwen3 block, 2M with 4,096 tokens", QWEN3, _shape(160, 4, 5, kv_heads=1, **_QWEN3_SMALL)
    ),
    "qwen3-5m": _preset(
        "Qwen3 block, 5M with 4,096 tokens", QWEN3, _shape(256, 5, 4, kv_heads=2, **_QWEN3_SMALL)
    ),
    "qwen3-10m": _preset(
        "Qwen3 block, 10M with 4,096 tokens", QWEN3, _shape(384, 6, 6, kv_heads=2, **_QWEN3_SMALL)
    ),
    "qwen3-30m": _preset(
        "Qwen3 block, 30M with 8,192 tokens", QWEN3, _shape(512, 9, 8, kv_heads=4, **_QWEN3_SMALL)
    ),
    "langwright-fast-1m": _preset(
        "our fast recipe, 0.8M in the blocks", FAST, _shape(128, 4, 4, context_length=256)
    ),
    "langwright-fast-5m": _preset("our fast recipe, 4.7M in the blocks", FAST, _shape(256, 6, 4)),
    "langwright-fast-10m": _preset("our fast recipe, 10.6M in the blocks", FAST, _shape(384, 6, 6)),
    "langwright-fast-85m": _preset(
        "our fast recipe, 85M in the blocks",
        FAST,
        _shape(768, 12, 12, vocab_size=32768, context_length=1024),
    ),
    "langwright-fastest-1m": _preset(
        "our fastest recipe, for Langwright alone; 0.8M in the blocks",
        FASTEST,
        _shape(128, 4, 4, context_length=256),
    ),
    "langwright-fastest-5m": _preset(
        "our fastest recipe, for Langwright alone; 4.7M in the blocks", FASTEST, _shape(256, 6, 4)
    ),
    "langwright-fastest-10m": _preset(
        "our fastest recipe, for Langwright alone; 10.6M in the blocks", FASTEST, _shape(384, 6, 6)
    ),
    "langwright-fastest-85m": _preset(
        "our fastest recipe, for Langwright alone; 85M in the blocks",
        FASTEST,
        _shape(768, 12, 12, vocab_size=32768, context_length=1024),
    ),
    **{name: Preset(*published) for name, published in PUBLISHED.items()},
    # Biderman et al. 2023 (arXiv:2304.01373), table 1; OLMo 2's model of April 2025.
    "pythia-70m": _preset(
        "Pythia 70M; 70,426,624 parameters", _PYTHIA, _shape(512, 6, 8, hidden_width=2048)
    ),
    "pythia-410m": _preset(
        "Pythia 410M; 405,334,016 parameters", _PYTHIA, _shape(1024, 24, 16, hidden_width=4096)
    ),
    "pythia-1.4b": _preset(
        "Pythia 1.4B; 1,414,647,808 parameters", _PYTHIA, _shape(2048, 24, 16, hidden_width=8192)
    ),
    "olmo-2-1b": _preset(
        "OLMo 2 1B; 1,484,916,736 parameters",
        PUBLISHED["olmo-2-7b"][1],
        _shape(2048, 16, 16, hidden_width=8192),
    ),
}


def preset_names() -> dict[str, str]:
    """Each preset's name and what it is."""
    return {name: preset.description for name, preset in PRESETS.items()}


def model_config(
    table: dict[str, Any], *, vocab_size: int | None = None, where: object = None
) -> ModelConfig:
    """The config that a recipe's ``[model]`` table describes.

    Args:
        table: fields of `ModelConfig`, and optionally ``preset``, whose values they override.
        vocab_size: the tokenizer's; used unless `table` sets its own, which must be large enough.
        where: file and section, for errors.
    """
    values = dict(table)
    name = values.pop("preset", None)
    base: dict[str, Any] = {}
    if name is not None:
        if name not in PRESETS:
            guess = nearest(str(name), PRESETS)
            raise UserError(
                f"unknown preset {name!r}",
                where=where,
                expected="one of " + ", ".join(PRESETS),
                fix=f"did you mean {guess!r}?" if guess else None,
            )
        base = PRESETS[name].values
    if vocab_size is not None:
        base = {**base, "vocab_size": vocab_size}
    config = ModelConfig.parse({**base, **values}, where=where)
    if vocab_size is not None and config.vocab_size < vocab_size:
        raise UserError(
            "the model's vocabulary is smaller than the tokenizer's",
            where=" ".join(str(part) for part in (where, "vocab_size") if part),
            found=config.vocab_size,
            expected=f"at least {vocab_size}",
            fix="leave vocab_size out: it is taken from the tokenizer",
        )
    return config
