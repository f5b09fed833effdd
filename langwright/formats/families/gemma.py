"""Gemma 1 (arXiv:2403.08295), 2 (arXiv:2408.00118) and 3 (arXiv:2503.19786).

Embeddings times sqrt(width), norms whose scale is 1 + weight, a GELU gate, a tied head. Gemma 2
adds a norm behind each branch, soft caps and alternating windows; Gemma 3 has a norm on queries and
keys instead of the caps, and a rotary base of its own in the local layers.
"""

from __future__ import annotations

import math
from typing import Any

from langwright.base import UserError
from langwright.formats.families.common import Family, Table, parse, unsupported
from langwright.formats.families.llama import (
    WORDS,
    DecoderFields,
    decoder_rules,
    decoder_values,
    need_whole_heads,
    write_decoder,
)
from langwright.formats.families.reach import read_reach, write_layer_types
from langwright.formats.families.rotary import (
    RopeFields,
    Rotary,
    read_rotary,
    read_scaling,
    write_rotary,
    write_scaling,
)
from langwright.formats.rules import Rule, renamed
from langwright.model import ModelConfig

TANH = "gelu_pytorch_tanh"
SANDWICH_WORDS = {
    **WORDS,
    "attention_out_norm": "post_attention_layernorm",
    "feedforward_norm": "pre_feedforward_layernorm",
    "feedforward_out_norm": "post_feedforward_layernorm",
}


class _GemmaFields(DecoderFields):
    num_key_value_heads: int | None = 16
    head_dim: int | None = 256
    max_position_embeddings: int = 8192
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    hidden_act: str | None = None
    hidden_activation: str | None = None
    use_bidirectional_attention: bool | str | None = None


class _Gemma2Fields(_GemmaFields):
    num_key_value_heads: int | None = 4
    query_pre_attn_scalar: float = 256.0
    sliding_window: int | None = 4096
    attn_logit_softcapping: float | None = 50.0
    final_logit_softcapping: float | None = 30.0


class _Gemma3Fields(_Gemma2Fields):
    max_position_embeddings: int = 131072
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    rope_theta: float | None = None
    rope_local_base_freq: float | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    sliding_window_pattern: int = 6


def _values(f: _GemmaFields, rotary: Rotary, where: object) -> Table:
    """What the three share."""
    act = f.hidden_activation or f.hidden_act or TANH
    if act == "gelu" and not isinstance(f, _Gemma2Fields):
        act = TANH  # Gemma 1's first files say "gelu" and mean this; the reference does so too
    if act != TANH:
        raise unsupported("hidden_activation", act, where)
    if f.use_bidirectional_attention:
        raise unsupported("use_bidirectional_attention", f.use_bidirectional_attention, where)
    need_whole_heads(rotary, where)
    return {
        **decoder_values(f, rotary),
        "feedforward": "geglu_tanh",
        "norm_offset": True,
        "embedding_scale": math.sqrt(f.hidden_size) if f.hidden_size > 0 else None,
        "qkv_bias": f.attention_bias,
        "attention_out_bias": f.attention_bias,
    }


def _caps_and_scale(f: _Gemma2Fields, where: object) -> Table:
    """Scores are divided by the root of a number of the config's own, and capped."""
    if not f.query_pre_attn_scalar > 0:
        raise UserError(
            "query_pre_attn_scalar must be positive", where=where, found=f.query_pre_attn_scalar
        )
    return {
        "norm_placement": "sandwich",
        "attention_scale": f.query_pre_attn_scalar**-0.5,
        "attention_softcap": f.attn_logit_softcapping,
        "logit_softcap": f.final_logit_softcapping,
    }


def _write(config: ModelConfig) -> Table:
    fields = write_decoder(config)
    del fields["hidden_act"]
    return {
        **fields,
        "hidden_activation": TANH,
        "attention_bias": config.qkv_bias,
    }


def _read_gemma(table: Table, where: object) -> Table:
    f = parse(_GemmaFields, table, where)
    return _values(f, read_rotary(table, where, context=f.max_position_embeddings), where)


def _write_gemma(config: ModelConfig) -> Table:
    return {**_write(config), "hidden_act": TANH}


