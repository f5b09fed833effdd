"""From a distribution to a token, by a number that depends on (seed, position) only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from langwright.base import seed_for

BLOCK = 64  # tokens whose probabilities are summed before the row is searched


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse-CDF draw: the first token whose cumulative probability exceeds the row's uniform.

    A row's draw depends on its own probabilities and uniform only, so it is the same alone and in
    a batch.

    Args:
        probabilities: (B, V), rows need not sum to exactly 1.
        uniforms: (B,) in [0, 1).
    """
    vocab = probabilities.shape[-1]
    wide = torch.float32 if probabilities.device.type == "mps" else torch.float64
    # Sums of blocks first: a cumulative sum over the whole row would need B x V wide numbers.
    blocks = F.pad(probabilities, (0, -vocab % BLOCK)).unflatten(-1, (-1, BLOCK))  # (B, N, BLOCK)
    ends = blocks.sum(-1, dtype=wide).cumsum(-1)  # (B, N)
    target = uniforms.to(wide).to(ends.device)[:, None] * ends[:, -1:]  # (B, 1)
    block = _place(ends, target)
    begins = torch.where(block > 0, ends.gather(-1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks[torch.arange(len(blocks), device=ends.device), block[:, 0]].to(wide).cumsum(-1)
    token = block * BLOCK + _place(inside, target - begins)  # (B, 1)
    # NaN (a model that diverged) gives some token rather than an index outside the vocabulary.
    return token[:, 0].clamp(max=vocab - 1)


def _place(cumulative: Tensor, target: Tensor) -> Tensor:
    """The first place (B, 1) of cumulative (B, N) above target (B, 1).

    Rounding may put the target at the total itself: then the last place that adds anything.
    """
    total = cumulative[:, -1:].contiguous()
    found = torch.searchsorted(cumulative, target.contiguous(), right=True)
    last = torch.searchsorted(cumulative, total).clamp(max=cumulative.shape[-1] - 1)
    return torch.minimum(found, last)


def uniform_for(seed: int, position: int, use: str = "draw") -> float:
    """The number in [0, 1) that draws the output token at `position` of a text with this seed.

    `use` gives independent numbers for other decisions at the same position.
    """
    return (seed_for(seed, use, position) >> 10) / 2.0**53  # 63 random bits, 53 kept


def row_seeds(seeds: Sequence[int], prompts: Sequence[Sequence[int]]) -> list[int]:
    """One seed per prompt, from (its request's seed, prompt, how often that pair came before).

    So a prompt draws the same text alone and in a batch, and equal prompts draw different ones.
    """
    times: dict[tuple[int, ...], int] = {}
    rows = []
    for seed, prompt in zip(seeds, prompts, strict=True):
        key = (seed, *prompt)
        times[key] = times.get(key, -1) + 1
        rows.append(seed_for(seed, "row", *prompt, times[key]))
    return rows
