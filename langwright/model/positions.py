"""How a token's place enters the model.

Two ways add a vector per position to the token's: learned (a table, see `Transformer`) and
sinusoidal. Rotary instead turns queries and keys inside attention, so that their dot product
depends only on how far apart two tokens are. The ways that add to attention's scores are in
distance_bias.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from langwright.model.config import RotaryScaling
from langwright.model.rotary_scaling import frequencies, magnitude


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Fixed position vectors: positions (..., T) -> (..., T, D) fp32.

    PE(p, 2i) = sin(p / 10000^(2i/D)), PE(p, 2i+1) = cos(same)
    (Vaswani et al. 2017, arXiv:1706.03762, section 3.5).
    """
    turns = frequencies(width, 10_000.0, device=positions.device)  # (D/2,)
    angles = positions[..., None].float() * turns  # (..., T, D/2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)  # (..., T, D)


def rotary_tables(
    positions: Tensor,
    width: int,
    base: float,
    scaling: RotaryScaling | None = None,
    context: int = 0,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every pair's angle at every position.

    positions (T,) or (B, T) -> two fp32 tensors (T, P) or (B, 1, T, P), P = width / 2 pairs; the 1
    stands for the heads, which all turn alike.
    Pair i turns by p * base^(-2i/width) (Su et al. 2021, arXiv:2104.09864, eq. 15).

    Args:
        positions: places of the tokens.
        width: width of the part of each head that turns.
        base, scaling, context: see `frequencies`.
        lengths: for scalings that look at it, the length of the text that each token belongs to,
            of the shape of `positions` or one that broadcasts to it.
    """
    turns = frequencies(width, base, scaling, context, lengths, positions.device)
    angles = positions[..., None].float() * turns  # (..., T, P)
    if angles.dim() == 3:
        angles = angles[:, None]  # (B, 1, T, P)
    stretch = magnitude(scaling, context)
    return angles.cos() * stretch, angles.sin() * stretch


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Turn each pair of `x` (B, H, T, h) by its angle; the tables are (T, P) or (B, 1, T, P).

    The first 2P of the h values turn, the others stay. Pair i is (x[i], x[i + P]), the layout of
    GPT-NeoX, Llama and Qwen checkpoints on the Hugging Face hub; `interleaved`: (x[2i], x[2i+1]),
    as in the paper, the same up to an order of the columns.
    """
    width = 2 * cos.shape[-1]
    if width < x.shape[-1]:
        turned = rotate(x[..., :width], cos, sin, interleaved)
        return torch.cat((turned, x[..., width:]), dim=-1)
    if interleaved:
        first, second = x[..., 0::2], x[..., 1::2]  # (B, H, T, P) each
        pairs = (first * cos - second * sin, second * cos + first * sin)
        return torch.stack(pairs, dim=-1).flatten(-2)
    first, second = x.chunk(2, dim=-1)  # (B, H, T, P) each
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
