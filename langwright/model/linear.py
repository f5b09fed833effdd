"""The one matrix product of the model: fp32 weights, activations in whatever dtype arrives."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """``y = x W^T + b`` computed in the dtype of `x`.

    Weights are fp32 masters: the optimizer's small steps would vanish in bf16 (8 bits of mantissa).
    They are cast at use, which costs one pass over the weights per forward; where they are stored
    in the activations' dtype already (inference), the cast does nothing.
    """

    def reset_parameters(self) -> None:
        """Leave the memory as it is: `initialise` fills every parameter from (seed, its name)."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class Embedding(nn.Module):
    """A table of vectors: row `id` of (V, D), the same as a one-hot vector times the matrix."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))

    def forward(self, ids: Tensor) -> Tensor:
        """(...) int64 -> (..., D) in the table's dtype."""
        return F.embedding(ids, self.weight)
