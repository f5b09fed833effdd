"""Qwen2 and 2.5 (arXiv:2407.10671), Qwen3 (arXiv:2505.09388), and their mixtures of experts."""

from __future__ import annotations

from langwright.formats.families.common import Family, Table, parse
from langwright.formats.families.experts import (
    STACKED,
    RouterLossFields,
    expert_width,
    read_sparse_layers,
    write_router_loss,
    write_sparse_layers,
)
from langwright.formats.families.llama import (
    WORDS,
    DecoderFields,
    decoder_rules,
    decoder_values,
    need_silu,
    need_whole_heads,
    write_decoder,
)
from langwright.formats.families.reach import read_reach, write_layer_types
from langwright.formats.families.rotary import read_rotary
from langwright.formats.rules import Rule, renamed
from langwright.model import ModelConfig

EXPERT_WORDS = {
    **WORDS,
    "feedforward.router": "mlp.gate",
    "feedforward.shared.gate": "mlp.shared_expert.gate_proj",
    "feedforward.shared.up": "mlp.shared_expert.up_proj",
    "feedforward.shared.down": "mlp.shared_expert.down_proj",
    "feedforward.shared_gate": "mlp.shared_expert_gate",
}


class _QwenFields(DecoderFields):
    hidden_act: str = "silu"
    num_key_value_heads: int | None = 32
    max_position_embeddings: int = 32768
    sliding_window: int | None = 4096
    max_window_layers: int = 28


class _Qwen3Fields(_QwenFields):
    head_dim: int | None = 128
    attention_bias: bool = False


class _MoeFields(_QwenFields, RouterLossFields):
    decoder_sparse_step: int = 1
    mlp_only_layers: list[int] | None = None
    num_experts_per_tok: int
    norm_topk_prob: bool = False


class _Qwen2MoeFields(_MoeFields):
    num_key_value_heads: int | None = 16
    qkv_bias: bool = True
    num_experts: int = 60
    num_experts_per_tok: int = 4
    moe_intermediate_size: int = 1408
    shared_expert_intermediate_size: int = 5632


class _Qwen3MoeFields(_MoeFields):
    num_key_value_heads: int | None = 4
    attention_bias: bool = False
    num_experts: int = 128
    num_local_experts: int | None = None  # transformers 5 writes num_experts so
    num_experts_per_tok: int = 8
    moe_intermediate_size: int = 768


def _values(f: _QwenFields, table: Table, where: object) -> Table:
    """What all four share; a window only where `use_sliding_window` is set."""
    need_silu(f.hidden_act, where)
    rotary = read_rotary(table, where, context=f.max_position_embeddings)
    need_whole_heads(rotary, where)
    return decoder_values(f, rotary)


def _reach(f: _QwenFields, where: object) -> Table:
    """The upper layers, from max_window_layers on, have the window; layer_types says it newer."""
    window = f.sliding_window if f.use_sliding_window else None
    kinds = f.layer_types
    if kinds is None:
        kinds = [
            "sliding_attention" if window is not None and layer >= f.max_window_layers
            else "full_attention"
            for layer in range(f.num_hidden_layers)
        ]  # fmt: skip
    return read_reach(kinds, window, f.num_hidden_layers, where)


def _write_reach(config: ModelConfig) -> Table:
    kinds = write_layer_types(config)
    local = "sliding_attention" in kinds
    return {"use_sliding_window": local, "sliding_window": config.window, "layer_types": kinds}


def _read_qwen2(table: Table, where: object) -> Table:
    f = parse(_QwenFields, table, where)
    return {**_values(f, table, where), **_reach(f, where), "qkv_bias": True}


def _write_qwen2(config: ModelConfig) -> Table:
    return {**write_decoder(config), **_write_reach(config)}


def _read_qwen3(table: Table, where: object) -> Table:
    f = parse(_Qwen3Fields, table, where)
    return {
        **_values(f, table, where),
        **_reach(f, where),
        "qk_norm": True,
        "qkv_bias": f.attention_bias,
        "attention_out_bias": f.attention_bias,
    }


def _write_qwen3(config: ModelConfig) -> Table:
    return {
        **write_decoder(config),
        **_write_reach(config),
        "attention_bias": config.qkv_bias,
    }


