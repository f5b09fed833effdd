"""What GGUF's architectures compute, as values of our config, and back.

An architecture in llama.cpp is code: what its name implies is not in the file. `fixed` says it in
our terms, `read` adds what the file says. Writing goes through the same description: metadata are
made from the config and read again, and where the two configs differ the file is not written. So
a file we write never computes something else than the model it came from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from langwright.base import UserError
from langwright.formats.gguf.fields import Fields
from langwright.formats.gguf.rotary import read_rotary, write_rotary
from langwright.model import ModelConfig

Values = dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """One architecture of llama.cpp.

    `fixed`: what its name implies. `biases`: which biases a file may have (its tensors tell);
    others are in `fixed`. `adjust`: further fields from the file. `pairs`: rotary turns
    neighbours, for which queries and keys are stored in another order. `fused`: q, k and v are one
    tensor, `fused_gate` gate and up too. `divisors`: rotary divisors are read from tensors.
    `partial`: rotary may turn a part of each head only.
    """

    name: str
    fixed: Values = field(default_factory=dict)
    biases: tuple[str, ...] = ()
    adjust: Callable[[Fields, Values], Values] | None = None
    pairs: bool = False
    fused: bool = False
    fused_gate: bool = False
    divisors: bool = False
    partial: bool = False
    written: bool = True

    def read(self, f: Fields) -> Values:
        """The fields of `ModelConfig` that the file describes."""
        values = {**_common(f), **self.fixed}
        context, head = values["context_length"], values["head_width"]
        if values.get("position", "rotary") == "rotary":
            values |= read_rotary(f, head, context)
            if values["rotary_share"] != 1 and not self.partial:
                raise f.wrong("rope.dimension_count", f.value("rope.dimension_count"), head)
        for name in self.biases:
            values[name] = _BIASES[name] in f.shapes or f"{_QKV}.bias" in f.shapes
        return values | (self.adjust(f, values) if self.adjust else {})


_QKV = "blk.0.attn_qkv"
_BIASES = {
    "qkv_bias": "blk.0.attn_q.bias",
    "attention_out_bias": "blk.0.attn_output.bias",
    "feedforward_bias": "blk.0.ffn_up.bias",
}


def _common(f: Fields) -> Values:
    """What all architectures have."""
    embedding = f.shapes.get("token_embd.weight")
    if embedding is None or len(embedding) != 2:
        raise UserError("the file holds no model", where=f.where, expected="token_embd.weight")
    width, heads = f.integer("embedding_length"), f.integer("attention.head_count")
    layers = f.integer("block_count")
    if not 0 < layers <= len(f.shapes):
        raise f.wrong("block_count", layers, f"1 to {len(f.shapes)} for so many tensors")
    if not heads or not width:
        raise f.wrong("attention.head_count", heads, "at least 1")
    head = f.integer("attention.key_length", width // heads)
    if f.integer("attention.value_length", head) != head:
        raise f.wrong("attention.value_length", f.value("attention.value_length"), head)
    layer_norm = f.has("attention.layer_norm_epsilon")
    return {
        "vocab_size": embedding[0],
        "context_length": f.integer("context_length"),
        "width": width,
        "layers": layers,
        "heads": heads,
        "kv_heads": f.integer("attention.head_count_kv", heads) or None,
        "head_width": head,
        "hidden_width": f.integer("feed_forward_length"),
        "norm_eps": f.number(f"attention.layer_norm_{'' if layer_norm else 'rms_'}epsilon"),
        "tied": "output.weight" not in f.shapes,
        "attention_scale": f.optional("attention.scale"),
    }


def _gemma(f: Fields, values: Values) -> Values:
    """All Gemmas multiply the embeddings by sqrt(width)."""
    return {"embedding_scale": math.sqrt(values["width"])}


def _gemma2(f: Fields, values: Values) -> Values:
    return {
        **_gemma(f, values),
        **_local(f, values, period=2, usual=4096),
        "attention_softcap": f.number("attn_logit_softcapping", 50.0) or None,
        "logit_softcap": f.number("final_logit_softcapping", 30.0) or None,
        "attention_scale": _gemma_scale(values, layers_of_27b=46),
    }


def _gemma3(f: Fields, values: Values) -> Values:
    local = _local(f, values, period=6)
    if local:
        local["rotary_base_local"] = f.number("rope.freq_base_swa", 10_000.0)
    return {
        **_gemma(f, values),
        **local,
        "logit_softcap": f.optional("final_logit_softcapping"),
        "attention_scale": _gemma_scale(values, layers_of_27b=62),
    }


def _gemma_scale(values: Values, layers_of_27b: int) -> float | None:
    """llama.cpp knows the 27B models, whose scale is another, by their number of layers."""
    if values["layers"] == layers_of_27b:
        return 1.0 / math.sqrt(values["width"] / values["heads"])
    return None


def _local(f: Fields, values: Values, period: int, usual: int = 0) -> Values:
    """Local layers: all but each `period`-th, unless the file says which."""
    window = f.integer("attention.sliding_window", usual)
    if not window:
        return {}
    key = "attention.sliding_window_pattern"
    if f.has(key) and not isinstance(f.value(key), int):
        kinds = [bool(one) for one in f.value(key)]
        if len(kinds) != values["layers"]:
            raise f.wrong(key, f.value(key), f"{values['layers']} values")
    else:
        period = f.integer(key, period)
        kinds = [(i + 1) % period != 0 if period else False for i in range(values["layers"])]
    if not any(kinds):
        return {}
    return {"window": window, "reach": tuple("local" if one else "global" for one in kinds)}


def _phi3(f: Fields, values: Values) -> Values:
    return {"window": f.integer("attention.sliding_window", 0) or None}


def _experts(f: Fields, values: Values) -> Values:
    """A mixture of experts in every layer, softmax over the router, weights normalised."""
    if not f.integer("expert_count", 0):
        return {}
    if f.number("expert_weights_scale", 1.0) not in (0.0, 1.0):
        raise f.wrong("expert_weights_scale", f.value("expert_weights_scale"), 1.0)
    width = f.integer("expert_feed_forward_length", values["hidden_width"])
    return {
        "experts": {
            "count": f.integer("expert_count"),
            "chosen": f.integer("expert_used_count"),
            "hidden_width": width,
        },
        "hidden_width": values["hidden_width"] or width,
    }


_GEMMA = {"feedforward": "geglu_tanh", "norm_offset": True}

ARCHITECTURES = {
    one.name: one
    for one in (
        Architecture(
            "gpt2",
            {
                "position": "learned",
                "norm": "layernorm",
                "norm_bias": True,
                "feedforward": "gelu_tanh",
                "qkv_bias": True,
                "attention_out_bias": True,
                "feedforward_bias": True,
            },
            fused=True,
        ),
        Architecture("qwen3", {"qk_norm": True}),
        Architecture("qwen2", {"qkv_bias": True}),
        Architecture("llama", {}, tuple(_BIASES), _experts, pairs=True, divisors=True),
        Architecture("gemma", _GEMMA, adjust=_gemma),
        Architecture("gemma2", {**_GEMMA, "norm_placement": "sandwich"}, adjust=_gemma2),
        Architecture(
            "gemma3", {**_GEMMA, "norm_placement": "sandwich", "qk_norm": True}, adjust=_gemma3
        ),
        Architecture("olmo2", {"qk_norm": True, "qk_norm_over": "all", "norm_placement": "output"}),
        Architecture("qwen3moe", {"qk_norm": True}, adjust=_experts),
        # llama.cpp leaves Phi-3's window out, so what it would compute is not ours beyond it.
        Architecture(
            "phi3",
            {},
            adjust=_phi3,
            fused=True,
            fused_gate=True,
            divisors=True,
            partial=True,
            written=False,
        ),
    )
}


def architecture_of(f: Fields) -> Architecture:
    """The architecture a file names; one we do not compute is a `UserError`."""
    found = ARCHITECTURES.get(f.architecture)
    if found is None:
        raise UserError(
            "the model's architecture is not one that Langwright reads from GGUF",
            where=f.where,
            found=repr(f.architecture)[:80],
            expected=", ".join(ARCHITECTURES),
        )
    return found


def describe(config: ModelConfig, name: str) -> Values:
    """The metadata of a config as architecture `name`."""
    keys: Values = {
        "vocab_size": config.vocab_size,
        "context_length": config.context_length,
        "embedding_length": config.width,
        "block_count": config.layers,
        "feed_forward_length": config.hidden_size,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.key_heads,
        "attention.key_length": config.head_size,
        "attention.value_length": config.head_size,
        f"attention.layer_norm_{'rms_' if config.norm == 'rmsnorm' else ''}epsilon": (
            config.norm_eps
        ),
        **(write_rotary(config) if config.position == "rotary" else {}),
    }
    if config.window is not None:
        keys["attention.sliding_window"] = config.window
    if config.attention_softcap is not None:
        keys["attn_logit_softcapping"] = config.attention_softcap
    if config.logit_softcap is not None:
        keys["final_logit_softcapping"] = config.logit_softcap
    if config.experts is not None:
        keys["expert_count"] = config.experts.count
        keys["expert_used_count"] = config.experts.chosen
        keys["expert_feed_forward_length"] = config.experts.hidden_width or config.hidden_size
    return {f"{name}.{key}": value for key, value in keys.items()}
