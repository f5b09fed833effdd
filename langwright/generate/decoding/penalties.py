"""Penalties on tokens that came before."""

from __future__ import annotations

import torch
from torch import Tensor


def apply_repetition_penalty(logits: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """Divide the positive logits of tokens in the text by `penalty`, multiply the negative ones.

    Args:
        logits: (B, V).
        seen: (B, V) bool, True for tokens in the prompt or the output so far.
        penalty: (B,); above 1 discourages repetition.

    Source: CTRL (Keskar et al. 2019, section 4.1), with the sign rule that became common.
    """
    factor = penalty[:, None]
    return torch.where(seen, torch.where(logits > 0, logits / factor, logits * factor), logits)


def apply_count_penalties(
    logits: Tensor, counts: Tensor, presence: Tensor, frequency: Tensor
) -> Tensor:
    """Logits minus presence [count > 0] minus frequency times count.

    Args:
        logits: (B, V).
        counts: (B, V) how often each token came in the answer (the prompt does not count).
        presence, frequency: (B,) in logits.

    Source: the OpenAI API, "frequency and presence penalties".
    """
    once = (counts > 0).to(logits.dtype) * presence[:, None]
    return logits - once - counts.to(logits.dtype) * frequency[:, None]
