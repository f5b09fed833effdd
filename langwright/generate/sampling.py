"""One step of sampling on plain tensors: the parts of `decoding` that need no memory of a row."""

from __future__ import annotations

import torch
from torch import Tensor

from langwright.generate.decoding.draw import draw
from langwright.generate.decoding.penalties import apply_repetition_penalty
from langwright.generate.decoding.settings import SamplingRows, filter_logits
from langwright.generate.params import SamplingParams

Sampling = SamplingParams  # the name in short


def sample(
    logits: Tensor, rows: SamplingRows, uniforms: Tensor, seen: Tensor | None = None
) -> Tensor:
    """The next token of each row: int64 (B,).

    Args:
        logits: (B, V).
        rows: the settings, (B,) each; temperature 0 takes the highest logit (after the penalty).
        uniforms: (B,) numbers in [0, 1), see `uniform_for`.
        seen: (B, V) bool for the repetition penalty, or None if no row has one.
    """
    if seen is not None:
        logits = apply_repetition_penalty(logits, seen, rows.repetition_penalty)
    greedy = rows.temperature <= 0
    if bool(greedy.all()):
        return logits.argmax(-1)
    drawn = draw(filter_logits(logits, rows).softmax(-1), uniforms)
    return torch.where(greedy, logits.argmax(-1), drawn)
