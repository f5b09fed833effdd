"""Rows: an endless, numbered list of training examples of equal length.

Row number `index` is a pure function of (data, seed, index). A global batch of R rows that begins
after `c` tokens is therefore ``rows.batch(c // T, R)``, whoever reads it and in whatever pieces.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from langwright.dataset.batch import Batch, RowArrays


class Rows(ABC):
    """An endless list of rows of `sequence_length` tokens.

    Attributes:
        sequence_length: T, the tokens in a row.
        epoch_rows: rows in one pass over the data; None where a pass has no meaning.
        fingerprint: hash of everything a row depends on besides its index.
    """

    sequence_length: int
    epoch_rows: int | None
    fingerprint: str

    @abstractmethod
    def gather(self, indices: np.ndarray) -> RowArrays:
        """The rows with these numbers, int64 (N,), in this order."""

    def row(self, index: int) -> dict[str, np.ndarray]:
        """One row: ``inputs`` and ``targets`` (T,), and ``segments``, ``positions`` if masked."""
        arrays = self.gather(np.array([index], dtype=np.int64))
        return {name: array[0] for name, array in arrays.items()}

    def batch(self, start: int, count: int) -> Batch:
        """Rows start to start+count-1 as one batch (B = count)."""
        return Batch.from_arrays(self.gather(np.arange(start, start + count, dtype=np.int64)))
