"""A model as a GGUF file, which llama.cpp and what is built on it run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from langwright.base import UserError
from langwright.formats.exportable import check_exportable
from langwright.formats.gguf.architectures import ARCHITECTURES, Architecture, describe
from langwright.formats.gguf.dequantise import Floats
from langwright.formats.gguf.fields import ARCHITECTURE, Fields
from langwright.formats.gguf.kinds import BY_NAME, FILE_TYPES, WRITTEN, Kind
from langwright.formats.gguf.names import Slot, slots
from langwright.formats.gguf.rotary import longrope_attention, rotary_tensors
from langwright.formats.gguf.vocabulary_out import write_tokenizer
from langwright.formats.gguf.writer import OutTensor, write_gguf
from langwright.model import ModelConfig, Transformer
from langwright.tokenizer import Tokenizer

# Small, and read by parts of llama.cpp that want them exact.
EXACT = ("position_embd.weight", "ffn_gate_inp.weight")
# The tables at both ends suffer most from 4 bits; llama.cpp too keeps them finer.
ENDS = ("token_embd.weight", "output.weight")
IGNORED = ("init", "init_std", "dropout_embedding", "dropout_attention", "dropout_residual")


class ModelAndTokenizer(Protocol):
    """What is saved; `langwright.LanguageModel` is one."""

    model: Transformer
    tokenizer: Tokenizer | None


def save_gguf(
    lm: ModelAndTokenizer,
    path: str | Path,
    type: str = "f16",
    *,
    about: Mapping[str, str] | None = None,
) -> None:
    """Write a model and its tokenizer to one file, by atomic rename.

    Norms, biases and other small tensors stay float32. Rows that are no whole blocks of a
    quantised type are stored as f16. With q4_0 the embedding and the head are q8_0.

    Args:
        lm: has `model` and `tokenizer` (None: the file takes and gives ids only).
        path: of the file.
        type: of the matrices: "f32", "f16", "bf16", "q8_0" or "q4_0".
        about: texts kept under ``general.`` ("name", "license", "source.url" ...).

    Raises:
        UserError: if no architecture of llama.cpp computes what the model does, saying which
            settings are in the way; or for a tokenizer that llama.cpp does not have.
    """
    kind = type.upper()
    if kind not in WRITTEN:
        raise UserError("cannot store weights so", found=type, expected=", ".join(WRITTEN).lower())
    model, config = lm.model, lm.model.config
    check_exportable(config, "GGUF")
    parameters = dict(model.named_parameters())
    architecture, found = choose_architecture(config, parameters)
    metadata: dict[str, Any] = {
        ARCHITECTURE: architecture.name,
        "general.type": "model",
        **{f"general.{key}": value for key, value in (about or {}).items()},
        **describe(config, architecture.name),
        "general.file_type": FILE_TYPES[kind],
        "general.quantization_version": 2,
        **write_tokenizer(lm.tokenizer, config.vocab_size),
    }
    shapes = {name: tuple(value.shape) for name, value in parameters.items()}
    tensors = [
        OutTensor(name, (len(values),), BY_NAME["F32"], partial(np.array, values, np.float32))
        for name, values in rotary_tensors(config).items()
    ]
    for slot in found:
        shape = slot.shape(shapes)
        tensors.append(
            OutTensor(
                slot.theirs,
                shape,
                _kind_of(slot.theirs, shape, kind),
                partial(_numbers, slot, parameters),
            )
        )
    write_gguf(path, metadata, tensors)


def _numbers(slot: Slot, parameters: Mapping[str, torch.Tensor]) -> Floats:
    """The numbers of a slot's tensor."""
    return np.asarray(slot.join(parameters).numpy(), np.float32)


def _kind_of(name: str, shape: tuple[int, ...], wanted: str) -> Kind:
    if len(shape) == 1 or name.endswith(EXACT):
        return BY_NAME["F32"]
    kind = BY_NAME["Q8_0" if wanted == "Q4_0" and name in ENDS else wanted]
    return kind if shape[-1] % kind.block == 0 else BY_NAME["F16"]


def gguf_architecture(config: ModelConfig) -> str:
    """The name of the architecture of llama.cpp that computes what `config` says.

    Raises:
        UserError: naming the settings that none of them has.
    """
    with torch.device("meta"):
        parameters = dict(Transformer(config).named_parameters())
    return choose_architecture(config, parameters)[0].name


