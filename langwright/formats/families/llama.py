"""Llama 1 to 3, and the families that differ from it by little: Mistral and SmolLM3.

Touvron et al. 2023 (arXiv:2302.13971): RMSNorm before each branch, rotary position, SwiGLU, no
biases. The helpers here serve every family that writes its config in the same words.
"""

from __future__ import annotations

from langwright.base import UserError
from langwright.formats.families.common import Family, Fields, Table, parse, unsupported
from langwright.formats.families.reach import read_reach, shortest_period, write_layer_types
from langwright.formats.families.rotary import Rotary, read_rotary, write_rotary
from langwright.formats.rules import Rule, renamed
from langwright.model import ModelConfig

WORDS = {
    "attention_norm": "input_layernorm",
    "feedforward_norm": "post_attention_layernorm",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "feedforward.gate": "mlp.gate_proj",
    "feedforward.up": "mlp.up_proj",
    "feedforward.down": "mlp.down_proj",
    "tokens": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
}


class DecoderFields(Fields):
    """The words that most families share, with the defaults that most of them have."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    attention_dropout: float | None = 0.0
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    layer_types: list[str] | None = None
    use_sliding_window: bool = False
    sliding_window: int | None = None


class LlamaFields(DecoderFields):
    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    partial_rotary_factor: float = 1.0


class _MistralFields(DecoderFields):
    hidden_act: str = "silu"
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 131072
    sliding_window: int | None = 4096


class _SmolLM3Fields(LlamaFields):
    num_key_value_heads: int | None = 4
    max_position_embeddings: int = 32768
    tie_word_embeddings: bool = True
    no_rope_layers: list[int] | None = None
    no_rope_layer_interval: int = 4


def decoder_values(f: DecoderFields, rotary: Rotary) -> Table:
    """The fields of `ModelConfig` that follow from the shared words."""
    return {
        "vocab_size": f.vocab_size,
        "context_length": f.max_position_embeddings,
        "width": f.hidden_size,
        "layers": f.num_hidden_layers,
        "heads": f.num_attention_heads,
        "kv_heads": f.num_key_value_heads,
        "head_width": f.head_dim,
        "hidden_width": f.intermediate_size,
        **rotary.values,
        "norm": "rmsnorm",
        "norm_eps": f.rms_norm_eps,
        "feedforward": "swiglu",
        "tied": f.tie_word_embeddings,
        "dropout_attention": f.attention_dropout or 0.0,
        "init_std": f.initializer_range or None,
    }


def write_decoder(config: ModelConfig) -> Table:
    """The shared words for a config."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.hidden_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_heads,
        "head_dim": config.head_size,
        "max_position_embeddings": config.context_length,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        **write_rotary(config),
        "attention_dropout": config.dropout_attention,
        "tie_word_embeddings": config.tied,
        "initializer_range": config.init_std or 0.02,
        "use_cache": True,
    }


def need_silu(act: str, where: object) -> None:
    """Refuse another gate than SiLU's."""
    if act not in ("silu", "swish"):
        raise unsupported("hidden_act", act, where)


def need_whole_heads(rotary: Rotary, where: object) -> None:
    """Refuse a share of turning where the family turns whole heads."""
    if rotary.share != 1.0:
        raise unsupported("partial_rotary_factor", rotary.share, where)


def decoder_rules(config: ModelConfig, parameters: list[str]) -> list[Rule]:
    """Llama's names, which most families have taken over."""
    return renamed(parameters, WORDS)


def _read_llama(table: Table, where: object) -> Table:
    f = parse(LlamaFields, table, where)
    if f.use_sliding_window or any(kind != "full_attention" for kind in f.layer_types or ()):
        raise unsupported("use_sliding_window / layer_types", f.layer_types or True, where)
    return _llama_values(f, table, where)


def _llama_values(
    f: LlamaFields, table: Table, where: object, rotary_base: float = 10_000.0
) -> Table:
    need_silu(f.hidden_act, where)
    rotary = read_rotary(table, where, context=f.max_position_embeddings, base=rotary_base)
    need_whole_heads(rotary, where)
    return {
        **decoder_values(f, rotary),
        "qkv_bias": f.attention_bias,
        "attention_out_bias": f.attention_bias,
        "feedforward_bias": f.mlp_bias,
    }


def _write_llama(config: ModelConfig) -> Table:
    return {
        **write_decoder(config),
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.feedforward_bias,
    }


def _read_mistral(table: Table, where: object) -> Table:
    """Jiang et al. 2023 (arXiv:2310.06825): every layer sees a window, or none does."""
    f = parse(_MistralFields, table, where)
    need_silu(f.hidden_act, where)
    wanted = "full_attention" if f.sliding_window is None else "sliding_attention"
    if any(kind != wanted for kind in f.layer_types or ()):
        raise unsupported("layer_types", f.layer_types, where, "Mistral's layers are all alike")
    rotary = read_rotary(table, where, context=f.max_position_embeddings)
    need_whole_heads(rotary, where)
    return {**decoder_values(f, rotary), "window": f.sliding_window}


def _write_mistral(config: ModelConfig) -> Table:
    return {**write_decoder(config), "sliding_window": config.window}


def _read_smollm3(table: Table, where: object) -> Table:
    """Llama with a layer in four that has no position (NoPE, Kazemnejad et al. 2023)."""
    f = parse(_SmolLM3Fields, table, where)
    turning = f.no_rope_layers  # 1: the layer turns
    if turning is None:
        every = f.no_rope_layer_interval
        if every < 1:
            raise UserError("not an interval of layers", where=where, found=every, expected="1...")
        turning = [int((layer + 1) % every != 0) for layer in range(min(f.num_hidden_layers, 1024))]
    elif len(turning) != f.num_hidden_layers or any(value not in (0, 1) for value in turning):
        raise UserError(
            "no_rope_layers must say 1 or 0 for each layer",
            where=where,
            found=repr(turning)[:200],
            expected=f"{f.num_hidden_layers} of them",
        )
    values = _llama_values(f, table, where, rotary_base=2_000_000.0)
    if not all(turning):
        values["rotary_layers"] = shortest_period([bool(value) for value in turning])
    if not f.use_sliding_window:
        return values
    kinds = f.layer_types
    if kinds is None:  # the layers without position are the ones with a window
        kinds = [
            "sliding_attention" if f.sliding_window is not None and not turns else "full_attention"
            for turns in turning
        ]
    return values | read_reach(kinds, f.sliding_window, f.num_hidden_layers, where)


def _write_smollm3(config: ModelConfig) -> Table:
    kinds = write_layer_types(config)
    return {
        **_write_llama(config),
        "no_rope_layers": [int(config.turns(layer)) for layer in range(config.layers)],
        "use_sliding_window": "sliding_attention" in kinds,
        "sliding_window": config.window,
        "layer_types": kinds,
    }


LLAMA = Family("LlamaForCausalLM", "llama", _read_llama, _write_llama, decoder_rules)
MISTRAL = Family("MistralForCausalLM", "mistral", _read_mistral, _write_mistral, decoder_rules)
SMOLLM3 = Family("SmolLM3ForCausalLM", "smollm3", _read_smollm3, _write_smollm3, decoder_rules)
