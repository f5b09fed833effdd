"""Rotary settings in GGUF: keys for the base and the simple scalings, tensors for divisors.

``rope_freqs.weight`` (h/2,) divides the angle of each pair; Llama 3's scaling is stored so.
``rope_factors_short.weight`` and ``..._long.weight`` are LongRoPE's two sets of divisors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from langwright.formats.gguf.fields import Fields
from langwright.model import ModelConfig

FREQS = "rope_freqs.weight"
SHORT, LONG = "rope_factors_short.weight", "rope_factors_long.weight"


def read_rotary(f: Fields, head: int, context: int) -> dict[str, Any]:
    """Fields of `ModelConfig` for the rotary position of heads of width `head`."""
    turned = f.integer("rope.dimension_count", head)
    base = f.number("rope.freq_base", 10_000.0)
    if not 0 < turned <= head:
        raise f.wrong("rope.dimension_count", turned, f"1 to {head}")
    if base <= 1:
        raise f.wrong("rope.freq_base", base, "more than 1")
    return {
        "position": "rotary",
        "rotary_base": base,
        "rotary_share": turned / head,
        "rotary_scaling": _read_scaling(f, turned, base, context),
    }


def _read_scaling(f: Fields, turned: int, base: float, context: int) -> dict[str, Any] | None:
    kind = f.text("rope.scaling.type", "linear" if f.has("rope.scale_linear") else "none")
    factor = f.number("rope.scaling.factor", f.number("rope.scale_linear", 1.0))
    original = f.integer("rope.scaling.original_context_length", context)
    if FREQS in f.shapes:
        if kind not in ("none", "linear") or factor not in (0.0, 1.0):
            raise f.wrong("rope.scaling.type", kind, f"none, beside the tensor {FREQS}")
        return _from_divisors(tuple(f.vector(FREQS)), turned, base)
    if kind == "longrope" or SHORT in f.shapes:
        if SHORT not in f.shapes or LONG not in f.shapes:
            raise f.wrong("rope.scaling.type", kind, f"the tensors {SHORT} and {LONG}")
        return {
            "kind": "longrope",
            "factor": max(1.0, context / original),
            "original_context": original,
            "attention_factor": f.number("rope.scaling.attn_factor", 1.0),
            "short_factors": tuple(f.vector(SHORT)),
            "long_factors": tuple(f.vector(LONG)),
        }
    if kind == "linear":
        return None if factor in (0.0, 1.0) else {"kind": "linear", "factor": factor}
    if kind == "yarn":
        for key, usual in (("yarn_log_multiplier", 0.0), ("attn_factor", 1.0)):
            if f.number(f"rope.scaling.{key}", usual) != usual:
                raise f.wrong(f"rope.scaling.{key}", f.value(f"rope.scaling.{key}"), usual)
        return {
            "kind": "yarn",
            "factor": factor,
            "original_context": original,
            "beta_fast": f.number("rope.scaling.yarn_beta_fast", 32.0),
            "beta_slow": f.number("rope.scaling.yarn_beta_slow", 1.0),
        }
    if kind != "none":
        raise f.wrong("rope.scaling.type", kind, "none, linear, yarn or longrope")
    return None


def _from_divisors(divisors: tuple[float, ...], turned: int, base: float) -> dict[str, Any]:
    """The scaling that divides each pair's angle so: Llama 3's if it is one, else in LongRoPE's
    form with both sets equal, which is the same for any divisors."""
    for factor in {max(divisors), float(round(max(divisors)))}:
        for original in (8192, 4096, 2048, 16384, 32768):
            same = llama3_divisors(turned, base, factor, original, 1.0, 4.0)
            if len(same) == len(divisors) and all(
                math.isclose(one, two, rel_tol=1e-4) for one, two in zip(same, divisors)
            ):
                return {"kind": "llama3", "factor": factor, "original_context": original}
    return {
        "kind": "longrope",
        "attention_factor": 1.0,
        "short_factors": divisors,
        "long_factors": divisors,
    }


def llama3_divisors(
    turned: int, base: float, factor: float, original: int, low: float, high: float
) -> list[float]:
    """What Llama 3's scaling divides the angle of each pair by, (turned/2,).

    Short waves are kept, waves longer than the original context / `low` are divided by `factor`,
    those between are blended (Llama team 2024, arXiv:2407.21783; the released code).
    """
    divisors = []
    for pair in range(turned // 2):
        turns = original / (2 * math.pi * base ** (2 * pair / turned))
        kept = min(1.0, max(0.0, (turns - low) / (high - low)))
        divisors.append(1.0 / ((1 - kept) / factor + kept))
    return divisors


def write_rotary(config: ModelConfig) -> dict[str, Any]:
    """The keys (without the architecture's name) of a config with rotary position."""
    keys: dict[str, Any] = {
        "rope.dimension_count": config.rotary_width,
        "rope.freq_base": config.rotary_base,
    }
    s = config.rotary_scaling
    if s is None or s.kind == "llama3":
        return keys
    original = s.original_context or config.context_length
    if s.kind == "longrope":
        if s.short_factors == s.long_factors and s.attention_factor == 1.0:
            return keys
        keys |= {
            "rope.scaling.type": "longrope",
            "rope.scaling.original_context_length": original,
            "rope.scaling.attn_factor": longrope_attention(config),
        }
    elif s.kind in ("linear", "yarn"):
        keys |= {"rope.scaling.type": s.kind, "rope.scaling.factor": s.factor}
        if s.kind == "yarn":
            keys["rope.scaling.original_context_length"] = original
    return keys


def longrope_attention(config: ModelConfig) -> float:
    """LongRoPE's scale of cosine and sine (Ding et al. 2024, arXiv:2402.13753, eq. 7)."""
    s = config.rotary_scaling
    assert s is not None
    if s.attention_factor is not None:
        return s.attention_factor
    original = s.original_context or config.context_length
    return math.sqrt(1 + math.log(s.factor) / math.log(original)) if s.factor > 1 else 1.0


def rotary_tensors(config: ModelConfig) -> dict[str, Sequence[float]]:
    """The tensors of divisors that a config needs, by name."""
    s = config.rotary_scaling
    if s is None:
        return {}
    if s.kind == "llama3":
        original = s.original_context or config.context_length
        return {
            FREQS: llama3_divisors(
                config.rotary_width,
                config.rotary_base,
                s.factor,
                original,
                s.low_frequency,
                s.high_frequency,
            )
        }
    if s.kind == "longrope" and s.short_factors and s.long_factors:
        if s.short_factors == s.long_factors and s.attention_factor == 1.0:
            return {FREQS: s.short_factors}
        return {SHORT: s.short_factors, LONG: s.long_factors}
    return {}
