"""Each token's vector takes in some of the one before it: pairs of tokens without attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from langwright.model.config import SMEAR_CHANNELS, ModelConfig
from langwright.model.linear import Linear


class Smear(nn.Module):
    """x_t <- x_t + scale sigmoid(w . x_t[:24]) x_{t-1} on the embeddings, never from one document
    to the next (Karpathy 2026, nanochat's gpt.py; modded-nanogpt 2025). The scale starts at 0."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.channels = min(SMEAR_CHANNELS, config.width)
        self.gate = Linear(self.channels, 1, bias=False)
        self.scale = nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        """x (B, T, D), document numbers (B, T) -> (B, T, D); a row's first token stays."""
        weights = self.scale.to(x.dtype) * self.gate(x[..., : self.channels]).sigmoid()  # (B, T, 1)
        if segments is not None:
            same = F.pad(segments[:, 1:] == segments[:, :-1], (1, 0))  # (B, T)
            weights = weights * same[..., None]
        return x + weights * F.pad(x[:, :-1], (0, 0, 1, 0))
