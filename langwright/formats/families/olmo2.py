"""OLMo 2 (arXiv:2501.00656): norms behind the branches, and on all queries and keys together."""

from __future__ import annotations

from langwright.formats.families.common import Family, Table, parse
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


class _Olmo2Fields(DecoderFields):
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-5
    attention_bias: bool = False


def _read(table: Table, where: object) -> Table:
    f = parse(_Olmo2Fields, table, where)
    need_silu(f.hidden_act, where)
    rotary = read_rotary(table, where, context=f.max_position_embeddings)
    need_whole_heads(rotary, where)
    return {
        **decoder_values(f, rotary),
        "norm_placement": "output",
        "qk_norm": True,
        "qk_norm_over": "all",
        "qkv_bias": f.attention_bias,
        "attention_out_bias": f.attention_bias,
    }


def _write(config: ModelConfig) -> Table:
    return {**write_decoder(config), "attention_bias": config.qkv_bias}


def _rules(config: ModelConfig, parameters: list[str]) -> list[Rule]:
    words = {
        **WORDS,
        "attention_out_norm": "post_attention_layernorm",
        "feedforward_out_norm": "post_feedforward_layernorm",
    }
    return renamed(parameters, words)


OLMO2 = Family("Olmo2ForCausalLM", "olmo2", _read, _write, _rules)
