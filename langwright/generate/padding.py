"""Rows of different length as one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def padded_ids(rows: Sequence[Sequence[int]]) -> Tensor:
    """Token ids (B, T) int64 of rows of at least one token, each padded behind by its own last.

    A pad's keys and values may be read under a mask, where 0 * NaN is NaN: so it must not be a
    token that the row has not, whose vector may hold no numbers.
    """
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows])
