"""Two factors at the door of every block: how much of the stream goes in, and how much of the
first vectors (those of the embedding) comes back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Of the first and of the last block, in a line between them: where nanochat starts them (Karpathy
# 2026), whose rates we take too; 1 and 0, the plain stream, we have not compared. Late blocks get
# less of the tokens, since the stream they read has been made for the head by then.
STREAM_START = (1.15, 1.05)
SKIP_START = (0.20, 0.05)


class ResidualScalars(nn.Module):
    """x <- stream x + skip x0, before a block; x0 is what the first block was given (Karpathy 2026,
    nanochat's gpt.py, after modded-nanogpt's U-net skips of 2024)."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = nn.Parameter(torch.empty(1))
        self.skip = nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor, first: Tensor) -> Tensor:
        """x and first (B, T, D) -> (B, T, D)."""
        return x * self.stream.to(x.dtype) + first * self.skip.to(x.dtype)
