"""Locally typical sampling: tokens whose surprise is near the expected one."""

from __future__ import annotations

import torch
from torch import Tensor

from langwright.generate.decoding.top_p import FIRST_LOOK


def typical_mask(logits: Tensor, mass: Tensor) -> Tensor:
    """Keep the tokens whose surprise -log p lies nearest to the entropy, until they hold `mass`.

    The token that crosses the mass is kept, and so is any with just the same distance.

    Args:
        logits: (B, V).
        mass: (B,); rows at 1 stay whole.

    Source: Meister et al. 2023, "Locally typical sampling", section 4.
    """
    active = mass < 1
    if not bool(active.any()):
        return logits
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    entropy = -torch.where(p > 0, p * log_p, 0.0).sum(-1, keepdim=True)  # (B, 1) nats
    distance = (-log_p - entropy).abs()  # (B, V); infinite for tokens already dropped
    vocab = logits.shape[-1]
    look = min(FIRST_LOOK, vocab)
    while True:
        nearest, order = distance.topk(look, dim=-1, largest=False)  # (B, look), ascending
        reached = p.gather(-1, order).cumsum(-1) < mass[:, None]
        if look == vocab or bool((~reached[:, -1] | ~active).all()):
            break
        look = min(8 * look, vocab)
    last = reached.sum(-1, keepdim=True).clamp(max=look - 1)
    drop = (distance > nearest.gather(-1, last)) & active[:, None]
    return logits.masked_fill(drop, -torch.inf)
