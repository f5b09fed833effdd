"""Hugging Face's ``config.json`` <-> `ModelConfig`.

A file may come from anyone. Its fields are typed and bounded here, and a setting that changes the
computation in a way that we do not have is refused: loading it anyway would give wrong answers.
Both ways of writing the rotary base are read and written: `rope_theta` (transformers 4) and
`rope_parameters` (5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from langwright.base import UserError
from langwright.model import ModelConfig

OWN_ARCHITECTURE, OWN_TYPE = "LangwrightForCausalLM", "langwright"


class _Fields(BaseModel):
    """Typed fields of a foreign config; what transformers' model does not read is ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


T = TypeVar("T", bound=_Fields)


class _LlamaFields(_Fields):
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    rope_theta: float | None = None
    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float = 0.0
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    use_sliding_window: bool = False
    layer_types: list[str] | None = None
    partial_rotary_factor: float = 1.0


class _Qwen3Fields(_LlamaFields):
    num_key_value_heads: int | None = 32
    head_dim: int | None = 128
    max_position_embeddings: int = 32768


class _GPT2Fields(_Fields):
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


# transformers' names of activations -> ours, for a plain feed-forward.
ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
    "swish": "silu",
}
# Settings that no family of ours can honour: refused unless they have one of these values.
INACTIVE: dict[str, tuple[Any, ...]] = {
    "quantization_config": (None,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "is_encoder_decoder": (None, False),
}


@dataclass(frozen=True)
class Family:
    """One foreign architecture: when a config of ours is one, and the fields both ways."""

    architecture: str
    model_type: str
    read: Callable[[dict[str, Any], object], dict[str, Any]]
    write: Callable[[ModelConfig], dict[str, Any]]


def family_of(config: ModelConfig) -> Family | None:
    """The architecture of transformers that computes what `config` says; None: there is none.

    It is the one whose fields, written and read back, describe the same computation.
    """
    for family in FAMILIES.values():
        try:
            reread = ModelConfig(**family.read(family.write(config), None))
        except ValidationError:  # a shape that this family cannot have
            continue
        if _computation(reread) == _computation(config):
            return family
    return None


def _computation(config: ModelConfig) -> dict[str, Any]:
    """What a model computes, defaults spelled out; dropout and init matter to training only."""
    training = ("dropout_embedding", "dropout_attention", "dropout_residual", "init", "init_std")
    fields = {name: value for name, value in config if name not in training}
    fields |= {
        "kv_heads": config.key_heads,
        "head_width": config.head_size,
        "hidden_width": config.hidden_size,
    }
    if config.position != "rotary":
        del fields["rotary_base"]
    return fields


def to_hf_config(config: ModelConfig) -> dict[str, Any]:
    """``config.json`` for `config`: Qwen3, Llama or GPT-2 where one of them is the same
    computation, else the own architecture "LangwrightForCausalLM" with the plain fields.

    Dropout and init that the foreign format has no field for are not kept: they change training
    only, not what the model computes.
    """
    family = family_of(config)
    if family is None:
        return {
            "architectures": [OWN_ARCHITECTURE],
            "model_type": OWN_TYPE,
            "tie_word_embeddings": config.tied,
            **config.to_json(),
        }
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        **family.write(config),
    }


def from_hf_config(table: Any, *, where: object = None) -> ModelConfig:
    """The `ModelConfig` of a ``config.json``; a `UserError` names what we cannot represent."""
    if not isinstance(table, dict):
        raise UserError("not a model config", where=where, expected="a JSON object")
    kind = table.get("model_type")
    for name, allowed in INACTIVE.items():
        if table.get(name) not in allowed:
            raise _unsupported(name, table[name], where)
    if kind == OWN_TYPE:
        fields = {name: table[name] for name in ModelConfig.model_fields if name in table}
        return ModelConfig.parse(fields, where=where)
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UserError(
            "this kind of model is not supported",
            where=where,
            found=f"model_type {kind!r}",
            expected="one of " + ", ".join([*FAMILIES, OWN_TYPE]),
        )
    family = FAMILIES[kind]
    architectures = table.get("architectures") or [family.architecture]
    if architectures != [family.architecture]:
        raise UserError(
            "this architecture is not a language model that we can load",
            where=where,
            found=f"architectures {architectures!r}",
            expected=family.architecture,
        )
    return ModelConfig.parse(family.read(table, where), where=where)


def _read_llama(table: dict[str, Any], where: object) -> dict[str, Any]:
    """Fields of a Llama config -> fields of `ModelConfig`."""
    return _llama_values(_parse(_LlamaFields, table, where), where)


def _read_qwen3(table: dict[str, Any], where: object) -> dict[str, Any]:
    """Fields of a Qwen3 config: Llama's block with QK norm, and no bias in the feed-forward."""
    values = _llama_values(_parse(_Qwen3Fields, table, where), where)
    return {**values, "qk_norm": True, "feedforward_bias": False}


