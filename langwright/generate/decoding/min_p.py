"""Min-p: a floor that follows the likeliest token."""

from __future__ import annotations

import torch
from torch import Tensor


def min_p_mask(logits: Tensor, share: Tensor) -> Tensor:
    """Drop the tokens whose probability is below `share` (B,) times the likeliest one's.

    Source: Nguyen et al. 2024, "Turning up the heat: min-p sampling".
    """
    if not bool((share > 0).any()):
        return logits
    floor = logits.amax(-1, keepdim=True) + share[:, None].log()  # log 0 = -inf: keeps all
    return logits.masked_fill(logits < floor, -torch.inf)
