"""Log-probabilities of what was drawn, and of what might have been."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural logarithms of probabilities at one place of a text.

    `top` holds the likeliest tokens with theirs, the likeliest first; tokens that were impossible
    (after processing) are not in it.
    """

    logprob: float
    top: list[tuple[int, float]]


def token_logprobs(logits: Tensor, tokens: Tensor, top: Sequence[int]) -> list[TokenLogprobs]:
    """The log-probabilities of `tokens` and of the `top` likeliest of each row.

    Args:
        logits: (B, V); those of the model, or processed ones.
        tokens: (B,) int64.
        top: how many alternatives each row wants, B numbers.
    """
    logprobs = logits.log_softmax(-1)
    chosen = logprobs.gather(-1, tokens[:, None])[:, 0].tolist()
    most = min(max(top, default=0), logits.shape[-1])
    highest, ids = logprobs.topk(most, dim=-1)  # (B, most)
    pairs = zip(ids.tolist(), highest.tolist(), strict=True)
    return [
        TokenLogprobs(
            value,
            [(id, one) for id, one in zip(*pair, strict=True) if one != -torch.inf][:wanted],
        )
        for value, pair, wanted in zip(chosen, pairs, top, strict=True)
    ]