def _llama_values(f: _LlamaFields, where: object) -> dict[str, Any]:
    if f.hidden_act not in ("silu", "swish"):
        raise _unsupported("hidden_act", f.hidden_act, where)
    if f.use_sliding_window or any(kind != "full_attention" for kind in f.layer_types or ()):
        raise _unsupported("use_sliding_window / layer_types", f.layer_types or True, where)
    if f.partial_rotary_factor != 1.0:
        raise _unsupported("partial_rotary_factor", f.partial_rotary_factor, where)
    return {
        "vocab_size": f.vocab_size,
        "context_length": f.max_position_embeddings,
        "width": f.hidden_size,
        "layers": f.num_hidden_layers,
        "heads": f.num_attention_heads,
        "kv_heads": f.num_key_value_heads,
        "head_width": f.head_dim,
        "hidden_width": f.intermediate_size,
        "position": "rotary",
        "rotary_base": _rotary_base(f, where),
        "norm": "rmsnorm",
        "norm_eps": f.rms_norm_eps,
        "feedforward": "swiglu",
        "qkv_bias": f.attention_bias,
        "attention_out_bias": f.attention_bias,
        "feedforward_bias": f.mlp_bias,
        "tied": f.tie_word_embeddings,
        "dropout_attention": f.attention_dropout,
        "init_std": f.initializer_range,
    }


def _rotary_base(f: _LlamaFields, where: object) -> float:
    """The rotary base, wherever the file has it; any scaling of the angles is refused."""
    base = f.rope_theta
    for name, table in (
        ("rope_scaling", f.rope_scaling),
        ("rope_parameters", f.rope_parameters),
    ):
        if not table:
            continue
        kind = table.get("rope_type", table.get("type", "default"))
        if kind != "default":
            raise _unsupported(name, table, where)
        if table.get("partial_rotary_factor", 1.0) != 1.0:
            raise _unsupported("partial_rotary_factor", table, where)
        if (found := table.get("rope_theta")) is not None:
            if isinstance(found, bool) or not isinstance(found, int | float):
                raise UserError("not a number", where=f"{where} {name}.rope_theta", found=found)
            base = float(found)
    return 10_000.0 if base is None else base


def _write_llama(config: ModelConfig) -> dict[str, Any]:
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
        "rope_theta": config.rotary_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rotary_base},
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.feedforward_bias,
        "attention_dropout": config.dropout_attention,
        "tie_word_embeddings": config.tied,
        "initializer_range": config.init_std or 0.02,
        "use_cache": True,
    }


def _write_qwen3(config: ModelConfig) -> dict[str, Any]:
    fields = _write_llama(config)
    del fields["mlp_bias"]  # Qwen3 has no such setting, and no such bias
    return {**fields, "use_sliding_window": False}


def _read_gpt2(table: dict[str, Any], where: object) -> dict[str, Any]:
    """Fields of a GPT-2 config -> fields of `ModelConfig`."""
    f = _parse(_GPT2Fields, table, where)
    for name, wanted in (
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("add_cross_attention", False),
    ):
        if getattr(f, name) != wanted:
            raise _unsupported(name, getattr(f, name), where)
    if f.activation_function not in ACTIVATIONS:
        raise _unsupported("activation_function", f.activation_function, where)
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
        "init_std": f.initializer_range,
    }


def _write_gpt2(config: ModelConfig) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    return {
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": config.hidden_size,
        "activation_function": names.get(config.feedforward, "gelu_new"),
        "resid_pdrop": config.dropout_residual,
        "embd_pdrop": config.dropout_embedding,
        "attn_pdrop": config.dropout_attention,
        "layer_norm_epsilon": config.norm_eps,
        "initializer_range": config.init_std or 0.02,
        "scale_attn_weights": True,
        "tie_word_embeddings": config.tied,
        "use_cache": True,
    }


FAMILIES: dict[str, Family] = {
    "qwen3": Family("Qwen3ForCausalLM", "qwen3", _read_qwen3, _write_qwen3),
    "llama": Family("LlamaForCausalLM", "llama", _read_llama, _write_llama),
    "gpt2": Family("GPT2LMHeadModel", "gpt2", _read_gpt2, _write_gpt2),
}


def _parse(cls: type[T], table: dict[str, Any], where: object) -> T:
    try:
        return cls.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"bad model config: {first['msg']}",
            where=" ".join(str(part) for part in (where, name) if part),
            found=None if first["type"] == "missing" else repr(first.get("input"))[:200],
        ) from None


def _unsupported(name: str, value: Any, where: object) -> UserError:
    return UserError(
        f"the model uses {name}, which Langwright does not compute",
        where=where,
        found=repr(value)[:200],
        fix="nothing was loaded: without it the model's answers would be wrong",
    )
