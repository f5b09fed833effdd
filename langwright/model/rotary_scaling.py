"""Rotary angles for texts longer than the model was trained on.

Each method says by how much pair i turns per token (`frequencies`) and by how much cosine and sine
are stretched (`magnitude`). Two of them, ntk and longrope, look at the text's length: with another
length all tokens turn differently, those already seen too (`depends_on_length`), and what a cache
holds of them is to be made anew (`table_number`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from langwright.model.config import ModelConfig, RotaryScaling


def depends_on_length(scaling: RotaryScaling | None) -> bool:
    """Whether the angles change as the text grows."""
    return scaling is not None and scaling.kind in ("ntk", "longrope")


def table_number(scaling: RotaryScaling, context: int, length: int) -> int:
    """Which angles a text of this length has: texts of the same number turn alike."""
    original = scaling.original_context or context
    return max(length, original) if scaling.kind == "ntk" else int(length > original)


def frequencies(
    width: int,
    base: float,
    scaling: RotaryScaling | None = None,
    context: int = 0,
    lengths: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Angle per token of each pair, in radians, fp32: (P,), or (..., P) with `lengths`.

    Args:
        width: width of the part of a head that turns; P = width / 2.
        base: pair i turns by base^(-2i/width) (Su et al. 2021, arXiv:2104.09864, eq. 15).
        scaling: how that is changed; None: not.
        context: tokens seen at once, where the scaling does not name its `original_context`.
        lengths: (...) int64, tokens of each text; ntk and longrope need it.
    """
    exponents = torch.arange(0, width, 2, device=device, dtype=torch.float32) / width  # (P,)
    plain = 1.0 / base**exponents  # (P,)
    if scaling is None:
        return plain
    original = scaling.original_context or context
    match scaling.kind:
        case "linear":  # positions divided by the factor (Chen et al. 2023, arXiv:2306.15595)
            return plain / scaling.factor
        case "llama3":
            return _by_wavelength(plain, scaling, original)
        case "yarn":
            return _by_turns(plain, base, scaling, original)
    if lengths is None:
        raise ValueError(f"{scaling.kind} scaling needs the lengths of the texts")
    if scaling.kind == "ntk":
        return _by_base(base, exponents, scaling.factor, original, lengths)
    short, long = (
        1.0 / (torch.tensor(factors, device=device, dtype=torch.float32) * base**exponents)
        for factors in (scaling.short_factors, scaling.long_factors)
    )  # longrope (Ding et al. 2024, arXiv:2402.13753)
    return torch.where((lengths > original)[..., None], long, short)  # (..., P)


def magnitude(scaling: RotaryScaling | None, context: int = 0) -> float:
    """Factor on cosine and sine, and so, squared, on the scores' turned part."""
    if scaling is None or scaling.kind not in ("yarn", "longrope"):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.kind == "longrope":  # arXiv:2404.14219, Phi-3
        original = scaling.original_context or context
        if scaling.factor <= 1.0 or original <= 1:
            return 1.0
        return math.sqrt(1 + math.log(scaling.factor) / math.log(original))
    if scaling.mscale and scaling.mscale_all:
        return _mscale(scaling.factor, scaling.mscale) / _mscale(scaling.factor, scaling.mscale_all)
    return _mscale(scaling.factor)


def score_scale(config: ModelConfig) -> float:
    """Factor on the scores q k: the config's, or 1 / sqrt(width of queries).

    Latent attention under yarn with `mscale_all` is stretched as a whole, not only its turned part:
    by the square of yarn's factor (DeepSeek-AI 2024, arXiv:2405.04434, section 2.1.4 and code).
    """
    if config.attention_scale is not None:
        return config.attention_scale
    if config.latent is None:
        return config.head_size**-0.5
    scale = (config.head_size + config.latent.rotary_width) ** -0.5
    scaling = config.rotary_scaling
    if scaling is not None and scaling.kind == "yarn" and scaling.mscale_all:
        scale *= _mscale(scaling.factor, scaling.mscale_all) ** 2
    return scale


def _mscale(factor: float, weight: float = 1.0) -> float:
    """Yarn's temperature (Peng et al. 2023, arXiv:2309.00071, eq. 22)."""
    return 1.0 if factor <= 1.0 else 0.1 * weight * math.log(factor) + 1.0


def _by_base(
    base: float, exponents: Tensor, factor: float, original: int, lengths: Tensor
) -> Tensor:
    """ntk: as the text outgrows `original`, the base grows, so that slow pairs are stretched by
    the most and fast ones by the least (bloc97 and emozilla 2023, "dynamic NTK").

    A base that is larger from the start, "static NTK", is `rotary_base` itself.
    """
    width = 2 * exponents.shape[0]
    if width == 2:
        return torch.ones_like(lengths, dtype=torch.float32)[..., None]  # one pair: base^0
    ratio = lengths.clamp(min=original).float() / original
    grown = base * (factor * ratio - (factor - 1)) ** (width / (width - 2))  # (...)
    return 1.0 / grown[..., None] ** exponents  # (..., P)


def _by_turns(plain: Tensor, base: float, scaling: RotaryScaling, original: int) -> Tensor:
    """yarn: pairs that turn often within the original context are kept, those that turn less than
    about once are divided by the factor, with a ramp between (Peng et al. 2023, section 3.2)."""
    width = 2 * plain.shape[0]

    def pair(turns: float) -> float:
        """The (fractional) pair that turns this often within the original context."""
        return width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    if low == high:
        high += 0.001
    index = torch.arange(width // 2, device=plain.device, dtype=torch.float32)
    kept = 1 - ((index - low) / (high - low)).clamp(0, 1)  # (P,)
    return plain / scaling.factor * (1 - kept) + plain * kept


def _by_wavelength(plain: Tensor, scaling: RotaryScaling, original: int) -> Tensor:
    """llama3: waves longer than original / low_frequency are divided by the factor, waves shorter
    than original / high_frequency kept, with a ramp between (Llama 3.1's published code)."""
    low, high = scaling.low_frequency, scaling.high_frequency
    turns = original / (2 * math.pi / plain)  # (P,) waves within the original context
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return plain / scaling.factor * (1 - kept) + plain * kept
