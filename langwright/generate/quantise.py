"""Weights as small whole numbers: the quantiser, and what stored numbers mean.

A matrix is cut into groups of neighbouring columns. In a group

    w[n, k] = (codes[n, k] - middle) * scale[n, group of k] + zero[n, group of k]

with codes of 4 or 8 bits and the middle 8 or 128. Only weights are quantised, activations are not:
an 8-bit activation with one scale for the whole tensor changes which tokens are likely.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 32  # columns that share a scale, as in GGUF's blocks
ROWS_AT_ONCE = 1 << 22  # numbers worked on at a time: the temporaries stay small
SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8)  # ranges tried, as shares of a group's own


@dataclass(frozen=True)
class Grouped:
    """A quantised matrix (N, K); see the module's text.

    Attributes:
        codes: (N, K) uint8.
        scale, zero: (N, K / group) fp32.
        bits: 4 or 8.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    bits: int

    @property
    def middle(self) -> int:
        """The code that stands for `zero`."""
        return 1 << (self.bits - 1)

    @property
    def group(self) -> int:
        """Columns that share a scale."""
        return self.codes.shape[1] // self.scale.shape[1]

    def dense(self) -> Tensor:
        """The numbers that the codes stand for: (N, K) fp32."""
        codes = self.codes.unflatten(1, (-1, self.group)).float() - self.middle  # (N, G, group)
        return (codes * self.scale[..., None] + self.zero[..., None]).flatten(1)

    @property
    def stored_bits(self) -> float:
        """Bits a weight: its code, and its share of two 16-bit numbers (one where zero is 0)."""
        factors = 2 if self.bits == 4 else 1
        return self.bits + 16 * factors / self.group


def quantise_int4(weight: Tensor, group: int = GROUP) -> Grouped:
    """The nearest 4-bit form of weight (N, K) that a few ranges give: K divides into groups.

    Each group's range is tried whole and shrunk (a far value is cut so that the others lie closer);
    scale and zero are then mended by least squares, which has a closed form for fixed codes. The
    trial with the least squared error stays.
    """
    columns = weight.shape[1]
    if columns % group:
        raise ValueError(f"{columns} columns in groups of {group}")
    step = max(1, ROWS_AT_ONCE // columns)
    parts = [_int4_rows(part, group) for part in weight.detach().split(step)]
    codes, scale, zero = (torch.cat(one) for one in zip(*parts, strict=True))
    return Grouped(codes, scale, zero, 4)


def _int4_rows(weight: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    x = weight.float().unflatten(1, (-1, group))  # (N, G, group)
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    centre, half = (low + high) / 2, (high - low) / 2
    best = torch.full_like(low, float("inf"))
    kept = torch.zeros_like(x), torch.zeros_like(low), torch.zeros_like(low)
    for shrink in SHRINKS:
        begin = centre - half * shrink
        codes = ((x - begin) * _inverse(2 * half * shrink / 15)).round().clamp(0, 15)
        scale, begin = _least_squares(x, codes)
        error = (x - codes * scale - begin).square().sum(-1, keepdim=True)
        better = error < best
        best = torch.where(better, error, best)
        new = codes, scale, begin
        kept = tuple(torch.where(better, a, b) for a, b in zip(new, kept, strict=True))  # type: ignore[assignment]
    codes, scale, begin = kept
    return codes.to(torch.uint8).flatten(1), scale[..., 0], (begin + 8 * scale)[..., 0]


def _least_squares(x: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """The scale and begin (N, G, 1) with the least squared error for these codes."""
    mean_x, mean_c = x.mean(-1, keepdim=True), codes.mean(-1, keepdim=True)
    spread = (codes - mean_c).square().sum(-1, keepdim=True)
    slope = ((codes - mean_c) * (x - mean_x)).sum(-1, keepdim=True) * _inverse(spread)
    return slope, mean_x - slope * mean_c  # where all codes are equal the slope is 0


def _inverse(x: Tensor) -> Tensor:
    """1 / x, and 0 where x is 0."""
    return torch.where(x == 0, 0.0, 1 / torch.where(x == 0, 1.0, x))


def quantise_int8(weight: Tensor) -> Grouped:
    """8-bit codes of weight (N, K), one scale for each row, none for zero (symmetric).

    The error of a weight is at most 1/254 of the largest of its row.
    """
    rows = []
    for x in weight.detach().split(max(1, ROWS_AT_ONCE // weight.shape[1])):
        x = x.float()
        scale = x.abs().amax(-1, keepdim=True) / 127  # (N, 1)
        codes = (x * _inverse(scale)).round().clamp(-127, 127) + 128
        rows.append((codes.to(torch.uint8), scale))
    codes, scale = (torch.cat(one) for one in zip(*rows, strict=True))
    return Grouped(codes, scale, torch.zeros_like(scale), 8)


def quantise(weight: Tensor, to: str) -> Grouped:
    """`weight` as "int4" or "int8"."""
    return quantise_int4(weight) if to == "int4" else quantise_int8(weight)
