"""The ids that a cache stands for, where they may be needed again.

Some rotary scalings (ntk, longrope) turn all tokens of a text by its length. When a text outgrows
a border, keys, and through the layers above everything computed from them, are out of date: the
text is read again from its ids. longrope has one border; under ntk every token beyond the original
context is one, which makes long texts slow, and exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from langwright.model.config import RotaryScaling
from langwright.model.rotary_scaling import table_number


class History:
    """Ids (B, capacity) on the CPU, and by which angles each row was last turned."""

    def __init__(self, scaling: RotaryScaling, context: int, batch: int, capacity: int) -> None:
        self.scaling, self.context = scaling, context
        self.ids = torch.zeros(batch, capacity, dtype=torch.int64)
        self.tables = [0] * batch

    def outdated(self, held: Sequence[int], lengths: Sequence[int]) -> bool:
        """Whether a row of `held` tokens turns otherwise in a text of the new length."""
        return any(
            count > 0 and self.table(length) != table
            for count, length, table in zip(held, lengths, self.tables, strict=True)
        )

    def write(self, ids: Tensor, held: Sequence[int], lengths: Sequence[int]) -> None:
        """Put ids (B, T) behind the held ones of each row, turned as texts of these lengths."""
        for row, start in enumerate(held):
            self.ids[row, start : start + ids.shape[1]] = ids[row]
        self.tables = [self.table(length) for length in lengths]

    def table(self, length: int) -> int:
        """See `table_number`."""
        return table_number(self.scaling, self.context, length)

    def select(self, rows: list[int]) -> None:
        """Keep these rows, in this order."""
        self.ids, self.tables = self.ids[rows], [self.tables[row] for row in rows]
