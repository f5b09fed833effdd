"""Top-k: only the k likeliest tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def top_k_mask(logits: Tensor, k: Tensor) -> Tensor:
    """Keep exactly k tokens per row, the others become -inf; among equals the lower id stays.

    Args:
        logits: (B, V).
        k: (B,) int64; 0, or V and above, keeps the row whole.

    Source: Fan et al. 2018, "Hierarchical neural story generation", section 5.4.
    """
    vocab = logits.shape[-1]
    active = (k > 0) & (k < vocab)
    if not bool(active.any()):
        return logits
    most = int(torch.where(active, k, torch.zeros_like(k)).max())
    highest, order = logits.topk(min(most + 1, vocab), dim=-1)  # (B, most + 1), descending
    return keep_highest(logits, highest, order, torch.where(active, k, torch.full_like(k, vocab)))


def keep_highest(logits: Tensor, highest: Tensor, order: Tensor, count: Tensor) -> Tensor:
    """Keep `count` (B,) tokens of each row, the lower ids among equals; the others become -inf.

    Args:
        logits: (B, V).
        highest, order: (B, M) the M highest logits of each row, descending, and their ids.
        count: (B,) int64, each 1 ... M, or V to keep the row whole.
    """
    vocab, looked = logits.shape[-1], highest.shape[-1]
    whole = (count >= vocab)[:, None]
    last = highest.gather(-1, (count.clamp(max=looked) - 1)[:, None])  # (B, 1) the last one kept
    following = highest.gather(-1, count.clamp(max=looked - 1)[:, None])  # (B, 1) the first not
    certain = (following < last) & (count < looked)[:, None]
    if bool((certain | whole).all()):  # no equals at the border: a few places are written
        ranks = torch.arange(looked, device=logits.device)
        kept = highest.masked_fill(ranks >= count[:, None], -torch.inf)
        some = torch.full_like(logits, -torch.inf).scatter_(-1, order, kept)
        return torch.where(whole, logits, some) if bool(whole.any()) else some
    above = logits > last
    tied = logits == last
    room = count[:, None] - above.sum(-1, keepdim=True)
    keep = above | (tied & (tied.cumsum(-1) <= room)) | whole
    return logits.masked_fill(~keep, -torch.inf)
