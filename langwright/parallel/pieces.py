"""What a process holds of a saved tensor."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """A process's part of a saved tensor."""

    tensor: Tensor  # the live one
    shape: tuple[int, ...]  # of the whole
    bounds: tuple[slice, ...]  # where it lies in the whole
    primary: bool = True  # of several processes that hold the same piece, this one writes it


def whole_piece(tensor: Tensor) -> Piece:
    """A tensor that is not cut."""
    return Piece(tensor, tuple(tensor.shape), tuple(slice(0, size) for size in tensor.shape))
