"""What the lower half of the model wrote for its own use is taken out of the result again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BACKOUT_START = 0.2


class Backout(nn.Module):
    """x <- x - scale x_half before the final norm, x_half the stream behind block number L // 2,
    counted from 0 (Karpathy 2026, nanochat's gpt.py; modded-nanogpt 2025); of two blocks the first,
    since the last one's result would only be made shorter, which the norm undoes."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layer = max(0, min(layers // 2, layers - 2))
        self.scale = nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor, half: Tensor) -> Tensor:
        """Both (B, T, D) -> (B, T, D)."""
        return x - self.scale.to(x.dtype) * half
