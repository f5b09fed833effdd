"""Hugging Face's ``config.json`` <-> `ModelConfig`.

A file may come from anyone. Its fields are typed and bounded, and a setting that changes the
computation in a way that we do not have is refused: loading it anyway would give wrong answers.
What each architecture's fields mean is in `families`.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from langwright.base import UserError
from langwright.formats.families import FAMILIES, REFUSED, Family, unsupported
from langwright.formats.families.phi3 import PHI3
from langwright.model import ModelConfig

OWN_ARCHITECTURE, OWN_TYPE = "LangwrightForCausalLM", "langwright"

# Settings that change what a model computes: refused in the families that do not have them.
CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
INACTIVE: dict[str, tuple[Any, ...]] = {
    "quantization_config": (None,),
    "is_encoder_decoder": (None, False),
    **dict.fromkeys(CAPS, (None,)),
}
WITH_CAPS = ("gemma2", "gemma3_text")
# Fields that matter to training only.
TRAINING = ("dropout_embedding", "dropout_attention", "dropout_residual", "init", "init_std")
# Fields that are told layer by layer, or as a width, in `computation`.
DERIVED = ("window", "reach", "expert_layers", "hidden_width")
ROTARY = ("rotary_base", "rotary_base_local", "rotary_scaling", "rotary_layers", "rotary_share")
RELATIVE = ("relative_buckets", "relative_distance")


def family_of(config: ModelConfig) -> Family | None:
    """The architecture of transformers that computes what `config` says; None: there is none.

    It is the one whose fields, written and read back, describe the same computation.
    """
    wanted = computation(config)
    for family in _candidates(config):
        try:
            reread = ModelConfig(**family.read(family.write(config), None))
        except (ValidationError, UserError):  # a shape that this family cannot have
            continue
        if computation(reread) == wanted:
            return family
    return None


def _candidates(config: ModelConfig) -> list[Family]:
    """The families in the order of preference. LongRoPE is Phi-3's: other programs look for it
    there, though transformers computes it for any family."""
    longrope = config.rotary_scaling is not None and config.rotary_scaling.kind == "longrope"
    return sorted(FAMILIES.values(), key=lambda family: longrope and family is not PHI3)


def computation(config: ModelConfig) -> dict[str, Any]:
    """What a model computes, defaults spelled out, each layer for itself.

    Two configs with equal results give equal models whatever their fields look like.
    """
    left_out = {*TRAINING, *DERIVED, *ROTARY, *RELATIVE, "rotary_interleaved", "experts"}
    fields = {name: value for name, value in config if name not in left_out}
    layers = range(config.layers)
    fields |= {
        "kv_heads": config.key_heads,
        "head_width": config.head_size,
        "windows": [config.window if config.is_local(i) else None for i in layers],
        "rotary": [_rotary(config, i) for i in layers],
        "feedforwards": [_feedforward(config, i) for i in layers],
    }
    if config.attention_scale is None and config.latent is None:
        fields["attention_scale"] = config.head_size**-0.5
    if config.latent:
        fields["latent"] = config.latent.model_dump() | {
            "value_width": config.latent.value_width or config.head_size
        }
    if not config.qk_norm:
        del fields["qk_norm_over"]
    if config.position == "relative":
        fields |= {name: getattr(config, name) for name in RELATIVE}
    return fields


def _rotary(config: ModelConfig, layer: int) -> dict[str, Any] | None:
    """How a layer turns queries and keys; None: not at all."""
    if not config.turns(layer):
        return None
    plain = {"width": config.rotary_width, "interleaved": config.rotary_interleaved}
    if config.rotary_base_local is not None and config.is_local(layer):
        return {**plain, "base": config.rotary_base_local, "scaling": None}
    scaling = config.rotary_scaling
    table = None if scaling is None else scaling.model_dump()
    if scaling is not None and table is not None:
        if scaling.kind == "linear":  # its angles do not depend on the length before
            table["original_context"] = None
        else:
            table["original_context"] = scaling.original_context or config.context_length
    return {**plain, "base": config.rotary_base, "scaling": table}


def _feedforward(config: ModelConfig, layer: int) -> dict[str, Any]:
    """A layer's feed-forward: its width, or its experts."""
    if not config.has_experts(layer) or config.experts is None:
        return {"width": config.hidden_size}
    table = config.experts.model_dump(exclude={"balance_loss", "router_z_loss"})
    return table | {"hidden_width": config.experts.hidden_width or config.hidden_size}


def to_hf_config(config: ModelConfig) -> dict[str, Any]:
    """``config.json`` for `config`: that of a family which is the same computation, else the own
    architecture "LangwrightForCausalLM" with the plain fields.

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
        if table.get(name) not in allowed and not (name in CAPS and kind in WITH_CAPS):
            raise unsupported(name, table[name], where)
    if kind == OWN_TYPE:
        fields = {name: table[name] for name in ModelConfig.model_fields if name in table}
        return ModelConfig.parse(fields, where=where)
    if not isinstance(kind, str) or kind not in FAMILIES:
        why = REFUSED.get(kind) if isinstance(kind, str) else None
        raise UserError(
            "this kind of model is not supported" + (f": {why}" if why else ""),
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
