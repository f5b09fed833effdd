"""The numeric settings of a batch, and the filters they drive, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from langwright.generate.decoding.min_p import min_p_mask
from langwright.generate.decoding.penalties import apply_repetition_penalty
from langwright.generate.decoding.temperature import apply_temperature
from langwright.generate.decoding.top_k import top_k_mask
from langwright.generate.decoding.top_p import top_p_mask
from langwright.generate.decoding.typical import typical_mask
from langwright.generate.params import SamplingParams


@dataclass
class SamplingRows:
    """The settings of a batch, one value per row: tensors (B,)."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    typical_p: Tensor
    repetition_penalty: Tensor
    presence_penalty: Tensor
    frequency_penalty: Tensor

    @classmethod
    def of(cls, rows: Sequence[SamplingParams], device: torch.device | str = "cpu") -> SamplingRows:
        """Stack the settings of several requests."""

        def column(name: str, dtype: torch.dtype) -> Tensor:
            return torch.tensor([getattr(row, name) for row in rows], dtype=dtype, device=device)

        numbers = [name for name in cls.__dataclass_fields__ if name != "top_k"]
        columns = {name: column(name, torch.float32) for name in numbers}
        return cls(top_k=column("top_k", torch.int64), **columns)

    def select(self, rows: Tensor | slice) -> SamplingRows:
        """The settings of some rows (int64 indices, or a slice)."""
        return SamplingRows(**{name: value[rows] for name, value in vars(self).items()})

    def penalised(self) -> bool:
        """Whether any row has a repetition penalty."""
        return bool((self.repetition_penalty != 1).any())


def filter_logits(logits: Tensor, rows: SamplingRows) -> Tensor:
    """Temperature, top-k, top-p, min-p, typical: logits (B, V) -> (B, V), dropped tokens -inf."""
    logits = apply_temperature(logits, rows.temperature)
    logits = top_k_mask(logits, rows.top_k)
    logits = top_p_mask(logits, rows.top_p)
    logits = min_p_mask(logits, rows.min_p)
    return typical_mask(logits, rows.typical_p)


def process_logits(logits: Tensor, rows: SamplingRows, seen: Tensor | None = None) -> Tensor:
    """Repetition penalty and all filters; softmax of the result is the distribution drawn from.

    Args:
        logits: (B, V).
        rows: the settings, (B,) each.
        seen: (B, V) bool for the repetition penalty, or None if no row has one.
    """
    if seen is not None:
        logits = apply_repetition_penalty(logits, seen, rows.repetition_penalty)
    return filter_logits(logits, rows)
