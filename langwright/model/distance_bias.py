"""Positions as a bias on attention's scores, by how far apart query and key stand."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def alibi_slopes(heads: int) -> list[float]:
    """ALiBi's slope of each head (Press et al. 2022, arXiv:2108.12409, section 3 and its code).

    For H a power of two: 2^(-8/H), 2^(-16/H), ..., 2^-8. Else those of the power of two below,
    then every other one of the power of two above.
    """
    power = 1 << (heads.bit_length() - 1)  # the largest power of two up to H
    slopes = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    return slopes + [2.0 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)]


def alibi(distances: Tensor, heads: int) -> Tensor:
    """distances (B or 1, T, S), query's place minus key's -> bias (B or 1, H, T, S) fp32."""
    slopes = torch.tensor(alibi_slopes(heads), device=distances.device)  # (H,)
    return -slopes[:, None, None] * distances[:, None]


def relative_buckets(distances: Tensor, buckets: int, most: int) -> Tensor:
    """The bucket, 0 ... buckets - 1, of each distance (int64, any shape).

    Half of the buckets are for the distances 0, 1, 2, ...; the others grow with the logarithm up
    to `most`, from where on all share the last (Raffel et al. 2020, T5, arXiv:1910.10683, section
    2.1 and its code, the one-directional form). Keys after the query count as distance 0.
    """
    distances = distances.clamp(min=0)
    exact = buckets // 2
    steps = torch.log(distances.float() / exact) / math.log(most / exact) * (buckets - exact)
    far = (exact + steps.clamp(min=0).long()).clamp(max=buckets - 1)
    return torch.where(distances < exact, distances, far)
