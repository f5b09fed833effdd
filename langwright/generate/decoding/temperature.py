"""Temperature: sharper below 1, flatter above."""

from __future__ import annotations

import torch
from torch import Tensor


def apply_temperature(logits: Tensor, temperature: Tensor) -> Tensor:
    """Logits (B, V) divided by temperature (B,); rows at or below 0 (greedy) stay as they are."""
    divisor = torch.where(temperature > 0, temperature, torch.ones_like(temperature))
    return logits / divisor[:, None]
