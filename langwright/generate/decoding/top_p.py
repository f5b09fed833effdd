"""Top-p: the nucleus that holds most of the probability."""

from __future__ import annotations

import torch
from torch import Tensor

from langwright.generate.decoding.top_k import keep_highest

FIRST_LOOK = 256  # tokens sorted at first: a nucleus is rarely larger, and sorting all is slow


def top_p_mask(logits: Tensor, p: Tensor) -> Tensor:
    """Nucleus: going down from the likeliest token, keep while the mass before it is <= p.

    The token that crosses p is therefore kept, and at least one always is. Among equals the
    lower id comes first. Rows with p >= 1 stay whole.

    Args:
        logits: (B, V).
        p: (B,).

    Source: Holtzman et al. 2020, section 3.1.
    """
    if not bool((p < 1).any()):
        return logits
    return _nucleus(logits, p, min(FIRST_LOOK, logits.shape[-1]))


def _nucleus(logits: Tensor, p: Tensor, look: int) -> Tensor:
    """As `top_p_mask`, looking at the `look` highest first; rows that need more look on."""
    vocab = logits.shape[-1]
    highest, order = logits.topk(look, dim=-1)  # (B, look), descending
    cumulative = logits.softmax(-1).gather(-1, order).cumsum(-1)
    inside = cumulative <= p[:, None]  # one more is kept: the one that crosses p
    crossing = (inside.sum(-1) + 1).clamp(max=vocab)
    count = torch.where(p < 1, crossing, torch.full_like(crossing, vocab))
    longer = inside[:, -1] & (p < 1)
    if look == vocab or not bool(longer.any()):
        return keep_highest(logits, highest, order, count)
    enough = ~longer
    kept = torch.empty_like(logits)
    kept[enough] = keep_highest(logits[enough], highest[enough], order[enough], count[enough])
    kept[longer] = _nucleus(logits[longer], p[longer], min(4 * look, vocab))
    return kept