def _read_qwen2_moe(table: Table, where: object) -> Table:
    """A gated feed-forward that every token visits stands beside the experts."""
    f = parse(_Qwen2MoeFields, table, where)
    return {
        **_values(f, table, where),
        **_reach_qwen2_moe(f, where),
        "qkv_bias": f.qkv_bias,
        "experts": {
            "count": f.num_experts,
            "chosen": f.num_experts_per_tok,
            "hidden_width": f.moe_intermediate_size,
            "shared_width": f.shared_expert_intermediate_size,
            "shared_gate": True,
            "normalise": f.norm_topk_prob,
            "balance_loss": f.balance_loss,
        },
        "expert_layers": _sparse(f, where),
    }


def _reach_qwen2_moe(f: _Qwen2MoeFields, where: object) -> Table:
    """Here the lower layers have the window, every other one (the reference's own default)."""
    if f.layer_types is not None or not f.use_sliding_window:
        return _reach(f, where)
    kinds = [
        "sliding_attention" if layer % 2 == 0 and layer < f.max_window_layers else "full_attention"
        for layer in range(f.num_hidden_layers)
    ]
    return read_reach(kinds, f.sliding_window, f.num_hidden_layers, where)


def _write_qwen2_moe(config: ModelConfig) -> Table:
    experts = config.experts
    return {
        **write_decoder(config),
        **_write_reach(config),
        **write_sparse_layers(config),
        **write_router_loss(config),
        "qkv_bias": config.qkv_bias,
        "num_experts": experts.count if experts else 0,
        "num_experts_per_tok": experts.chosen if experts else 0,
        "moe_intermediate_size": expert_width(config),
        "shared_expert_intermediate_size": experts.shared_width if experts else 0,
        "norm_topk_prob": experts.normalise if experts else False,
    }


def _read_qwen3_moe(table: Table, where: object) -> Table:
    """Softmax over all experts, a few chosen; a window, where there is one, is every layer's."""
    f = parse(_Qwen3MoeFields, table, where)
    return {
        **_values(f, table, where),
        "window": f.sliding_window if f.use_sliding_window else None,
        "qk_norm": True,
        "qkv_bias": f.attention_bias,
        "attention_out_bias": f.attention_bias,
        "experts": {
            "count": f.num_experts if f.num_local_experts is None else f.num_local_experts,
            "chosen": f.num_experts_per_tok,
            "hidden_width": f.moe_intermediate_size,
            "normalise": f.norm_topk_prob,
            "balance_loss": f.balance_loss,
        },
        "expert_layers": _sparse(f, where),
    }


def _write_qwen3_moe(config: ModelConfig) -> Table:
    experts = config.experts
    return {
        **write_decoder(config),
        **write_sparse_layers(config),
        **write_router_loss(config),
        "attention_bias": config.qkv_bias,
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "num_experts": experts.count if experts else 0,
        "num_experts_per_tok": experts.chosen if experts else 0,
        "moe_intermediate_size": expert_width(config),
        "norm_topk_prob": experts.normalise if experts else False,
    }


def _sparse(f: _MoeFields, where: object) -> tuple[bool, ...] | None:
    return read_sparse_layers(f.num_hidden_layers, f.decoder_sparse_step, f.mlp_only_layers, where)


def _moe_rules(config: ModelConfig, parameters: list[str]) -> list[Rule]:
    count = config.experts.count if config.experts else 0
    return renamed(parameters, EXPERT_WORDS, stacked=STACKED, experts=count)


QWEN2 = Family("Qwen2ForCausalLM", "qwen2", _read_qwen2, _write_qwen2, decoder_rules)
QWEN3 = Family("Qwen3ForCausalLM", "qwen3", _read_qwen3, _write_qwen3, decoder_rules)
QWEN2_MOE = Family(
    "Qwen2MoeForCausalLM", "qwen2_moe", _read_qwen2_moe, _write_qwen2_moe, _moe_rules
)
QWEN3_MOE = Family(
    "Qwen3MoeForCausalLM", "qwen3_moe", _read_qwen3_moe, _write_qwen3_moe, _moe_rules
)
