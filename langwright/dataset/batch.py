"""What a training step is given: a rectangle of token ids and what to predict at each place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import torch

IGNORE = -100  # a target that is not counted (the convention of torch's cross entropy)
PADDING = -1  # the segment of a place that holds no text


@dataclass
class RowArrays:
    """N rows as numpy arrays: what every kind of rows produces before it becomes a `Batch`.

    `inputs`, `targets`: int64 (N, T). `segments`: int32 (N, T) and `positions`: int64 (N, T),
    or both None where a row is one run of text.
    """

    inputs: np.ndarray
    targets: np.ndarray
    segments: np.ndarray | None = None
    positions: np.ndarray | None = None

    def items(self) -> Iterator[tuple[str, np.ndarray]]:
        """(name, array) of the arrays that are there."""
        for name in ("inputs", "targets", "segments", "positions"):
            if (array := getattr(self, name)) is not None:
                yield name, array


@dataclass
class Batch:
    """B rows of T tokens.

    Attributes:
        inputs: int64 (B, T), token ids.
        targets: int64 (B, T), the token that follows each input; -100 is not counted.
        segments: int32 (B, T), number of the document within the row, -1 for padding; a token
            may attend to its own segment only. None: the row is one segment.
        positions: int64 (B, T), position inside the document. None: 0 to T-1.
        tokens: how many targets are counted; found from `targets` unless given.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    segments: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    tokens: int = -1

    def __post_init__(self) -> None:
        if self.tokens < 0:
            self.tokens = int((self.targets != IGNORE).sum())

    @classmethod
    def from_arrays(cls, arrays: RowArrays) -> Batch:
        """The same values as torch tensors (memory is shared, nothing is copied)."""
        tensors: dict[str, Any] = {name: torch.from_numpy(a) for name, a in arrays.items()}
        return cls(**tensors)

    @property
    def rows(self) -> int:
        """B, the number of rows."""
        return self.inputs.shape[0]

    def to(self, device: str | torch.device, *, non_blocking: bool = False) -> Batch:
        """The batch on `device`; `non_blocking` overlaps the copy if the batch is pinned."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking), self.tokens)

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, from where a GPU copies without waiting."""
        return self._each(torch.Tensor.pin_memory, self.tokens)

    def split(self, micro_rows: int) -> list[Batch]:
        """The batch as micro-batches of at most `micro_rows` rows, in order."""
        if micro_rows < 1:
            raise ValueError(f"micro_rows must be at least 1, not {micro_rows}")
        spans = [slice(at, at + micro_rows) for at in range(0, self.rows, micro_rows)]
        return [self._each(itemgetter(span)) for span in spans]

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor], tokens: int = -1) -> Batch:
        return Batch(
            change(self.inputs),
            change(self.targets),
            None if self.segments is None else change(self.segments),
            None if self.positions is None else change(self.positions),
            tokens,
        )
