"""DeepSeek-V3 (arXiv:2412.19437): latent attention, and many small experts chosen by sigmoid scores
with a bias that only the choice sees."""

from __future__ import annotations

from langwright.base import UserError
from langwright.formats.families.common import Family, Table, parse, unsupported
from langwright.formats.families.experts import STACKED, expert_width
from langwright.formats.families.llama import (
    WORDS,
    DecoderFields,
    decoder_values,
    need_silu,
    need_whole_heads,
    write_decoder,
)
from langwright.formats.families.rotary import read_rotary
from langwright.formats.rules import Rule, renamed
from langwright.model import ModelConfig

LATENT_EPS = 1e-6  # the reference's norms inside attention have this, whatever the config says

ATTENTION_WORDS = {
    **WORDS,
    "attention.q_down": "self_attn.q_a_proj",
    "attention.q_down_norm": "self_attn.q_a_layernorm",
    "attention.q_up": "self_attn.q_b_proj",
    "attention.kv_down": "self_attn.kv_a_proj_with_mqa",
    "attention.kv_norm": "self_attn.kv_a_layernorm",
    "attention.kv_up": "self_attn.kv_b_proj",
    "feedforward.router": "mlp.gate",
    "feedforward.router.bias": "mlp.gate.e_score_correction_bias",
    "feedforward.shared.gate": "mlp.shared_experts.gate_proj",
    "feedforward.shared.up": "mlp.shared_experts.up_proj",
    "feedforward.shared.down": "mlp.shared_experts.down_proj",
}


class _DeepseekFields(DecoderFields):
    hidden_act: str = "silu"
    num_key_value_heads: int | None = 128
    max_position_embeddings: int = 4096
    attention_bias: bool = False
    kv_lora_rank: int = 512
    q_lora_rank: int | None = 1536
    qk_rope_head_dim: int = 64
    qk_nope_head_dim: int = 128
    v_head_dim: int | None = 128
    rope_interleave: bool = True
    first_k_dense_replace: int = 3
    moe_intermediate_size: int = 2048
    n_routed_experts: int | None = 256
    num_local_experts: int | None = None  # transformers 5 may write n_routed_experts so
    n_shared_experts: int = 1
    num_experts_per_tok: int = 8
    n_group: int = 8
    topk_group: int = 4
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 2.5
    scoring_func: str = "sigmoid"
    topk_method: str = "noaux_tc"
    moe_layer_freq: int = 1


def _read(table: Table, where: object) -> Table:
    f = parse(_DeepseekFields, table, where)
    need_silu(f.hidden_act, where)
    fixed = {
        "attention_bias": False,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "moe_layer_freq": 1,
    }
    for name, wanted in fixed.items():
        if getattr(f, name) != wanted:
            raise unsupported(name, getattr(f, name), where)
    if f.rms_norm_eps != LATENT_EPS:
        why = f"the norms inside attention have {LATENT_EPS}, and ours have one epsilon"
        raise unsupported("rms_norm_eps", f.rms_norm_eps, where, why)
    if f.num_key_value_heads not in (None, f.num_attention_heads):
        raise unsupported("num_key_value_heads", f.num_key_value_heads, where)
    rotary = read_rotary(table, where, context=f.max_position_embeddings)
    need_whole_heads(rotary, where)
    return {
        **decoder_values(f, rotary),
        "kv_heads": None,
        "head_width": f.qk_nope_head_dim,
        "rotary_interleaved": f.rope_interleave,
        "latent": {
            "kv_rank": f.kv_lora_rank,
            "query_rank": f.q_lora_rank,
            "rotary_width": f.qk_rope_head_dim,
            "value_width": f.v_head_dim,
        },
        **_experts(f, where),
    }


def _experts(f: _DeepseekFields, where: object) -> Table:
    """The first few layers are dense, and all others have experts."""
    layers, dense = f.num_hidden_layers, f.first_k_dense_replace
    if dense >= layers:
        return {"experts": None}
    count = f.num_local_experts if f.num_local_experts is not None else f.n_routed_experts
    if count is None:
        raise UserError("n_routed_experts is missing", where=where)
    sparse = tuple(layer >= dense for layer in range(min(layers, 1024)))
    return {
        "experts": {
            "count": count,
            "chosen": f.num_experts_per_tok,
            "hidden_width": f.moe_intermediate_size,
            "shared_width": f.moe_intermediate_size * f.n_shared_experts,
            "scores": "sigmoid",
            "normalise": f.norm_topk_prob,
            "weight_scale": f.routed_scaling_factor,
            "selection_bias": True,
            "groups": f.n_group,
            "groups_chosen": f.topk_group,
        },
        "expert_layers": None if all(sparse) else sparse,
    }


def _write(config: ModelConfig) -> Table:
    latent, experts = config.latent, config.experts
    dense = sum(not config.has_experts(layer) for layer in range(config.layers))
    fields = write_decoder(config)
    if latent:
        fields |= {
            "head_dim": latent.rotary_width,
            "num_key_value_heads": config.heads,
            "kv_lora_rank": latent.kv_rank,
            "q_lora_rank": latent.query_rank,
            "qk_rope_head_dim": latent.rotary_width,
            "qk_nope_head_dim": config.head_size,
            "v_head_dim": latent.value_width or config.head_size,
            "rope_interleave": config.rotary_interleaved,
        }
    if experts:
        fields |= {
            "n_routed_experts": experts.count,
            "num_experts_per_tok": experts.chosen,
            "moe_intermediate_size": expert_width(config),
            "n_shared_experts": experts.shared_width // expert_width(config),
            "norm_topk_prob": experts.normalise,
            "routed_scaling_factor": experts.weight_scale,
            "n_group": experts.groups,
            "topk_group": experts.groups_chosen,
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
        }
    return {
        **fields,
        "first_k_dense_replace": dense,
        "attention_bias": False,
        "num_nextn_predict_layers": 0,
    }


def _rules(config: ModelConfig, parameters: list[str]) -> list[Rule]:
    count = config.experts.count if config.experts else 0
    return renamed(parameters, ATTENTION_WORDS, stacked=STACKED, experts=count)


DEEPSEEK_V3 = Family("DeepseekV3ForCausalLM", "deepseek_v3", _read, _write, _rules)
