"""Normalisation over the last axis. Statistics are taken in fp32 whatever the input's dtype."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from langwright.model.config import ModelConfig
from langwright.model.sliced_norm import sliced_rms_norm, slicing_pays


class LayerNorm(nn.Module):
    """weight * (x - mean) / sqrt(variance + eps) + bias, with the biased variance (divide by D).

    Ba et al. 2016, arXiv:1607.06450. Needs no batch: each token is normalised by itself.
    """

    def __init__(self, width: int, eps: float, affine: bool, bias: bool) -> None:
        super().__init__()
        self.width, self.eps = width, eps
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        weight = None if self.weight is None else self.weight.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, (self.width,), weight, bias, self.eps)


class RMSNorm(nn.Module):
    """weight * x / sqrt(mean(x^2) + eps): no centring, no shift (Zhang & Sennrich 2019,
    arXiv:1910.07467).

    With `offset` the scale is 1 + weight and the weight starts at 0, so that weight decay pulls
    the scale towards 1 (Gemma). 1 + weight is made and applied in fp32: bf16 would round it.
    """

    def __init__(self, width: int, eps: float, affine: bool, offset: bool = False) -> None:
        super().__init__()
        self.width, self.eps, self.offset = width, eps, offset
        start = torch.zeros(width) if offset else torch.ones(width)
        self.weight = nn.Parameter(start) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        weight = self.scale()
        if slicing_pays(x):
            return sliced_rms_norm(x, weight, self.eps)
        if self.offset and weight is not None:
            exact = x.to(torch.promote_types(x.dtype, weight.dtype))
            return F.rms_norm(exact, (self.width,), weight.to(exact.dtype), self.eps).to(x.dtype)
        weight = None if weight is None else weight.to(x.dtype)
        return F.rms_norm(x, (self.width,), weight, self.eps)

    def scale(self) -> Tensor | None:
        """What normalised values are multiplied by, (D,); None: nothing."""
        if self.weight is None or not self.offset:
            return self.weight
        return 1 + self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))


def build_norm(config: ModelConfig, width: int) -> LayerNorm | RMSNorm:
    """The config's norm over vectors of `width`."""
    if config.norm == "layernorm":
        return LayerNorm(width, config.norm_eps, config.norm_affine, config.norm_bias)
    return build_rms_norm(config, width)


def build_rms_norm(config: ModelConfig, width: int) -> RMSNorm:
    """An RMSNorm over vectors of `width`, whatever the config's kind of norm: queries and keys
    have this one."""
    return RMSNorm(width, config.norm_eps, config.norm_affine, config.norm_offset)
