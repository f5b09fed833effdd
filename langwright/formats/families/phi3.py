"""Phi-3 and 4 (arXiv:2404.14219): Llama's block with fused matrices and LongRoPE."""

from __future__ import annotations

from langwright.formats.families.common import Family, Table, parse
from langwright.formats.families.llama import (
    DecoderFields,
    decoder_rules,
    decoder_values,
    need_silu,
    write_decoder,
)
from langwright.formats.families.rotary import read_rotary
from langwright.formats.rules import Rule
from langwright.model import ModelConfig


class _Phi3Fields(DecoderFields):
    hidden_act: str = "silu"
    max_position_embeddings: int = 4096
    original_max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-5
    resid_pdrop: float = 0.0
    embd_pdrop: float = 0.0


def _read(table: Table, where: object) -> Table:
    f = parse(_Phi3Fields, table, where)
    need_silu(f.hidden_act, where)
    # The length before scaling stands beside the scaling; the reference has a default for it.
    table = {**table, "original_max_position_embeddings": f.original_max_position_embeddings}
    rotary = read_rotary(table, where, context=f.max_position_embeddings)
    return {
        **decoder_values(f, rotary),
        "window": f.sliding_window,
        "dropout_embedding": f.embd_pdrop,
        "dropout_residual": f.resid_pdrop,
    }


def _write(config: ModelConfig) -> Table:
    scaling = config.rotary_scaling
    before = scaling.original_context if scaling else None
    return {
        **write_decoder(config),
        "original_max_position_embeddings": before or config.context_length,
        "sliding_window": config.window,
        "embd_pdrop": config.dropout_embedding,
        "resid_pdrop": config.dropout_residual,
    }


def _rules(config: ModelConfig, parameters: list[str]) -> list[Rule]:
    """Queries, keys and values in one matrix; gate and up in one."""
    fused = {"attention.q": "qkv", "feedforward.gate": "gate_up"}
    inside = ("attention.k.", "attention.v.", "feedforward.up.")
    rules = []
    for rule in decoder_rules(config, parameters):
        (name,) = rule.ours
        inner = name.split(".", 2)[-1].removesuffix(".weight")
        if fused.get(inner) == "qkv":
            ours = tuple(name.replace("attention.q", f"attention.{part}") for part in "qkv")
            rules.append(Rule(rule.theirs.replace("q_proj", "qkv_proj"), ours))
        elif fused.get(inner) == "gate_up":
            ours = (name, name.replace("feedforward.gate", "feedforward.up"))
            rules.append(Rule(rule.theirs.replace("gate_proj", "gate_up_proj"), ours))
        elif not any(part in name for part in inside):
            rules.append(rule)
    return rules


PHI3 = Family("Phi3ForCausalLM", "phi3", _read, _write, _rules)
