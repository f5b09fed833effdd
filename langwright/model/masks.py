"""Who may see whom."""

from __future__ import annotations

import torch
from torch import Tensor


def causal_mask(
    t: int, s: int, device: torch.device | str = "cpu", window: int | None = None
) -> Tensor:
    """(T, S) bool: the last T of S tokens may see themselves and everything before, or the last
    `window` tokens, the own included."""
    mask = torch.ones(t, s, dtype=torch.bool, device=device).tril(s - t)
    return mask if window is None else mask.triu(s - t - window + 1)


def document_mask(segments: Tensor) -> Tensor:
    """Several documents in one row must not see one another: (B, T) -> (B, 1, T, T) bool.

    `segments` numbers each token's document within its row. Padding (-1) sees earlier padding, so
    that no row of the softmax is empty.
    """
    same = segments[:, :, None] == segments[:, None, :]  # (B, T, T)
    return (same & causal_mask(segments.shape[1], segments.shape[1], segments.device))[:, None]
