"""GPT-NeoX (Black et al. 2022, arXiv:2204.06745), the architecture of Pythia: attention and
feed-forward side by side, and a quarter of each head turning."""

from __future__ import annotations

from langwright.formats.families.common import (
    ACTIVATIONS,
    Family,
    Fields,
    Table,
    activation_name,
    parse,
    unsupported,
)
from langwright.formats.families.rotary import read_rotary, write_rotary
from langwright.formats.rules import Rule, renamed
from langwright.model import ModelConfig

WORDS = {
    "attention_norm": "input_layernorm",
    "feedforward_norm": "post_attention_layernorm",
    "attention.out": "attention.dense",
    "feedforward.up": "mlp.dense_h_to_4h",
    "feedforward.down": "mlp.dense_4h_to_h",
    "tokens": "gpt_neox.embed_in",
    "norm": "gpt_neox.final_layer_norm",
    "head": "embed_out",
}


class _NeoXFields(Fields):
    vocab_size: int
    hidden_size: int = 6144
    num_hidden_layers: int = 44
    num_attention_heads: int = 64
    intermediate_size: int = 24576
    max_position_embeddings: int = 2048
    hidden_act: str = "gelu"
    attention_bias: bool = True
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    use_parallel_residual: bool = True
    rotary_emb_base: float = 10_000.0
    rotary_pct: float = 0.25


def _read(table: Table, where: object) -> Table:
    f = parse(_NeoXFields, table, where)
    if f.hidden_act not in ACTIVATIONS:
        raise unsupported("hidden_act", f.hidden_act, where)
    rotary = read_rotary(
        table,
        where,
        context=f.max_position_embeddings,
        base=f.rotary_emb_base,
        share=f.rotary_pct,
    )
    return {
        "vocab_size": f.vocab_size,
        "context_length": f.max_position_embeddings,
        "width": f.hidden_size,
        "layers": f.num_hidden_layers,
        "heads": f.num_attention_heads,
        "hidden_width": f.intermediate_size,
        **rotary.values,
        "norm": "layernorm",
        "norm_bias": True,
        "norm_eps": f.layer_norm_eps,
        "parallel": f.use_parallel_residual,
        "feedforward": ACTIVATIONS[f.hidden_act],
        "qkv_bias": f.attention_bias,
        "attention_out_bias": f.attention_bias,
        "feedforward_bias": True,
        "tied": f.tie_word_embeddings,
        "dropout_embedding": f.hidden_dropout,
        "dropout_attention": f.attention_dropout,
        "dropout_residual": f.hidden_dropout,
        "init_std": f.initializer_range or None,
    }


def _write(config: ModelConfig) -> Table:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.hidden_size,
        "max_position_embeddings": config.context_length,
        "hidden_act": activation_name(config.feedforward, "gelu"),
        "attention_bias": config.qkv_bias,
        "attention_dropout": config.dropout_attention,
        "hidden_dropout": config.dropout_residual,
        "layer_norm_eps": config.norm_eps,
        "initializer_range": config.init_std or 0.02,
        "tie_word_embeddings": config.tied,
        "use_parallel_residual": config.parallel,
        "rotary_emb_base": config.rotary_base,
        "rotary_pct": config.rotary_share,
        **write_rotary(config),
        "use_cache": True,
    }


def _rules(config: ModelConfig, parameters: list[str]) -> list[Rule]:
    """Queries, keys and values in one matrix, head by head."""
    fused = {"attention.q", "attention.k", "attention.v"}
    plain = [name for name in parameters if name.split(".", 2)[-1].rpartition(".")[0] not in fused]
    rules = renamed(plain, WORDS, layers="gpt_neox.layers")
    for name in parameters:
        before, found, kind = name.partition(".attention.q.")
        if found:
            layer = before.removeprefix("blocks.")
            theirs = f"gpt_neox.layers.{layer}.attention.query_key_value.{kind}"
            ours = tuple(f"{before}.attention.{part}.{kind}" for part in "qkv")
            rules.append(Rule(theirs, ours, heads=config.heads))
    return rules


GPT_NEOX = Family(
    "GPTNeoXForCausalLM",
    "gpt_neox",
    _read,
    _write,
    _rules,
    unread=(".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"),
)
