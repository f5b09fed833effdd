"""How a token's place enters the model.

Two ways add a vector per position to the token's: learned (a table, see `Transformer`) and
sinusoidal. Rotary instead turns queries and keys inside attention, so that their dot product
depends only on how far apart two tokens are.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Fixed position vectors: positions (..., T) -> (..., T, D) fp32.

    PE(p, 2i) = sin(p / 10000^(2i/D)), PE(p, 2i+1) = cos(same)
    (Vaswani et al. 2017, arXiv:1706.03762, section 3.5).
    """
    angles = _angles(positions, width, 10_000.0)  # (..., T, D/2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)  # (..., T, D)


def rotary_tables(positions: Tensor, head_width: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every pair's angle at every position.

    positions (T,) or (B, T) -> two fp32 tensors (T, h/2) or (B, 1, T, h/2), h = head_width; the 1
    stands for the heads, which all turn alike.
    Pair i turns by p * base^(-2i/h) (Su et al. 2021, arXiv:2104.09864, eq. 15).
    """
    angles = _angles(positions, head_width, base)
    if positions.dim() == 2:
        angles = angles[:, None]  # (B, 1, T, h/2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of `x` (B, H, T, h) by its angle; the tables are (T, h/2) or (B, 1, T, h/2).

    Pair i is (x[i], x[i + h/2]), the layout of GPT-NeoX, Llama and Qwen checkpoints on the Hugging
    Face hub; the paper pairs neighbours (x[2i], x[2i+1]), the same up to an order of the columns.
    """
    first, second = x.chunk(2, dim=-1)  # (B, H, T, h/2) each
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _angles(positions: Tensor, width: int, base: float) -> Tensor:
    """p * base^(-2i/width) in fp32: (..., T) -> (..., T, width/2)."""
    exponents = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
    return positions[..., None].float() * (1.0 / base**exponents)
