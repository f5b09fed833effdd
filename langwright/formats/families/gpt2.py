"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm, biases, a plain GELU."""

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
from langwright.formats.rules import Rule
from langwright.model import ModelConfig


class _GPT2Fields(Fields):
    vocab_size: int
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True


def _read(table: Table, where: object) -> Table:
    f = parse(_GPT2Fields, table, where)
    for name, wanted in (
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("add_cross_attention", False),
    ):
        if getattr(f, name) != wanted:
            raise unsupported(name, getattr(f, name), where)
    if f.activation_function not in ACTIVATIONS:
        raise unsupported("activation_function", f.activation_function, where)
    return {
        "vocab_size": f.vocab_size,
        "context_length": f.n_positions,
        "width": f.n_embd,
        "layers": f.n_layer,
        "heads": f.n_head,
        "hidden_width": f.n_inner,
        "position": "learned",
        "norm": "layernorm",
        "norm_bias": True,
        "norm_eps": f.layer_norm_epsilon,
        "feedforward": ACTIVATIONS[f.activation_function],
        "qkv_bias": True,
        "attention_out_bias": True,
        "feedforward_bias": True,
        "tied": f.tie_word_embeddings,
        "dropout_embedding": f.embd_pdrop,
        "dropout_attention": f.attn_pdrop,
        "dropout_residual": f.resid_pdrop,
        "init_std": f.initializer_range or None,
    }


def _write(config: ModelConfig) -> Table:
    return {
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": config.hidden_size,
        "activation_function": activation_name(config.feedforward, "gelu_new"),
        "resid_pdrop": config.dropout_residual,
        "embd_pdrop": config.dropout_embedding,
        "attn_pdrop": config.dropout_attention,
        "layer_norm_epsilon": config.norm_eps,
        "initializer_range": config.init_std or 0.02,
        "scale_attn_weights": True,
        "tie_word_embeddings": config.tied,
        "use_cache": True,
    }


def _rules(config: ModelConfig, parameters: list[str]) -> list[Rule]:
    """q, k and v in one matrix, and matrices transposed (its Conv1D stores (in, out))."""
    rules = [
        Rule("transformer.wte.weight", ("tokens.weight",)),
        Rule("transformer.wpe.weight", ("positions.weight",)),
    ]
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"transformer.h.{layer}"
        for kind, transposed in (("weight", True), ("bias", False)):
            qkv = tuple(f"{ours}.attention.{name}.{kind}" for name in ("q", "k", "v"))
            rules += [
                Rule(f"{theirs}.ln_1.{kind}", (f"{ours}.attention_norm.{kind}",)),
                Rule(f"{theirs}.attn.c_attn.{kind}", qkv, transposed),
                Rule(f"{theirs}.attn.c_proj.{kind}", (f"{ours}.attention.out.{kind}",), transposed),
                Rule(f"{theirs}.ln_2.{kind}", (f"{ours}.feedforward_norm.{kind}",)),
                Rule(f"{theirs}.mlp.c_fc.{kind}", (f"{ours}.feedforward.up.{kind}",), transposed),
                Rule(
                    f"{theirs}.mlp.c_proj.{kind}", (f"{ours}.feedforward.down.{kind}",), transposed
                ),
            ]
    rules += [Rule(f"transformer.ln_f.{kind}", (f"norm.{kind}",)) for kind in ("weight", "bias")]
    if not config.tied:
        rules.append(Rule("lm_head.weight", ("head.weight",)))
    return rules


GPT2 = Family(
    "GPT2LMHeadModel", "gpt2", _read, _write, _rules, unread=(".attn.bias", ".attn.masked_bias")
)
