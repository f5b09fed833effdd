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
    arXiv:1910.07467)."""

    def __init__(self, width: int, eps: float, affine: bool) -> None:
        super().__init__()
        self.width, self.eps = width, eps
        self.weight = nn.Parameter(torch.ones(width)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        if slicing_pays(x):
            return sliced_rms_norm(x, self.weight, self.eps)
        weight = None if self.weight is None else self.weight.to(x.dtype)
        return F.rms_norm(x, (self.width,), weight, self.eps)


def build_norm(config: ModelConfig, width: int) -> LayerNorm | RMSNorm:
    """The config's norm over vectors of `width`."""
    if config.norm == "layernorm":
        return LayerNorm(width, config.norm_eps, config.norm_affine, config.norm_bias)
    return RMSNorm(width, config.norm_eps, config.norm_affine)
