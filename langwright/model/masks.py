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


def document_mask(segments: Tensor, first: int = 0) -> Tensor:
    """Several documents in one row must not see one another: (B, S) -> (B, 1, T, S) bool, for the
    T = S - first queries from `first` on.

    `segments` numbers each token's document within its row. Padding (-1) sees earlier padding, so
    that no row of the softmax is empty.
    """
    same = segments[:, first:, None] == segments[:, None, :]  # (B, T, S)
    return (same & causal_mask(same.shape[1], same.shape[2], segments.device))[:, None]