def _read_gemma2(table: Table, where: object) -> Table:
    f = parse(_Gemma2Fields, table, where)
    kinds = f.layer_types or [
        "full_attention" if layer % 2 else "sliding_attention"
        for layer in range(f.num_hidden_layers)
    ]
    return {
        **_values(f, read_rotary(table, where, context=f.max_position_embeddings), where),
        **_caps_and_scale(f, where),
        **read_reach(kinds, f.sliding_window, f.num_hidden_layers, where),
    }


def _write_gemma2(config: ModelConfig) -> Table:
    scale = config.attention_scale
    return {
        **_write(config),
        "query_pre_attn_scalar": round(scale**-2) if scale else config.head_size,
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logit_softcap,
        "sliding_window": config.window,
        "layer_types": write_layer_types(config),
    }


def _read_gemma3(table: Table, where: object) -> Table:
    f = parse(_Gemma3Fields, table, where)
    every = f.sliding_window_pattern
    if every < 1:
        raise UserError("sliding_window_pattern must be 1 or more", where=where, found=every)
    kinds = f.layer_types or [
        "sliding_attention" if (layer + 1) % every else "full_attention"
        for layer in range(f.num_hidden_layers)
    ]
    rotary, local_base = _read_two_rotaries(f, where)
    return {
        **_values(f, rotary, where),
        **_caps_and_scale(f, where),
        **read_reach(kinds, f.sliding_window, f.num_hidden_layers, where),
        "qk_norm": True,
        "rotary_base_local": local_base if "sliding_attention" in kinds else None,
    }


def _read_two_rotaries(f: _Gemma3Fields, where: object) -> tuple[Rotary, float]:
    """The global layers' rotary position, and the local layers' base, which has no scaling."""
    nested = f.rope_parameters or {}
    tables = {}
    for kind in ("full_attention", "sliding_attention"):
        inner = nested.get(kind) or {}
        if not isinstance(inner, dict):
            raise unsupported("rope_parameters", nested, where)
        tables[kind] = dict(inner)
    tables["full_attention"] |= f.rope_scaling or {}
    if set(nested) - set(tables):
        raise unsupported("rope_parameters", nested, where, "Gemma 3 has one table per kind")
    both = {
        kind: parse(RopeFields, inner, f"{where} {kind}" if where else kind)
        for kind, inner in tables.items()
    }
    full, local = both["full_attention"], both["sliding_attention"]
    context = f.max_position_embeddings
    if read_scaling(local, where, name="sliding_attention", context=context) is not None:
        raise unsupported("rope_parameters", tables["sliding_attention"], where)
    scaling = read_scaling(full, where, name="rope_scaling", context=context)
    shares = [one.partial_rotary_factor for one in (full, local) if one.partial_rotary_factor]
    base = full.rope_theta or f.rope_theta or 1_000_000.0
    local_base = local.rope_theta or f.rope_local_base_freq or 10_000.0
    return Rotary(base, min(shares, default=1.0), scaling), local_base


def _write_gemma3(config: ModelConfig) -> Table:
    plain = {"rope_type": "default"}
    local = config.rotary_base_local or config.rotary_base
    full = {**(write_scaling(config) or plain), "rope_theta": config.rotary_base}
    beside = write_rotary(config)["rope_scaling"] if config.rotary_scaling else None
    if config.rotary_base_local is None and config.rotary_scaling:
        plain = {key: value for key, value in full.items() if key != "rope_theta"}
    return {
        **_write_gemma2(config),
        "rope_theta": config.rotary_base,
        "rope_local_base_freq": local,
        "rope_scaling": beside,
        "rope_parameters": {
            "full_attention": full,
            "sliding_attention": {**plain, "rope_theta": local},
        },
        "use_bidirectional_attention": False,
    }


def _sandwich_rules(config: ModelConfig, parameters: list[str]) -> list[Rule]:
    return renamed(parameters, SANDWICH_WORDS)


GEMMA = Family("GemmaForCausalLM", "gemma", _read_gemma, _write_gemma, decoder_rules)
GEMMA2 = Family("Gemma2ForCausalLM", "gemma2", _read_gemma2, _write_gemma2, _sandwich_rules)
GEMMA3 = Family("Gemma3ForCausalLM", "gemma3_text", _read_gemma3, _write_gemma3, _sandwich_rules)
