"""Mixtral (Jiang et al. 2024, arXiv:2401.04088): Mistral's block with eight feed-forwards."""

from __future__ import annotations

from langwright.formats.families.common import Family, Table, parse
from langwright.formats.families.experts import RouterLossFields, expert_width, write_router_loss
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

STACKED = {
    f"feedforward.{ours}": f"block_sparse_moe.experts.{{expert}}.{theirs}.weight"
    for ours, theirs in (("gate", "w1"), ("up", "w3"), ("down", "w2"))
}


class _MixtralFields(DecoderFields, RouterLossFields):
    hidden_act: str = "silu"
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 131072
    rms_norm_eps: float = 1e-5
    num_local_experts: int = 8
    num_experts_per_tok: int = 2


def _read(table: Table, where: object) -> Table:
    f = parse(_MixtralFields, table, where)
    need_silu(f.hidden_act, where)
    base = 1_000_000.0
    rotary = read_rotary(table, where, context=f.max_position_embeddings, base=base)
    need_whole_heads(rotary, where)
    return {
        **decoder_values(f, rotary),
        "window": f.sliding_window,
        "experts": {
            "count": f.num_local_experts,
            "chosen": f.num_experts_per_tok,
            "normalise": True,
            "balance_loss": f.balance_loss,
        },
    }


def _write(config: ModelConfig) -> Table:
    experts = config.experts
    return {
        **write_decoder(config),
        **write_router_loss(config),
        "intermediate_size": expert_width(config),
        "sliding_window": config.window,
        "num_local_experts": experts.count if experts else 0,
        "num_experts_per_tok": experts.chosen if experts else 0,
    }


def _rules(config: ModelConfig, parameters: list[str]) -> list[Rule]:
    words = {**WORDS, "feedforward.router": "block_sparse_moe.gate"}
    count = config.experts.count if config.experts else 0
    return renamed(parameters, words, stacked=STACKED, experts=count)


MIXTRAL = Family("MixtralForCausalLM", "mixtral", _read, _write, _rules)