def choose_architecture(
    config: ModelConfig, parameters: Mapping[str, torch.Tensor]
) -> tuple[Architecture, list[Slot]]:
    """The architecture that says exactly what `config` says, and a slot for each tensor."""
    nearest: tuple[int, str, list[str]] | None = None
    for architecture in ARCHITECTURES.values():
        if not architecture.written:
            continue
        differing = _differences(architecture, config, parameters)
        found = slots(architecture, config, list(parameters))
        if differing is None:
            continue
        if not differing and sum(len(slot.ours) for slot in found) == len(parameters):
            return architecture, found
        if nearest is None or len(differing) < nearest[0]:
            nearest = (len(differing), architecture.name, differing)
    _, name, differing = nearest or (0, "", [])
    raise UserError(
        "no architecture of llama.cpp computes what this model does",
        found=", ".join(differing) or None,
        expected=f"what the nearest, {name}, has" if name else ", ".join(ARCHITECTURES),
        fix="save it in Hugging Face's layout instead",
    )


def _differences(
    architecture: Architecture, config: ModelConfig, parameters: Mapping[str, torch.Tensor]
) -> list[str] | None:
    """The settings of `config` that a file of this architecture would not give back; None where
    such a file could not be read."""
    tensors = rotary_tensors(config) if architecture.divisors else {}
    shapes: dict[str, tuple[int, ...]] = {name: (len(v),) for name, v in tensors.items()}
    sizes = {name: tuple(value.shape) for name, value in parameters.items()}
    for slot in slots(architecture, config, list(parameters)):
        shapes[slot.theirs] = slot.shape(sizes)
    shapes.setdefault("token_embd.weight", (config.vocab_size, config.width))
    metadata = {ARCHITECTURE: architecture.name, **describe(config, architecture.name)}
    fields = Fields(metadata, shapes, lambda name: [float(np.float32(x)) for x in tensors[name]])
    try:
        read = ModelConfig.parse(architecture.read(fields))
    except UserError:
        return None
    ours, theirs = effect(config), effect(read)
    return [
        f"{name} = {getattr(config, name, ours[name])!r}"
        for name in ours
        if not _same(ours[name], theirs[name])
    ]


def effect(config: ModelConfig) -> dict[str, Any]:
    """What a config computes: defaults filled in, settings without effect left out."""
    values = {name: value for name, value in config.to_json().items() if name not in IGNORED}
    layers = range(config.layers)
    # A window as long as the context hides nothing.
    window = config.window if (config.window or 0) < config.context_length else None
    local = [window is not None and config.is_local(i) for i in layers]
    rotary = config.position == "rotary"
    return {
        **values,
        "kv_heads": config.key_heads,
        "head_width": config.head_size,
        "hidden_width": None if config.experts else config.hidden_size,
        "attention_scale": config.attention_scale or config.head_size**-0.5,
        "window": window if any(local) else None,
        "reach": local,
        "rotary_base": config.rotary_base if rotary else None,
        "rotary_base_local": config.rotary_base_local if any(local) else None,
        "rotary_share": config.rotary_width if rotary else None,
        "rotary_interleaved": rotary and config.rotary_interleaved,
        "rotary_layers": [config.turns(i) for i in layers],
        "rotary_scaling": _scaling_effect(config),
        "relative_buckets": None,
        "relative_distance": None,
        "qk_norm_over": config.qk_norm_over if config.qk_norm else None,
        "experts": _experts_effect(config),
        "expert_layers": [config.has_experts(i) for i in layers],
        "embedding_scale": config.embedding_scale or 1.0,
    }


def _scaling_effect(config: ModelConfig) -> dict[str, Any] | None:
    s = config.rotary_scaling
    if s is None or config.position != "rotary":
        return None
    original = s.original_context or config.context_length
    if s.kind == "linear":
        return {"kind": s.kind, "factor": s.factor}
    tensors = rotary_tensors(config)
    if tensors:  # divisors say it all
        long = s.kind == "longrope" and len(tensors) > 1
        return {
            "divisors": {name: list(values) for name, values in tensors.items()},
            "original_context": original if long else None,
            "attention_factor": longrope_attention(config) if long else None,
        }
    return {**s.to_json(), "original_context": original}


def _experts_effect(config: ModelConfig) -> dict[str, Any] | None:
    if config.experts is None:
        return None
    losses = ("balance_loss", "router_z_loss")  # of training only
    values = {k: v for k, v in config.experts.to_json().items() if k not in losses}
    return {**values, "hidden_width": config.experts.hidden_width or config.hidden_size}


def _same(one: Any, other: Any) -> bool:
    """Equal, numbers to the precision of float32."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)
    return bool(one == other)
