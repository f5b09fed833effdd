"""Choices of a model config that cannot go together, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langwright.model.config import ModelConfig

Contradiction = tuple[bool, str]  # whether it holds, and what to tell


def contradictions(config: ModelConfig) -> Iterator[Contradiction]:
    """Every rule, with whether the config breaks it."""
    yield from _shape(config)
    yield from _attention(config)
    yield from _positions(config)
    yield from _norms(config)
    yield from _experts(config)
    yield (
        config.value_embeddings and config.latent is not None,
        "value_embeddings need values to add to: latent attention keeps a latent vector instead",
    )
    yield (
        config.backout and config.norm_placement == "post",
        "backout stands before the final norm, and norm_placement = 'post' has none",
    )


def _shape(c: ModelConfig) -> Iterator[Contradiction]:
    yield (
        c.heads % c.key_heads != 0,
        f"heads ({c.heads}) must be a multiple of kv_heads ({c.key_heads})",
    )
    yield (
        c.head_width is None and c.width % c.heads != 0,
        f"width ({c.width}) must be a multiple of heads ({c.heads}), or head_width must be set",
    )


def _attention(c: ModelConfig) -> Iterator[Contradiction]:
    local = c.reach is not None and "local" in c.reach
    yield local and c.window is None, "reach names local layers: window must say how far they see"
    yield (
        c.window is not None and c.reach is not None and not local,
        "window is set, but reach has no local layer: it would change nothing",
    )
    if c.latent is None:
        return
    yield c.position != "rotary", "latent attention carries its position by rotary: position"
    yield c.latent.rotary_width % 2 != 0, "latent.rotary_width must be even: rotary turns pairs"
    yield c.key_heads != c.heads, "latent attention has no grouped keys: leave kv_heads out"
    yield c.qk_norm, "latent attention norms its latent vectors itself: leave qk_norm out"
    yield c.rotary_share != 1.0, "latent.rotary_width says what is turned: leave rotary_share out"
    yield c.norm != "rmsnorm", "latent attention is defined with norm = 'rmsnorm'"


def _positions(c: ModelConfig) -> Iterator[Contradiction]:
    rotary = c.position == "rotary"
    yield (
        rotary and c.rotary_width < 2,
        f"rotary_share ({c.rotary_share:g}) leaves less than one pair of {c.head_size} to turn",
    )
    yield (
        rotary and c.rotary_width % 2 != 0,
        f"rotary position turns pairs: {c.rotary_width} of head_width ({c.head_size}) must be even",
    )
    yield (
        c.position == "sinusoidal" and c.width % 2 != 0,
        f"sinusoidal position needs an even width (found {c.width})",
    )
    for name in ("rotary_scaling", "rotary_base_local", "rotary_layers"):
        yield (
            not rotary and getattr(c, name) is not None,
            f"{name} needs position = 'rotary' (found {c.position!r})",
        )
    yield (
        c.rotary_base_local is not None and not any(c.is_local(i) for i in range(c.layers)),
        "rotary_base_local is for local layers, and there are none: set window",
    )
    yield (
        c.position == "relative" and c.relative_distance <= c.relative_buckets // 2,
        f"relative_distance ({c.relative_distance}) must be over half of relative_buckets "
        f"({c.relative_buckets})",
    )
    s = c.rotary_scaling
    if s is None or not rotary:
        return
    pairs = c.rotary_width // 2
    long = s.kind == "longrope"
    for name, factors in (("short", s.short_factors), ("long", s.long_factors)):
        yield long and factors is None, f"longrope needs rotary_scaling.{name}_factors"
        yield (
            not long and factors is not None,
            f"rotary_scaling.{name}_factors belong to kind = 'longrope' (found {s.kind!r})",
        )
        yield (
            factors is not None and len(factors) != pairs,
            f"rotary_scaling.{name}_factors must be {pairs}, one for each pair "
            f"(found {len(factors or ())})",
        )
        yield (
            any(not 0 < factor < float("inf") for factor in factors or ()),
            f"rotary_scaling.{name}_factors must be positive and finite",
        )
    yield (
        s.kind == "llama3" and s.high_frequency <= s.low_frequency,
        "rotary_scaling.high_frequency must be over low_frequency",
    )
    yield (
        s.kind == "yarn" and s.beta_fast < s.beta_slow,
        "rotary_scaling.beta_fast must be at least beta_slow",
    )


def _norms(c: ModelConfig) -> Iterator[Contradiction]:
    rms = c.norm == "rmsnorm"
    yield c.norm_bias and rms, "norm_bias needs norm = 'layernorm': RMSNorm has no shift"
    yield (
        c.norm_bias and not c.norm_affine,
        "norm_bias needs norm_affine: a norm without scale has no shift either",
    )
    yield c.norm_offset and not rms, "norm_offset needs norm = 'rmsnorm'"
    yield c.norm_offset and not c.norm_affine, "norm_offset needs norm_affine: there is no scale"
    yield (
        c.parallel and c.norm_placement != "pre",
        "parallel blocks need norm_placement = 'pre': both branches read the same stream",
    )


def _experts(c: ModelConfig) -> Iterator[Contradiction]:
    e = c.experts
    yield c.expert_layers is not None and e is None, "expert_layers needs experts"
    if e is None:
        return
    yield (
        not c.gated or c.feedforward_bias,
        "experts are gated and without bias: set feedforward = 'swiglu', feedforward_bias = false",
    )
    yield e.chosen > e.count, f"experts.chosen ({e.chosen}) must be at most count ({e.count})"
    yield e.count % e.groups != 0, f"experts.count ({e.count}) must be a multiple of groups"
    yield e.groups_chosen > e.groups, "experts.groups_chosen must be at most groups"
    yield (
        e.chosen > e.count // e.groups * e.groups_chosen,
        f"experts.chosen ({e.chosen}) are more than the chosen groups hold",
    )
    yield e.shared_gate and not e.shared_width, "experts.shared_gate needs shared_width"
    yield (
        c.expert_layers is not None and not any(c.has_experts(i) for i in range(c.layers)),
        "expert_layers gives no layer experts: leave experts out",
    )
