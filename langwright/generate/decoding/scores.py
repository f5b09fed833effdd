"""Log-probabilities of a given text (echo of a prompt, `lm-eval`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from langwright.base import UserError
from langwright.generate.decoding.logprobs import TokenLogprobs, token_logprobs
from langwright.generate.modes import evaluating
from langwright.model import Transformer

CHUNK = 128  # places whose logits (places, V) stand in memory at a time


def score_tokens(
    model: Transformer, ids: Sequence[int], top: int = 0
) -> list[TokenLogprobs | None]:
    """The model's log-probability of each token given those before it; None for the first.

    Args:
        model: any mode.
        ids: 1 ... context_length tokens.
        top: how many of the likeliest tokens to give at each place.
    """
    context = model.config.context_length
    if not 1 <= len(ids) <= context:
        raise UserError(
            "a text to score is empty or longer than the model's context",
            found=f"{len(ids)} tokens",
            expected=f"1 ... {context}",
        )
    device = next(model.parameters()).device
    tokens = torch.tensor(list(ids), device=device)  # (T,)
    found: list[TokenLogprobs | None] = [None]
    with evaluating(model):
        hidden = model.hidden(tokens[None])[0]  # (T, D)
        for start in range(0, len(ids) - 1, CHUNK):
            targets = tokens[start + 1 : start + 1 + CHUNK]
            logits = model.logits(hidden[start : start + len(targets)])  # (places, V)
            found += token_logprobs(logits.float(), targets, [top] * len(targets))
    return found
